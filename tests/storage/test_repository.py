"""Where the files of a pretrained repository are found, which of its weights are chosen, and whether they fit."""

import json
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file

from expkit.errors import UserError
from expkit.storage import repository_files
from expkit.storage.hub import Repository
from expkit.storage.network_weights import WeightFileNames

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHAPES = {"a.weight": (2, 3), "b.to_q.weight": (4,)}


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The folder of the only commit of owner/model in the cache of the hub, which cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    write_weights(snapshot / "unet", SHAPES)
    absent = folder / ".no_exist" / COMMIT / "vae" / "config.json"
    absent.parent.mkdir(parents=True)
    absent.touch()
    return snapshot


def write_weights(folder, shapes, name="diffusion_pytorch_model.safetensors"):
    """A part of a repository whose tensors have these shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, folder / name)


def test_of_the_hub_what_is_in_the_cache_is_used_and_only_the_rest_is_asked_for(cached):
    repository = Repository("owner/model")
    files = repository.files
    assert repository.config("unet") == {"_class_name": "UNet2DModel"} and files.source == "owner/model"
    assert files.find_local("unet/config.json") == files.fetch("unet/config.json")
    assert files.find_local("vae/config.json") is None is files.fetch("vae/config.json")
    assert files.has("unet/config.json") and not files.has("vae/config.json")
    for ask in (files.has, files.fetch):  # of this one the cache knows nothing
        with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
            ask("text_encoder/config.json")
    assert repository.revision(["unet"]) == COMMIT and repository.at_hand(["unet"])
    assert not repository.at_hand(["vae"]) and repository.called == "owner/model"


def test_a_name_that_is_neither_folder_nor_id_is_refused_when_its_files_are_wanted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    said = r"There is no folder .* try another model"
    for name, message in (("no/such/folder", said), ("word", said), ("file", "is a single file")):
        assert not Repository(name).at_hand(["unet"]), name
        with pytest.raises(UserError, match=message):
            _ = Repository(name, instead="another model.").files


def test_a_network_at_the_top_of_a_folder_and_in_several_files(tmp_path):
    one, two = "part-1.safetensors", "part-2.safetensors"
    write_weights(tmp_path, {"a.weight": (2, 3)}, one)
    write_weights(tmp_path, {"b.query.weight": (4,)}, two)  # its name in diffusers' first versions
    weights = Repository(str(tmp_path)).weights("unet")
    with pytest.raises(UserError, match="no weights in unet/ as safetensors"):
        weights.choose_variant(half=False)
    index = {"weight_map": {"a.weight": one, "b.query.weight": two}}
    (tmp_path / WeightFileNames.of("fp16").index).write_text(json.dumps(index))
    assert weights.subfolder is None and weights.choose_variant(half=False) == "fp16"
    weights.check("fp16", SHAPES)
    with pytest.raises(UserError, match=r"1 of 2 tensors are missing or of another shape, a.weight for one"):
        weights.check("fp16", {**SHAPES, "a.weight": (3, 2)})
    (tmp_path / two).unlink()
    with pytest.raises(UserError, match=r"1 of 2 tensors are missing or of another shape, b.to_q.weight"):
        weights.check("fp16", SHAPES)


def test_weights_that_are_still_to_be_downloaded_pass_the_check_and_damaged_ones_do_not(cached):
    weights = Repository("owner/model").weights("unet")
    assert weights.choose_variant(half=True) is None, "what is on this machine comes first"
    weights.check(None, SHAPES)
    weights.check("fp16", SHAPES)
    with pytest.raises(UserError, match="2 of 3 tensors are missing"):
        weights.check(None, {"c": (1,), "d": (1,), "a.weight": (2, 3)})
    (cached / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="owner/model cannot be loaded"):
        weights.check(None, SHAPES)


class Loader:
    """Stands for a class of diffusers: records its calls, and loads only from the hub and without a variant."""

    calls: ClassVar[list[dict]] = []

    @classmethod
    def from_pretrained(cls, source, **options):
        cls.calls.append({"source": source, **options})
        if options["local_files_only"] or "variant" in options:
            raise OSError("no such file")
        return cls()


def test_all_variants_are_tried_here_before_any_on_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(Loader, "calls", [])
    monkeypatch.setattr(repository_files, "hub_is_reachable", lambda: True)
    loaded = Repository("owner/model").load(Loader, COMMIT, ["fp16", None], subfolder="unet")
    call = {"source": "owner/model", "revision": COMMIT, "subfolder": "unet"}
    half = {"variant": "fp16"}
    assert isinstance(loaded, Loader) and Loader.calls == [
        call | half | {"local_files_only": True},
        call | {"local_files_only": True},
        call | half | {"local_files_only": False},
        call | {"local_files_only": False},
    ]
    Loader.calls.clear()
    with pytest.raises(UserError, match=r"cannot be loaded .no such file"):
        Repository(str(tmp_path)).load(Loader, COMMIT)
    assert Loader.calls == [{"source": str(tmp_path), "local_files_only": True}]


class Damaged:
    """Stands for a class of diffusers whose weights are there but damaged, and not as a variant."""

    @classmethod
    def from_pretrained(cls, source, variant=None, **options):
        raise OSError("Error no file named model.fp16.safetensors" if variant else "the header is damaged")


@pytest.mark.parametrize("variants", [[None, "fp16"], ["fp16", None]])
def test_what_is_wrong_with_weights_is_said_rather_than_that_another_variant_is_missing(variants, tmp_path):
    with pytest.raises(UserError, match=r"cannot be loaded .the header is damaged"):
        Repository(str(tmp_path)).load(Damaged, variants=variants)


def test_a_weights_file_that_was_cut_short_is_named(tmp_path):
    write_weights(tmp_path, {"a.weight": (2, 3)})
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(
        UserError, match=rf"{file} is damaged or was not downloaded to its end.*Get that file"
    ):
        Repository(str(tmp_path)).weights("unet").check(None, SHAPES)


@pytest.mark.parametrize("content", ["[1, 2]", "{"])
def test_a_configuration_that_is_no_object_is_damaged_and_in_a_folder_not_to_be_deleted(content, tmp_path):
    (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(
        UserError, match=r"model_index\.json cannot be read.*download that file anew"
    ) as refusal:
        _ = Repository(str(tmp_path)).index
    assert "delete" not in str(refusal.value)
