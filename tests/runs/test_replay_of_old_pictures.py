"""Pictures that were made before the modules moved (commit 09594cf) are made again: their addresses are looked up in today's rooms."""

from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from expkit.config import addresses
from expkit.runs import replay

OLD = sorted((Path(__file__).parent / "replayed").glob("*.png"))
ROUNDING = 2  # grey levels: floats round otherwise on other processors than that on which they were made


def test_there_are_pictures_of_many_tasks():
    assert len(OLD) >= 10


@pytest.mark.parametrize("picture", OLD, ids=lambda path: path.stem)
def test_an_old_picture_is_made_again(picture, tmp_path):
    recipe, wanted = replay.open_recipe(picture)
    result = replay.run_again(recipe, tmp_path / "again")
    apart = {
        name: replay.find_difference(Image.open(old), result.folder / name) for name, old in wanted.items()
    }
    assert apart and all(
        isinstance(difference, int) and difference <= ROUNDING for difference in apart.values()
    ), apart


@pytest.mark.parametrize("old", addresses.MODULES)
def test_old_modules_are_gone_and_their_new_ones_are_there(old):
    assert import_module(addresses.MODULES[old])
    room = ".".join(addresses.MODULES[old].split(".")[:2])
    assert addresses.current_address(f"{old}.name") == f"{room}.name"
    with pytest.raises(ModuleNotFoundError):
        import_module(old)


@pytest.mark.parametrize("old", addresses.NAMES)
def test_old_names_are_gone_and_their_new_ones_are_there(old):
    module, _, name = old.rpartition(".")
    assert getattr(getattr(import_module(module), name, None), "__module__", None) != module
    room, _, name = addresses.current_address(old).rpartition(".")
    assert (
        getattr(import_module(room), name) and addresses.current_address(f"{room}.{name}") == f"{room}.{name}"
    )
