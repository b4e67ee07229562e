"""scripts/tiny_model builds what diffusers loads, small, the same each time, and refuses in sentences."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from expkit.storage.files import sha256
from tests.tiny_pipelines import FAMILIES

ROOT = Path(__file__).parents[3]
MAIN = runpy.run_path(str(ROOT / "scripts" / "tiny_model"))["main"]
STAGED = {"if": ("stage_1", "stage_2")}
PARTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


@pytest.fixture(scope="module", params=FAMILIES)
def built(request, tmp_path_factory):
    """The name of a family and a folder that holds its model."""
    folder = tmp_path_factory.mktemp("tiny") / request.param
    return request.param, FAMILIES[request.param](folder)


def test_diffusers_loads_it_whole_and_it_is_small(built):
    from diffusers import DiffusionPipeline

    family, folder = built
    for stage in STAGED.get(family, ("",)):
        pipe = DiffusionPipeline.from_pretrained(folder / stage)
        numbers = {
            name: sum(parameter.numel() for parameter in part.parameters())
            for name, part in pipe.components.items()
            if name in PARTS and part is not None
        }
        assert numbers and all(1_000 < number < 1_000_000 for number in numbers.values()), numbers
        assert not list(folder.rglob("*.bin")) and list(folder.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """A folder in which another process has built every family."""
    folder = tmp_path_factory.mktemp("again")
    code = (
        "import sys; from pathlib import Path; from tests.tiny_pipelines import FAMILIES\n"
        "for name, build in FAMILIES.items(): build(Path(sys.argv[1]) / name)"
    )
    subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=True, capture_output=True)
    return folder


def test_another_process_writes_the_same_files(built, again):
    family, folder = built
    written = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(written) > 3
    for path in written:
        assert sha256(folder / path) == sha256(again / family / path), path


def test_an_unknown_family_and_a_folder_with_something_in_it_are_refused(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert MAIN(["sdxxl", str(tmp_path / "new")]) == 2
    said = capsys.readouterr().err
    assert "'sdxxl'" in said and all(family in said for family in FAMILIES) and said.count("\n") == 1
    for place in ("full", "file"):
        assert MAIN(["sd", str(tmp_path / place)]) == 2
        said = capsys.readouterr().err
        assert f"{tmp_path / place} is there already" in said and said.count("\n") == 1
    assert MAIN(["sd", str(tmp_path / "file" / "below")]) == 2
    said = capsys.readouterr().err
    assert "cannot be made (Not a directory)" in said and said.count("\n") == 1
    assert MAIN(["sd"]) == 2 and "scripts/tiny_model FAMILY FOLDER" in capsys.readouterr().err
    assert {path.name for path in tmp_path.rglob("*")} == {"full", "mine", "file"}


def test_it_says_what_to_run_next(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert MAIN(["dit", str(tmp_path / "empty")]) == 0
    said = capsys.readouterr().out.strip()
    assert (
        said
        == f"scripts/run model=diffusers prompt='golden retriever' model.weights={tmp_path}/empty steps=3 samples=1"
    )
    assert (tmp_path / "empty" / "model_index.json").is_file()
