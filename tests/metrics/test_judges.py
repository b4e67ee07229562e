"""Laws of the judges: they read, near and from afar; damaged weights are refused; what they learn from is a function of a seed."""

import pytest
import torch
import torch.nn.functional as F

from expkit.core.rng import Draws, stream
from expkit.data import datasets
from expkit.data.augment import blur_matrices, downsample_matrices
from expkit.errors import UserError
from expkit.metrics import classifiers, judges
from expkit.storage import weights_io
from expkit.training.objectives import DigitClassification
from tests.tiny import tiny_clip, tiny_clip_text, tiny_siglip

BOTH = pytest.mark.parametrize("name", ["judge_first", "judge_second"])


@pytest.fixture(scope="module")
def tested(mnist):
    """The first 2,000 test pictures, (2000, 1, 28, 28) in [0, 1], and their digits."""
    pictures = datasets.mnist(False, str(mnist)).first(2000)
    return pictures.images.float() / 255, pictures.labels


@pytest.fixture
def pictures():
    return torch.rand(6, 1, 28, 28, generator=stream("pictures"))


def share(digits, labels):
    return (digits == labels).double().mean().item()


@BOTH
def test_reads_from_near(name, tested):
    images, labels = tested
    assert share(judges.shipped_judge(name).read(images), labels) >= 0.99


@BOTH
def test_reads_from_afar(name, tested):
    images, labels = tested
    judge = judges.shipped_judge(name)
    assert share(judge.sees_far(images, judge.distance).argmax(1), labels) >= 0.94


@BOTH
def test_is_small_and_says_what_it_is(name):
    facts, judge = weights_io.model_card(name), judges.shipped_judge(name)
    assert (weights_io.WEIGHTS / f"{name}.safetensors").stat().st_size < 1e6
    assert facts["architecture"] == classifiers.architecture_of(type(judge.network))
    assert facts["parameters"] == sum(p.numel() for p in judge.network.parameters())
    assert facts["accuracy"] >= 0.99
    assert facts["tested_on"] == 10_000


@pytest.mark.parametrize("least", [7, 12, 28])
def test_the_distance_is_the_farthest_from_which_enough_is_read(least):
    """A reader that reads all that is as large as `least` pixels and half of what is smaller."""
    labels, sizes = torch.tensor([0, 1] * 10), []

    class Reader:
        def sees_far(self, images, times):
            sizes.append(round(28 / times))
            return F.one_hot(labels if sizes[-1] >= least else labels * 0, 2)

    assert judges.calibrated(Reader(), torch.zeros(20, 1, 28, 28), labels) == (least, 1.0) and len(sizes) < 8


def test_a_judge_says_from_where_it_reads():
    known = weights_io.model_card("judge_second")["reads_to"]
    assert (
        judges.second_digit_judge().distance == known["times"] == round(28 / known["pixels"], 3)
        and known["accuracy"] >= 0.95
    )
    assert judges.ClassifierJudge(judges.second_digit_judge().weights).distance is None


def test_digits_are_told_apart_whatever_the_prompts(pictures):
    judge = judges.first_digit_judge()
    assert judge.answers(["3", "a cat"]) == judge.answers([]) == tuple("0123456789")
    assert torch.equal(judge.probabilities(pictures, ["3"]), judge(pictures))


@BOTH
def test_features_are_what_the_last_linear_map_reads(name, pictures):
    judge = judges.shipped_judge(name)
    seen, last = judge.features(pictures), judge.network.answer[-1]
    torch.testing.assert_close((seen @ last.weight.T + last.bias).softmax(1), judge(pictures))
    assert judge.features(pictures[:0]).shape == (0, seen.shape[1])


def test_the_two_are_of_different_make():
    assert type(judges.first_digit_judge().network) is not type(judges.second_digit_judge().network)


@BOTH
def test_answers_are_probabilities(name, pictures):
    answers = judges.shipped_judge(name)(pictures)
    assert answers.shape == (6, 10)
    torch.testing.assert_close(answers.sum(1), torch.ones(6))


