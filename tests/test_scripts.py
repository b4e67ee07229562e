"""Scripts in Python are run by a shell first, which sees to their environment, and are Python all the same."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [path.name for path in (ROOT / "scripts").iterdir() if path.read_text().split("\n")[1].startswith('""":"')]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout whose environment is there; its Python says only what it is told to run."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    sums = subprocess.run(["cksum"], input=b"", capture_output=True, check=True).stdout.decode().strip()
    (tmp_path / ".venv/stamp").write_text(f"{sums} {tmp_path.resolve()}")
    return tmp_path


def test_no_script_asks_for_whatever_python_there_is():
    heads = [path.read_text().split("\n")[0] for path in (ROOT / "scripts").iterdir()]
    assert not [head for head in heads if "python" in head] and {"bench", "hybrid_pairs", "tiny_if"} <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_in_the_environment_of_its_checkout(name, checkout):
    script = checkout / "scripts" / name
    done = subprocess.run([script, "a word", "--flag"], capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, [str(script), "a word", "--flag"], "")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_python_and_finds_all_that_it_imports(name):
    runpy.run_path(str(ROOT / "scripts" / name))


@pytest.mark.parametrize(("name", "arguments", "first"), [("hybrid_pairs", ["--help"], "usage: "), ("tiny_if", [], "A DeepFloyd IF")])
def test_the_help_of_a_script_says_nothing_of_its_shell(name, arguments, first):
    done = subprocess.run([sys.executable, ROOT / "scripts" / name, *arguments], capture_output=True, text=True)
    assert (done.stdout + done.stderr).startswith(first) and "exec" not in done.stdout + done.stderr
