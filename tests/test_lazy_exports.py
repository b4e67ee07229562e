"""YAML names rooms, not files: each room lists the names, and imports what is behind one when it is used."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from expkit.config import addresses

ROOT = Path(__file__).parents[1]
LAZY = ("data", "metrics", "models", "results", "tasks", "text", "training")
CONFIGURED = sorted(
    {
        address
        for folder in ("conf", "experiments")
        for file in (ROOT / folder).rglob("*.yaml")
        for address in re.findall(r"_target_[\"']?: *[\"']?(expkit\.[\w.]+)", file.read_text())
    }
)


def test_every_target_is_a_name_of_a_room():
    assert len(CONFIGURED) > 100
    assert [address for address in CONFIGURED if address.count(".") != 2] == []
    for address in (*CONFIGURED, *addresses.FORMER_TARGETS):
        room, _, name = address.rpartition(".")
        package = import_module(room)
        assert name in package.__all__ and callable(getattr(package, name)), address


@pytest.mark.parametrize("room", LAZY)
def test_a_room_s_names_are_found_and_are_those_that_type_checkers_see(room):
    package = import_module(f"expkit.{room}")
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    assert {*package.__all__} <= {*dir(package)}
    with pytest.raises(AttributeError, match=f"module 'expkit.{room}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018
    source = ast.parse(Path(package.__file__).read_text())
    (block,) = (node.body for node in source.body if isinstance(node, ast.If))
    imported = {alias.asname: node.module for node in block for alias in node.names}
    assert imported == {name: f"expkit.{room}.{module}" for name, module in package.EXPORTS.items()}


@pytest.mark.parametrize("room", (*LAZY, "core"))
def test_no_name_of_a_room_is_that_of_one_of_its_files(room):
    """The file would take the place of the name as soon as it is imported."""
    package = import_module(f"expkit.{room}")
    folder = Path(package.__file__).parent
    files = {path.stem for path in folder.iterdir() if path.suffix in (".py", "")}
    assert not files & {*package.__all__}


def test_importing_a_room_imports_nothing_of_it():
    code = (
        "import sys; before = {*sys.modules}; import " + ", ".join(f"expkit.{room}" for room in LAZY) + "\n"
        "print(*sorted(name for name in {*sys.modules} - before if name.startswith(('expkit', 'torch'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = [f"expkit.{room}" for room in LAZY]
    assert done.stdout.split() == sorted(["expkit", "expkit.lazy_exports", *rooms])