def test_a_picture_is_judged_the_same_in_any_batch(pictures):
    judge = judges.first_digit_judge()
    torch.testing.assert_close(judge(pictures)[2:3], judge(pictures[2:3]))


def test_no_picture_no_answer(pictures):
    assert judges.first_digit_judge()(pictures[:0]).shape == (0, 10)


def test_what_is_beyond_black_and_white_is_black_and_white(pictures):
    judge, beyond = judges.first_digit_judge(), 3 * pictures - 1
    torch.testing.assert_close(judge(beyond), judge(beyond.clamp(0, 1)))
    torch.testing.assert_close(judge.sees_far(beyond), judge.sees_far(beyond.clamp(0, 1)))


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 3, 28, 28), (2, 1, 64, 64)])
def test_other_pictures_are_refused(shape):
    with pytest.raises(UserError, match=r"reads \(N, 1, 28, 28\)"):
        judges.first_digit_judge()(torch.zeros(shape))


def test_shrunk_is_linear_keeps_flat_pictures_and_the_mean_of_blocks(pictures):
    one, other = pictures[:3], pictures[3:]
    torch.testing.assert_close(
        judges.downsample_and_restore(2 * one - other, 4),
        2 * judges.downsample_and_restore(one, 4) - judges.downsample_and_restore(other, 4),
    )
    torch.testing.assert_close(
        judges.downsample_and_restore(torch.full((1, 1, 28, 28), 0.3), 4), torch.full((1, 1, 28, 28), 0.3)
    )
    torch.testing.assert_close(
        judges.downsample_and_restore(pictures, 28), pictures.mean((2, 3), keepdim=True).expand_as(pictures)
    )
    torch.testing.assert_close(judges.downsample_and_restore(pictures, 1), pictures)


def refused(path, match, **promised):
    with pytest.raises(UserError, match=match):
        judges.ClassifierJudge(path, **promised)


