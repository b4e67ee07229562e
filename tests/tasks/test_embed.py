"""task=embed: it encodes what is missing, lists without any encoder, and carries embeddings from place to place."""

import json
import shutil

import pytest

from expkit.config import checks, schema
from expkit.storage.hub import Repository
from expkit.storage.repository_files import HubFiles
from expkit.text.embedding_store import Store, import_embeddings
from tests.text.test_prompt_embeddings import COURSE, LONG, course
from tests.tiny import tiny_t5

MODEL = """# A text encoder and nothing else
embeddings:
  _target_: expkit.text.Embeddings
  store: {_target_: expkit.text.Store, folder: "${model.store}"}
  encoder:
    _target_: expkit.text.T5
    weights: ${model.encoder}
    cleaning: false
    dtype: ${model.dtype}
    device: ${model.device}
  imported: ${model.imported}
store: null
encoder: ${model.weights}
imported: null
weights: null
dtype: float32
device: auto
blur: 2
examples: {prompt: a dog, far: a dog, near: a cat, upright: a dog, turned: a cat, mask: lower_half}
"""


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return tiny_t5(tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture
def embed(expkit, tmp_path, monkeypatch):
    """Runs task=embed with a model that has a text encoder, and a store of the test's own."""
    conf = shutil.copytree(schema.config_folder(), tmp_path / "conf")
    (conf / "model" / "reads.yaml").write_text(MODEL)
    for module in (schema, checks):
        monkeypatch.setattr(module, "config_folder", lambda: conf)
    monkeypatch.setenv("EXPKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return lambda *arguments: expkit("task=embed", "model=reads", "logger=none", *arguments)


def lines(done) -> list[str]:
    """The listing's lines below its head; the folder's path is printed after them."""
    said = done.out.splitlines()[1:-1]
    assert (done.folder / "listing.txt").read_text().splitlines()[1:] == said
    return said


def test_texts_are_encoded_once_and_said_to_be(embed, t5):
    first = embed(f"model.weights={t5}", "prompts=[a dog,a cat,3]")
    assert first.code == 0, first.err
    assert [line.split("  ")[0] for line in lines(first)] == ["'a dog'", "'a cat'", "'3'"]
    assert all(line.endswith("encoded") and "77 × 32" in line and "9.9 kB" in line for line in lines(first))
    again = embed(f"model.weights={t5}", "prompts=[a dog,a rocket ship]")
    assert [line.split("  ")[-1].strip() for line in lines(again)] == ["there already", "encoded"]
    numbers = again.numbers()
    assert numbers["encoded"] == 1 and [e["text"] for e in numbers["embeddings"]] == [
        "a dog",
        "a rocket ship",
    ]
    known = numbers["embeddings"][0]
    assert (
        known["provenance"]["encoder"] == "t5"
        and known["tokens"] == 6
        and known["shape"] == [77, 32]
        and known["bytes"] == 77 * 32 * 4
    )


def test_the_listing_loads_nothing(embed, t5, monkeypatch):
    embed(f"model.weights={t5}", f'prompts=[a dog,"{LONG}"]')
    monkeypatch.setattr(Repository, "load", None)
    monkeypatch.setattr(HubFiles, "newest_commit", None)
    listed = embed("model.weights=owner/far")
    assert listed.code == 0, listed.err
    assert len(lines(listed)) == 2 and any("(cut)" in line for line in lines(listed))
    assert listed.numbers()["encoded"] == 0


def test_an_empty_store_is_listed_as_empty(embed):
    done = embed()
    assert done.code == 0 and lines(done) == [] and done.numbers()["embeddings"] == []


def test_an_export_serves_where_there_is_no_encoder(embed, t5, tmp_path, monkeypatch):
    there = tmp_path / "e.safetensors"
    done = embed(f"model.weights={t5}", "prompts=[a dog,a cat]", f"export={there}")
    assert done.code == 0 and len(import_embeddings(there)) == 2
    monkeypatch.setenv("EXPKIT_CACHE", str(tmp_path / "another"))
    named = embed("prompts=[a dog]", f"model.imported={there}")
    assert named.code == 0 and not Store().list() and lines(named)[0].endswith("there already")
    copied = embed(f"import={there}")
    assert copied.code == 0 and [line.split("  ")[-1] for line in lines(copied)] == ["imported"] * 2
    assert {entry.text for entry in Store().list()} == {"a dog", "a cat"}
    assert embed("prompts=[a cat]", f"model.weights={t5.name}").code == 0
    everything = embed(f"export={tmp_path / 'all.safetensors'}")
    assert (
        everything.code == 0
        and there.read_bytes() != b""
        and len(import_embeddings(tmp_path / "all.safetensors")) == 2
    )


def test_the_courses_file_goes_into_the_store(embed, tmp_path):
    done = embed(f"import={course(tmp_path / 'prompt_embeds_dict.pth')}")
    assert done.code == 0, done.err
    assert {entry.text for entry in Store().list()} == set(COURSE) and len(lines(done)) == 14
    assert embed("prompts=[a pencil,a rocket ship]").code == 0


REFUSED = {
    ("prompts=[a dgo]",): "No encoder is named",
    ("prompts=[a dog]", "model.weights=owner/far"): "HF_HUB_OFFLINE is set",
    ("import=nothing.pth",): "no embeddings at nothing.pth",
    ("export=e.pth",): "ends in .safetensors",
    ("export=e.safetensors",): "nothing to export",
    ("model=digits",): "model=digits needs no embeddings",
    ("model=ideal", "prompts=[a dog]"): "model=ideal needs no embeddings",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_refusals_are_sentences(arguments, embed, tmp_path):
    done = embed(*arguments)
    assert done.code == 2 and REFUSED[arguments] in done.err and "Traceback" not in done.err
    assert not list((tmp_path / "outputs").glob("*/*"))


def test_a_text_of_two_encoders_is_not_exported_by_chance(embed, t5, tmp_path):
    for dtype in ("float32", "float16"):
        assert embed(f"model.weights={t5}", f"model.dtype={dtype}", "prompts=[a dog]").code == 0
    done = embed(f"export={tmp_path / 'e.safetensors'}")
    assert done.code == 2 and "of several encoders" in done.err
    assert embed(f"model.weights={t5}", "prompts=[a dog]", f"export={tmp_path / 'e.safetensors'}").code == 0


def test_numbers_are_json(embed, t5):
    done = embed(f"model.weights={t5}", "prompts=[a dog]")
    assert json.loads((done.folder / "numbers.json").read_text())["store"] == str(Store().place)
