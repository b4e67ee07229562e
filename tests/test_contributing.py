"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stand_in import AS_EMNIST

ROOT = Path(__file__).parents[1]
SECTIONS = dict(
    re.findall(r"^## (Add [^\n]+)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
)
BLOCK = re.compile(r"^`(?P<path>[\w/.]+)`\n\n```(?P<kind>\w+)\n(?P<text>.*?)```$", re.M | re.S)
COMMAND = re.compile(r"^```bash\npython -m (expkit [^\n]+)\n```$", re.M)


def copy_of_the_checkout(folder: Path) -> Path:
    for name in ("src", "conf", "experiments", "tests", "scripts"):
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def patched(text: str, diff: str) -> str:
    """Each line that is added stands below the line of the diff before it."""
    lines, place = text.splitlines(), 0
    for line in diff.splitlines():
        if line[0] == "+":
            lines.insert(place, line[1:])
            place += 1
        else:
            place = lines.index(line[1:]) + 1
    return "\n".join(lines) + "\n"


def run(*arguments: str, folder: Path, copy: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_there_are_six_recipes_of_at_most_forty_lines_each():
    assert list(SECTIONS) == [
        "Add a view", "Add a solver", "Add a prompt and a task", "Add a model",
        "Add a family of pretrained models", "Add a network",
    ]  # fmt: skip
    for text in SECTIONS.values():
        code = [block["text"] for block in BLOCK.finditer(text) if not block["path"].startswith("tests/")]
        assert 4 <= sum(len(block.splitlines()) for block in code) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("name", SECTIONS)
def test_a_recipe_works_as_it_is_written(name, tmp_path, data):
    copy = copy_of_the_checkout(tmp_path / "copy")
    blocks = [match.groupdict() for match in BLOCK.finditer(SECTIONS[name])]
    for block in blocks:
        path = copy / block["path"]
        if block["kind"] == "diff":
            path.write_text(patched(path.read_text(), block["text"]))
            continue
        gap = "\n\n" if path.exists() and path.suffix == ".py" else ""
        with path.open("a") as file:
            file.write(gap + block["text"])
    tests = [block["path"] for block in blocks if block["path"].startswith("tests/")]
    done = run("pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests, folder=copy, copy=copy)
    assert done.returncode == 0 and tests, done.stdout + done.stderr
    if name == "Add a family of pretrained models":  # its command would need weights
        return
    (command,) = COMMAND.findall(SECTIONS[name])
    work = tmp_path / "work"
    work.mkdir()
    done = run(*command.split(), "logger=none", *AS_EMNIST, folder=work, copy=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [*work.glob("outputs/**/picture.png"), *work.glob("outputs/**/index.html")]