def test_missing_weights_are_refused(tmp_path):
    refused(tmp_path / "none.safetensors", "no weights at")


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    whole, path = weights_io.WEIGHTS / "judge_first.safetensors", tmp_path / "judge_first.safetensors"
    data = bytearray(whole.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    refused(path, "cannot be read")
    data[-100] ^= 1
    path.write_bytes(data)
    path.with_suffix(".json").write_text((weights_io.WEIGHTS / "judge_first.json").read_text())
    monkeypatch.setattr(weights_io, "WEIGHTS", tmp_path)
    with pytest.raises(UserError, match="damaged"):
        judges.first_digit_judge()
    path.with_suffix(".json").write_text("{")
    with pytest.raises(UserError, match="model card"):
        judges.first_digit_judge()


@pytest.mark.parametrize("content", [b"", b"not weights"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    refused(tmp_path / "other", "cannot be read")


def test_weights_of_something_else_are_refused(tmp_path):
    from safetensors.torch import save_file

    other = {"w": torch.zeros(1)}
    save_file(other, tmp_path / "a")
    refused(tmp_path / "a", "cannot be read")
    save_file(other, tmp_path / "b", metadata={"expkit": '{"architecture": "Plane", "width": 32}'})
    refused(tmp_path / "b", "Did you mean Plain")
    save_file(other, tmp_path / "c", metadata={"expkit": '{"architecture": "Plain", "width": 8}'})
    refused(tmp_path / "c", "cannot be read")


@pytest.mark.parametrize(
    "network",
    [classifiers.PlainClassifier(8), classifiers.ResidualClassifier(8), classifiers.StridedClassifier(8)],
)
def test_what_reading_saves_is_the_network(network, tmp_path, pictures):
    DigitClassification().save(network, tmp_path / "model.safetensors", tuple("0123456789"))
    judge = judges.ClassifierJudge(tmp_path / "model.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    torch.testing.assert_close(judge(pictures), network.eval()(pictures).softmax(1))


def test_reading_is_a_function_of_its_generator(pictures):
    varied = [DigitClassification().varied(pictures, Draws(stream(seed), 6)) for seed in (1, 1, 2)]
    assert torch.equal(varied[0], varied[1])
    assert not torch.equal(varied[0], varied[2])
    network, labels = classifiers.ResidualClassifier(8), torch.arange(6)
    state = torch.get_rng_state()
    losses = [DigitClassification()(network, pictures, labels, Draws(stream(seed), 6)) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.get_rng_state(), state), "nothing else was drawn from"


def test_reading_that_changes_nothing_is_cross_entropy(pictures):
    still = DigitClassification(shift=0, turn=0, zoom=(1, 1), far=0, gain=0, offset=0, noise=0)
    network, labels = classifiers.PlainClassifier(8).eval(), torch.arange(6)
    torch.testing.assert_close(still.varied(pictures, Draws(stream(1), 6)), pictures)
    torch.testing.assert_close(
        still(network, pictures, labels, Draws(stream(1), 6)), F.cross_entropy(network(pictures), labels)
    )


def test_training_shrinks_as_the_judge_does(pictures):
    for matrix, size in zip(downsample_matrices(28), range(7, 15), strict=True):
        torch.testing.assert_close(
            matrix @ pictures @ matrix.T, judges.downsample_and_restore(pictures, 28 / size)
        )


def test_blurs_keep_flat_pictures_and_widen():
    blur = blur_matrices(torch.tensor([0.5, 2.5]), 28)
    torch.testing.assert_close(blur.sum(-1), torch.ones(2, 28))
    assert blur[0, 14, 14] > 3 * blur[1, 14, 14]


def test_reading_learns():
    """One small batch is learnt by heart."""
    torch.manual_seed(0)
    images, labels = torch.rand(16, 1, 28, 28), torch.arange(16) % 10
    network, objective = (
        classifiers.ResidualClassifier(8),
        DigitClassification(shift=0, turn=0, zoom=(1, 1), far=0, noise=0),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        losses.append(objective(network, images, labels, Draws(stream(step), len(labels))))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return judges.CLIP(tiny_clip(tmp_path_factory.mktemp("models") / "clip"), device="cpu")


@pytest.fixture
def colours():
    """Bytes as pictures, (3, 3, 48, 64) in [0, 1]."""
    return (255 * torch.rand(3, 3, 48, 64, generator=stream("colours"))).round() / 255


SAID = ["a dog", "a man wearing a hat", "a dog", "a rocket ship"]


def test_clip_is_transformers_clip(clip, colours):
    from transformers import CLIPModel, CLIPProcessor

    from expkit.images.image_io import as_image

    model, processor = CLIPModel.from_pretrained(clip.weights), CLIPProcessor.from_pretrained(clip.weights)
    colours, texts = (
        colours[..., :32, :32],
        list(clip.answers(SAID)),
    )  # of its own size: bytes and numbers are enlarged differently
    given = processor(
        text=texts, images=[as_image(image) for image in colours], return_tensors="pt", padding=True
    )
    wanted = model(**given).logits_per_image.softmax(1)
    torch.testing.assert_close(clip.probabilities(colours, SAID), wanted, atol=1e-4, rtol=0)
    assert wanted.std(0).max() > 1e-2, "the pictures differ to it"


def test_clips_scores_are_cosines_and_its_probabilities_their_softmax_at_its_temperature(clip, colours):
    known = clip.evaluate(colours, SAID)
    texts = clip.processor.tokenizer(list(clip.answers(SAID)), padding=True, return_tensors="pt")
    words = clip.network.text_projection(clip.network.text_model(**texts).pooler_output).double()
    cosines = torch.nn.functional.cosine_similarity(
        clip.features(colours).double()[:, None], words[None], dim=-1
    )
    torch.testing.assert_close(known.scores.double(), cosines, atol=1e-5, rtol=0)
    assert clip.temperature == pytest.approx(1 / clip.network.logit_scale.exp().item())
    torch.testing.assert_close(
        (known.scores.double() / clip.temperature).softmax(1).float(), known.probabilities, atol=1e-3, rtol=0
    )


def test_siglip_is_transformers_siglip(colours, tmp_path):
    from transformers import SiglipModel, SiglipProcessor

    judge = judges.CLIP(tiny_siglip(tmp_path / "siglip"), device="cpu")
    model, processor = (
        SiglipModel.from_pretrained(judge.weights),
        SiglipProcessor.from_pretrained(judge.weights),
    )
    texts = list(judge.answers(SAID))
    given = processor(
        text=texts, images=[*colours], do_rescale=False, return_tensors="pt", padding="max_length"
    )
    wanted, known = model(**given), judge.evaluate(colours, SAID)
    torch.testing.assert_close(known.probabilities, wanted.logits_per_image.softmax(1), atol=1e-4, rtol=0)
    cosines = wanted.image_embeds @ wanted.text_embeds.T
    torch.testing.assert_close(known.scores, cosines, atol=1e-5, rtol=0)
    features = torch.nn.functional.normalize(judge.features(colours))
    torch.testing.assert_close(features, wanted.image_embeds, atol=1e-4, rtol=0)


def test_a_judge_that_compares_no_pictures_with_texts_is_refused(tmp_path):
    with pytest.raises(UserError, match="CLIPTextModel, which does not compare pictures and texts"):
        judges.CLIP(tiny_clip_text(tmp_path / "text") / "text_encoder", device="cpu")


def test_a_classifiers_scores_are_log_probabilities_and_finite(pictures):
    judge = judges.first_digit_judge()
    known = judge.evaluate(pictures, ["3"])
    torch.testing.assert_close(known.scores.exp(), known.probabilities, atol=1e-6, rtol=0)
    assert (
        torch.equal(known.probabilities, judge(pictures))
        and known.scores.isfinite().all()
        and judge.temperature == 1
    )


def test_clips_features_are_its_embeddings(clip, colours):
    given = clip.processor(text=["a"], images=[*colours], do_rescale=False, return_tensors="pt")
    embeddings = clip.network(**given).image_embeds
    torch.testing.assert_close(
        torch.nn.functional.normalize(clip.features(colours)), embeddings, atol=1e-4, rtol=0
    )


def test_clips_answers_are_the_distinct_prompts_in_order(clip, colours):
    assert clip.answers(SAID) == ("a dog", "a man wearing a hat", "a rocket ship") and clip.answers(
        [3, "3"]
    ) == ("3",)
    known = clip.probabilities(colours, SAID)
    assert known.shape == (3, 3) and known.dtype == torch.float32
    torch.testing.assert_close(known.sum(1), torch.ones(3))
    turned = clip.probabilities(colours, SAID[::-1])
    torch.testing.assert_close(turned, known[:, [2, 0, 1]])


def test_clip_judges_a_picture_the_same_in_any_batch_and_grey_as_colour(clip, colours):
    torch.testing.assert_close(clip.probabilities(colours, SAID)[1:2], clip.probabilities(colours[1:2], SAID))
    grey = colours[:, :1]
    torch.testing.assert_close(
        clip.probabilities(grey, SAID), clip.probabilities(grey.expand(-1, 3, -1, -1), SAID)
    )
    torch.testing.assert_close(
        clip.probabilities(3 * colours - 1, SAID), clip.probabilities((3 * colours - 1).clamp(0, 1), SAID)
    )


def test_what_clip_cannot_judge_is_refused(clip, colours):
    with pytest.raises(UserError, match="CLIP was given pictures of shape"):
        clip.probabilities(colours[0], SAID)
    with pytest.raises(UserError, match="no prompts to tell apart"):
        clip.probabilities(colours, [])


def test_clip_without_its_weights_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError,
        match=r"openai/clip-vit-base-patch32 is not.*on this machine.*model\.judges\.clip\.weights=FOLDER",
    ):
        judges.CLIP()
    with pytest.raises(UserError, match="cannot be loaded"):
        judges.CLIP(tmp_path)


def test_every_kind_of_judge_says_how_well_it_reads_from_afar(tmp_path):
    assert judges.CLIP(str(tiny_clip(tmp_path / "clip")), "cpu").distance is None
