"""Laws of the embedding store: a text is encoded once, as diffusers encodes it; nothing is mixed, cut or unpickled silently."""

import gc
import os
import pickle
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest
import torch

from expkit.errors import UserError
from expkit.storage import repository_files, weights_io
from expkit.text import embedding_store, encoders
from expkit.text.embedding_store import Embedding, Entry, Provenance, Store, import_embeddings
from expkit.text.encoders import T5, CLIPText
from expkit.text.prompt_embeddings import Embeddings
from tests.tiny import tiny_clip_text, tiny_t5

COURSE = (
    "an oil painting of a snowy mountain village", "a photo of the amalfi cost", "a photo of a man", "a photo of a hipster barista",
    "a photo of a dog", "an oil painting of people around a campfire", "an oil painting of an old man", "a lithograph of waterfalls",
    "a lithograph of a skull", "a man wearing a hat", "a high quality photo", "", "a rocket ship", "a pencil",
)  # fmt: skip
LONG = "a photo of a snowy mountain village and " * 10
TEXTS = ["a photo of a Dog ", "", "a man wearing a hat", LONG]


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return tiny_t5(tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip_text(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, an empty cache of the hub, and a store of the test's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("EXPKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch):
    """Every batch of texts that an encoder encodes."""
    batches, encode = [], encoders.SingleEncoder.encode
    monkeypatch.setattr(
        encoders.SingleEncoder,
        "encode",
        lambda self, texts: batches.append(list(texts)) or encode(self, texts),
    )
    return batches


def course(path, width=8, **change):
    """The course's file: half-precision tensors (1, 77, width)."""
    draw = torch.Generator().manual_seed(0)
    torch.save({text: torch.randn(1, 77, width, generator=draw).half() for text in COURSE} | change, path)
    return path


def made(text, seed=0, **of):
    facts = {"encoder": "e", "revision": "r", "cleaning": False, "dtype": "float32", "length": 4} | of
    return Embedding(
        Entry(text, Provenance(**facts), (4, 2), 3),
        torch.rand(4, 2, generator=torch.Generator().manual_seed(seed)),
    )


# ---- encoders: diffusers is the oracle


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_t5_encodes_as_diffusers(t5, dtype):
    from diffusers import IFPipeline
    from transformers import T5EncoderModel, T5Tokenizer

    kind = getattr(torch, dtype)
    parts = (
        T5Tokenizer.from_pretrained(t5, subfolder="tokenizer"),
        T5EncoderModel.from_pretrained(t5, subfolder="text_encoder", dtype=kind),
    )
    pipeline = IFPipeline(*parts, *[None] * 5, requires_safety_checker=False)
    wanted, null = pipeline.encode_prompt(TEXTS, device="cpu")
    ours = T5(t5, dtype=dtype).encode([*TEXTS, ""])
    assert ours.dtype == wanted.dtype == kind
    torch.testing.assert_close(ours[:-1], wanted, atol=1e-6 if dtype == "float32" else 2e-3, rtol=0)
    torch.testing.assert_close(ours[-1], null[0], atol=1e-6 if dtype == "float32" else 2e-3, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_clip_encodes_as_diffusers(clip, masked, tmp_path):
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = shutil.copytree(clip, tmp_path / "clip")
    network = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    network.config.use_attention_mask = masked
    network.save_pretrained(folder / "text_encoder")
    pipeline = StableDiffusionPipeline.__new__(StableDiffusionPipeline)
    pipeline.__dict__ |= {
        "text_encoder": network.eval(),
        "tokenizer": CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
    }
    wanted, null = pipeline.encode_prompt(TEXTS, "cpu", 1, True)
    ours = CLIPText(folder).encode([*TEXTS, ""])
    torch.testing.assert_close(ours, torch.cat([wanted, null[:1]]), atol=1e-6, rtol=0)
    assert masked != torch.equal(ours, CLIPText(clip).encode([*TEXTS, ""]))


def test_a_text_is_encoded_the_same_in_any_batch(t5):
    one, many = T5(t5).encode(["a rocket ship"]), T5(t5).encode([*COURSE, *COURSE])
    torch.testing.assert_close(one[0], many[COURSE.index("a rocket ship")], atol=1e-5, rtol=0)


def test_the_network_is_loaded_late_and_freed(t5, monkeypatch):
    loaded, load = [], T5.network
    encoder = T5(t5)
    kept = lambda self, **how: (lambda pair: loaded.append(weakref.ref(pair[0])) or pair)(load(self, **how))
    monkeypatch.setattr(T5, "network", kept)
    assert encoder.provenance.length == 77 and encoder.tokens("a dog") and not loaded
    encoder.encode(["a dog"])
    gc.collect()
    assert len(loaded) == 1 and loaded[0]() is None


def test_tokens_are_counted_with_the_special_ones(t5, clip):
    assert T5(t5).tokens("") == 1 and CLIPText(clip).tokens("") == 2
    assert CLIPText(clip).length == 77 and CLIPText(clip).provenance.cleaning is False
    assert T5(t5).tokens(LONG) > 77 and LONG.rstrip().endswith(T5(t5).cut(LONG)[-20:])
    assert T5(t5).cut("a dog") == CLIPText(clip).cut("a dog") == ""


def test_cleaning_is_diffusers_own_or_refused(t5, monkeypatch):
    from types import SimpleNamespace

    from diffusers.pipelines.deepfloyd_if import pipeline_if

    for name in ("bs4", "ftfy"):
        monkeypatch.setattr(f"diffusers.utils.is_{name}_available", lambda: False)
    with pytest.raises(UserError, match="pip install beautifulsoup4 ftfy"):
        T5(t5, cleaning=True).encode(["a dog"])
    for module in ("diffusers.utils", pipeline_if.__name__):
        for name in ("bs4", "ftfy"):
            monkeypatch.setattr(f"{module}.is_{name}_available", lambda: True)
    monkeypatch.setattr(
        pipeline_if, "BeautifulSoup", lambda text, features: SimpleNamespace(text=text), raising=False
    )
    monkeypatch.setattr(pipeline_if, "ftfy", SimpleNamespace(fix_text=lambda text: text), raising=False)
    messy = "A Dog https://example.com/x "
    assert torch.equal(T5(t5, cleaning=True).encode([messy]), T5(t5).encode(["a dog"]))
    assert not torch.equal(T5(t5).encode([messy]), T5(t5).encode(["a dog"]))


def test_an_encoder_without_some_of_its_weights_is_refused(t5, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(t5, tmp_path / "holed")
    weights = folder / "text_encoder" / "model.safetensors"
    save_file(
        {k: v for k, v in load_file(weights).items() if "block.1.layer.0.SelfAttention.q" not in k},
        weights,
        {"format": "pt"},
    )
    with pytest.raises(UserError, match="weights are missing"):
        T5(folder).encode(["a dog"])


def test_a_tokenizer_of_something_else_is_refused(t5, tmp_path):
    from transformers import T5Tokenizer

    folder = shutil.copytree(t5, tmp_path / "unknown")
    T5Tokenizer(extra_ids=0).save_pretrained(folder / "tokenizer")
    with pytest.raises(UserError, match="the tokenizer knows"):
        T5(folder).encode(["a dog"])


# ---- the store


def test_what_is_put_is_got_and_listed(tmp_path):
    kept, embedding = Store(tmp_path / "s"), made("a dog")
    kept.put(embedding)
    again = kept.get("a dog", embedding.entry.provenance)
    assert again.entry == embedding.entry and torch.equal(again.values, embedding.values)
    assert kept.list() == [embedding.entry]
    assert kept.get("a cat", embedding.entry.provenance) is None


def test_further_tensors_are_kept_beside_the_tokens(tmp_path):
    extra = {"mask": torch.tensor([1, 1, 0, 0]), "pooled": torch.rand(5)}
    one = replace(made("a dog"), extra=extra)
    kept = Store(tmp_path)
    kept.put(one)
    (path,) = tmp_path.iterdir()
    again = kept.get("a dog", one.entry.provenance)
    assert path.name == kept.path("a dog", one.entry.provenance).name
    assert set(again.condition) == {"tokens", "mask", "pooled"} and torch.equal(again.values, one.values)
    assert all(torch.equal(again.extra[name], extra[name]) for name in extra)
    assert again.extra["mask"].dtype == torch.int64
    embedding_store.write_embeddings(tmp_path / "export.safetensors", [made("a cat"), one])
    first, second = embedding_store.read_embeddings(tmp_path / "export.safetensors")
    assert first.extra == {} and torch.equal(second.extra["pooled"], extra["pooled"])


def test_what_was_stored_before_there_were_further_tensors_is_found_and_read(tmp_path):
    """The name of the file and its form, as they were."""
    one = made("a dog")
    key = "95617a32bef916449672c0da8d3b59296350135fa9ac4e13690ed63e2fddcb61"
    facts = {"embeddings": [asdict(one.entry)]}
    weights_io.write_weights(tmp_path / f"{key}.safetensors", {"0": one.values}, facts)
    again = Store(tmp_path).get("a dog", one.entry.provenance)
    assert again.entry == one.entry and torch.equal(again.values, one.values) and again.extra == {}


def test_rows_of_all_tensors(tmp_path):
    kept = Store(tmp_path / "store")
    both = [
        replace(made(text, seed), extra={"pooled": torch.full((3,), float(seed))})
        for seed, text in enumerate("ab")
    ]
    embedding_store.write_embeddings(tmp_path / "export.safetensors", both)
    held = Embeddings(kept, imported=tmp_path / "export.safetensors")
    rows = held.conditions(["b", "a", "b"])
    assert rows["pooled"][:, 0].tolist() == [1, 0, 1] and torch.equal(rows["tokens"][1], both[0].values)
    embedding_store.write_embeddings(tmp_path / "mixed.safetensors", [both[0], made("b", 1)])
    with pytest.raises(UserError, match=r"hold different things.*'a' pooled and tokens"):
        Embeddings(kept, imported=tmp_path / "mixed.safetensors").prepare(["a", "b"])


OTHER = {"encoder": "f", "revision": "q", "cleaning": True, "dtype": "float16", "length": 5}


@pytest.mark.parametrize("field", OTHER)
def test_every_part_of_a_provenance_has_a_file_of_its_own(field, tmp_path):
    kept, one = Store(tmp_path), made("a dog")
    other = replace(one.entry.provenance, **{field: OTHER[field]})
    kept.put(one)
    assert kept.get("a dog", other) is None
    kept.put(made("a dog", 1, **{field: OTHER[field]}))
    assert len(list(tmp_path.iterdir())) == 2
    assert not torch.equal(kept.get("a dog", other).values, kept.get("a dog", one.entry.provenance).values)


@pytest.mark.parametrize("damage", [b"", b"nothing", None])
def test_a_damaged_file_counts_as_absent(damage, tmp_path):
    kept, embedding = Store(tmp_path), made("a dog")
    kept.put(embedding)
    path = kept.path("a dog", embedding.entry.provenance)
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    assert kept.get("a dog", embedding.entry.provenance) is None and kept.list() == []
    kept.put(embedding)
    assert kept.list() == [embedding.entry]


def test_many_may_put_the_same_at_once(tmp_path):
    kept, embedding = Store(tmp_path), made("a dog")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: kept.put(embedding), range(64)))
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    assert torch.equal(kept.get("a dog", embedding.entry.provenance).values, embedding.values)


def test_a_store_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Store(tmp_path / "file").put(made("a dog"))


def test_a_store_that_cannot_be_written_is_said_before_texts_are_encoded(t5, asked, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^The embeddings cannot be written to .*file.*model\.store=FOLDER"):
        Embeddings(Store(tmp_path / "file"), T5(t5)).prepare(["a dog"])
    assert asked == []


def test_the_command_that_encodes_elsewhere_names_the_model():
    said = r"python -m expkit model=deepfloyd model\.encoder=/nowhere task=embed 'prompts=\[\"a dog\"\]'"
    with pytest.raises(UserError, match=said):
        Embeddings(Store(), T5("/nowhere")).prepare(["a dog"])


def test_the_default_folder(tmp_path, monkeypatch):
    assert Store().place == tmp_path / "cache" / "embeddings"
    monkeypatch.delenv("EXPKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Store().place == tmp_path / "expkit" / "embeddings"


# ---- once, ever


def test_a_text_is_encoded_once_ever(t5, asked):
    first = Embeddings(Store(), T5(t5))
    assert first.prepare(["a dog", "a cat", "a dog", " A Dog"]) == ["a dog", "a cat", " A Dog"]
    assert asked == [["a dog", "a cat"]]
    again = Embeddings(Store(), T5(t5))
    assert again.prepare(["a cat", "a dog"]) == [] and len(asked) == 1
    assert torch.equal(again("a dog"), first("a dog")) and torch.equal(first("a dog"), first(" A Dog"))
    assert again.rows(["a cat", "a dog", "a cat"]).shape == (3, 77, 32)
    assert again.prepare(["a pencil", "a dog"]) == ["a pencil"] and asked[1:] == [["a pencil"]]
    assert set(again.used) == {"a pencil", "a dog"}
    torch.testing.assert_close(again.rows(["a pencil"]), T5(t5).encode(["a pencil"]), atol=1e-6, rtol=0)


def test_what_was_not_prepared_is_fetched(t5, asked):
    held = Embeddings(Store(), T5(t5))
    assert held("a dog").shape == (77, 32) and held.rows(["a dog", "a cat"]).shape == (2, 77, 32)
    assert asked == [["a dog"], ["a cat"]] and set(held.used) == {"a dog", "a cat"}


def test_another_encoder_dtype_or_length_has_files_of_its_own(t5, clip, asked, tmp_path):
    others = [T5(t5), T5(t5, dtype="float16"), T5(tiny_t5(tmp_path / "t5", seed=1)), CLIPText(clip)]
    for encoder in others:
        assert Embeddings(Store(), encoder).prepare(["a dog"]) == ["a dog"]
    assert len(asked) == len(list(Store().place.iterdir())) == len({e.provenance for e in others}) == 4


def test_a_folder_that_was_moved_is_the_same_encoder(t5, asked, tmp_path):
    Embeddings(Store(), T5(t5)).prepare(["a dog"])
    moved = shutil.copytree(t5, tmp_path / "elsewhere" / t5.name)
    assert Embeddings(Store(), T5(moved)).prepare(["a dog"]) == []


def test_an_encoder_that_is_gone_has_left_its_embeddings(t5, asked, tmp_path):
    folder = shutil.copytree(t5, tmp_path / "t5")
    Embeddings(Store(), T5(folder)).prepare(["a dog"])
    shutil.rmtree(folder)
    later = Embeddings(Store(), T5(folder))
    assert later.prepare(["a dog"]) == [] and later("a dog").shape == (77, 32)
    with pytest.raises(UserError, match=r'Did you mean "a dog".*no folder .*task=embed .prompts=\["a dgo"\]'):
        later.prepare(["a dgo"])
    with pytest.raises(UserError, match=r"The store has it of t5 \(.*float32"):
        Embeddings(Store(), T5(folder, dtype="float16")).prepare(["a dog"])


def test_the_hubs_cache_is_used_without_a_network(t5, tmp_path, asked):
    sha = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--some--encoder"
    shutil.copytree(t5, repository / "snapshots" / sha)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(sha)
    held = Embeddings(Store(), T5("some/encoder"))
    held.prepare(["a dog"])
    assert held.used["a dog"] == Provenance("some/encoder", sha, False, "float32", 77)
    torch.testing.assert_close(held("a dog"), T5(t5).encode(["a dog"])[0])
    shutil.rmtree(repository)
    assert Embeddings(Store(), T5("some/encoder")).prepare(["a dog"]) == []
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set.*online.*model.encoder=FOLDER"):
        Embeddings(Store(), T5("some/encoder")).prepare(["a cat"])


@pytest.mark.parametrize("weights", ["owner/nothing", "/nowhere/at/all", "not an id", "."])
def test_an_encoder_that_cannot_be_had_is_refused(weights):
    with pytest.raises(UserError, match="There is no embedding of 'a dog'"):
        Embeddings(Store(), T5(weights)).prepare(["a dog"])


@pytest.mark.parametrize("none", [None, T5(None)])
def test_no_encoder_at_all_is_refused(none):
    with pytest.raises(UserError, match="No encoder is named"):
        Embeddings(Store(), none).prepare(["a dog"])


def test_constructors_load_nothing():
    Embeddings(
        Store("/nowhere"), T5("/nowhere", cleaning=True, dtype="float16", device="cuda"), "/nowhere.pth"
    )
    CLIPText("/nowhere")


def test_numbers_that_are_not_finite_are_not_kept(t5, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(t5, tmp_path / "t5")
    weights = folder / "text_encoder" / "model.safetensors"
    save_file({k: v * torch.inf for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        Embeddings(Store(), T5(folder)).prepare(["a dog"])
    assert Store().list() == []


def test_over_long_texts_are_told_with_what_is_cut(t5, stderr):
    told = []
    Embeddings(Store(), T5(t5), warn=told.append).prepare([LONG, "a dog"])
    assert len(told) == 1 and f"has {T5(t5).tokens(LONG)} tokens, of which 77 are read" in told[0]
    assert told[0].endswith(f"cut off: {T5(t5).cut(LONG)!r}")
    Embeddings(Store(), T5(t5)).prepare([LONG])
    assert "expkit: the prompt" in stderr(), "also where it is in the store"


# ---- imports


def test_the_courses_file_is_imported_and_named_directly(tmp_path, asked):
    path = course(tmp_path / "prompt_embeds_dict.pth")
    held = Embeddings(Store(), imported=path)
    assert held.prepare(COURSE) == [] and held.rows(COURSE).shape == (14, 77, 8)
    known = torch.load(path, weights_only=True)
    assert torch.equal(held.rows(COURSE), torch.cat([known[text] for text in COURSE]))
    assert torch.equal(held("A Pencil "), known["a pencil"][0])
    of = held.used[""]
    assert (
        of.encoder == "imported prompt_embeds_dict.pth"
        and of.cleaning is None
        and of.dtype == "float16"
        and len(of.revision) == 64
    )
    with pytest.raises(UserError, match='Did you mean "a photo of the amalfi cost"'):
        held.prepare(["a photo of the amalfi coast"])
    assert not asked and not Store().list()


def test_the_courses_file_of_real_size(tmp_path):
    path = course(tmp_path / "prompt_embeds_dict.pth", width=4096)
    assert 8.8e6 < path.stat().st_size < 8.9e6
    assert Embeddings(Store(), imported=path).rows(["", "a rocket ship"]).shape == (2, 77, 4096)


def test_imports_in_the_store_serve_where_no_encoder_is_at_hand(t5, tmp_path):
    for embedding in import_embeddings(course(tmp_path / "p.pth", width=32)):
        Store().put(embedding)
    for encoder in (None, T5("owner/gated")):
        held = Embeddings(Store(), encoder)
        assert held.prepare(["a pencil", ""]) == [] and held.used[""].imported
    assert Embeddings(Store(), T5(t5)).prepare(["a pencil"]) == ["a pencil"], "an encoder at hand is asked"


def test_an_import_without_values_is_missing(tmp_path):
    for embedding in import_embeddings(course(tmp_path / "p.pth", width=32)):
        Store().put(embedding)
        if embedding.entry.text == "a pencil":
            lost = embedding.entry
    facts = {"embeddings": [asdict(lost)]}  # its header can be read, and says nothing of what is missing
    weights_io.write_weights(Store().path(lost.text, lost.provenance), {}, facts)
    with pytest.raises(UserError, match=r"no embedding of 'a pencil'\. No encoder is named"):
        Embeddings(Store()).prepare(["", "a pencil"])


def test_an_embedding_of_the_encoder_that_lost_its_values_is_made_again(t5, asked):
    Embeddings(Store(), T5(t5)).prepare(["a dog"])
    (entry,) = Store().list()
    facts = {"embeddings": [asdict(entry)]}
    weights_io.write_weights(Store().path(entry.text, entry.provenance), {}, facts)
    assert Embeddings(Store(), T5(t5)).prepare(["a dog"]) == ["a dog"] and len(asked) == 2


def test_the_hint_names_the_newest_of_several_in_the_store():
    for number, encoder in enumerate(("older", "newest", "oldest")):
        embedding = made("a dog", encoder=encoder)
        Store().put(embedding)
        time = (2, 3, 1)[number]
        os.utime(Store().path("a dog", embedding.entry.provenance), (time, time))
    with pytest.raises(UserError, match=r"The store has it of newest \("):
        Embeddings(Store()).prepare(["a dog"])


def test_mixing_is_told_and_recorded(t5, tmp_path, stderr):
    held = Embeddings(Store(), T5(t5), course(tmp_path / "p.pth", width=32))
    assert held.prepare(["a pencil", "", "a cat"]) == ["a cat"]
    said = stderr()
    assert (
        said.count("different provenance") == 1
        and "'a cat' is of t5 (" in said
        and "'a pencil' is of imported p.pth (" in said
    )
    assert [of.imported for of in held.used.values()] == [True, True, False]
    held.prepare(["a pencil", ""])
    assert "different provenance" not in stderr()


def test_embeddings_of_different_size_are_refused(t5, tmp_path):
    with pytest.raises(UserError, match=r"different size.*77 × 8.*77 × 32"):
        Embeddings(Store(), T5(t5), course(tmp_path / "p.pth", width=8)).prepare(["a pencil", "a cat"])


def test_exports_keep_their_provenance(t5, tmp_path, asked):
    held = Embeddings(Store(), T5(t5))
    held.prepare(["a dog", ""])
    embedding_store.write_embeddings(tmp_path / "e.safetensors", list(held.loaded.values()))
    there = Embeddings(Store(tmp_path / "other"), T5("/nowhere/t5"), tmp_path / "e.safetensors")
    assert (
        there.prepare(["a dog", ""]) == []
        and there.used == held.used
        and torch.equal(there("a dog"), held("a dog"))
    )
    mixed = []
    Embeddings(Store(tmp_path / "third"), T5(t5), tmp_path / "e.safetensors", mixed.append).prepare(
        ["a dog", "a cat"]
    )
    assert mixed == [], "one encoder, wherever it ran"


class Hostile:
    def __reduce__(self):
        return print, ("run by unpickling",)


def hostile(path):
    torch.save({"a dog": Hostile()}, path)


BAD = {
    "missing.pth": (lambda path: None, "no embeddings at"),
    "hostile.pth": (hostile, "holds more than tensors"),
    "raw.pth": (lambda path: path.write_bytes(pickle.dumps({"a": Hostile()})), "holds more than tensors"),
    "cut.pth": (lambda path: path.write_bytes(course(path).read_bytes()[:5000]), "cannot be read"),
    "empty.pth": (lambda path: path.write_bytes(b""), "cannot be read"),
    "list.pth": (lambda path: torch.save([torch.zeros(1, 77, 8)], path), "no dict"),
    "nothing.pth": (lambda path: torch.save({}, path), "no dict"),
    "keys.pth": (lambda path: torch.save({1: torch.zeros(1, 77, 8)}, path), "no dict"),
    "flat.pth": (lambda path: torch.save({"a": torch.zeros(77, 8)}, path), r"of shape \(77, 8\)"),
    "shapes.pth": (lambda path: course(path, other=torch.zeros(1, 77, 9)), "of shape"),
    "two.pth": (lambda path: torch.save({"a": torch.zeros(2, 77, 8)}, path), "of shape"),
    "whole.pth": (
        lambda path: torch.save({"a": torch.zeros(1, 77, 8, dtype=torch.long)}, path),
        "no finite numbers",
    ),
    "nan.pth": (lambda path: torch.save({"a": torch.full((1, 77, 8), torch.nan)}, path), "no finite numbers"),
    "other.safetensors": (
        lambda path: weights_io.write_weights(path, {"w": torch.zeros(1)}, {"hidden": 8}),
        "cannot be read.*task=embed export",
    ),
    "cut.safetensors": (lambda path: path.write_bytes(b"x" * 99), "cannot be read.*task=embed export"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_imports_are_refused(name, tmp_path, capsys, recwarn):
    write, says = BAD[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=says):
        import_embeddings(tmp_path / name)
    assert "run by unpickling" not in capsys.readouterr().out and not recwarn.list


# ---- fingerprints


def test_a_fingerprint_sees_large_files_too(tmp_path):
    part = tmp_path / "text_encoder"
    part.mkdir()
    data = bytearray(20 * repository_files.PIECE)
    (part / "w").write_bytes(data)
    before = repository_files.folder_fingerprint(tmp_path, ["text_encoder"])
    data[1000] = 1
    (part / "w").write_bytes(data)
    assert repository_files.folder_fingerprint(tmp_path, ["text_encoder"]) != before
