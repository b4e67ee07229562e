"""Scripts in Python are run by a shell first, which sees to their environment, and are Python all the same."""

import ast
import importlib.util
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [
    path.name for path in (ROOT / "scripts").iterdir() if path.read_text().split("\n")[1].startswith('""":"')
]


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
    (tmp_path / ".venv/stamp").write_text(f"{sums} dev {tmp_path.resolve()}")
    return tmp_path


def test_no_script_asks_for_whatever_python_there_is():
    heads = [path.read_text().split("\n")[0] for path in (ROOT / "scripts").iterdir()]
    assert not [head for head in heads if "python" in head] and {
        "bench",
        "hybrid_pairs",
        "tiny_model",
    } <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_in_the_environment_of_its_checkout(name, checkout):
    script = checkout / "scripts" / name
    done = subprocess.run([script, "a word", "--flag"], capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (
        0,
        [str(script), "a word", "--flag"],
        "",
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_python_and_finds_all_that_it_imports(name):
    runpy.run_path(str(ROOT / "scripts" / name))


@pytest.mark.parametrize(
    ("name", "arguments", "first"),
    [("hybrid_pairs", ["--help"], "usage: "), ("tiny_model", [], "A random tiny pipeline")],
)
def test_the_help_of_a_script_says_nothing_of_its_shell(name, arguments, first):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / name, *arguments], capture_output=True, text=True
    )
    assert (done.stdout + done.stderr).startswith(first) and "exec" not in done.stdout + done.stderr


# ---- the environment: nothing behind a link is removed or installed into

PYTHON = """#!/bin/sh
printf '%s\\n' "$*" >>"$CALLS"
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && touch .venv/pyvenv.cfg ;;
  --version) echo Python 3.11.0 ;;
esac
"""


@pytest.fixture
def unmade(tmp_path):
    """A checkout without an environment, and run(script, ...): a process in which every Python is one that only notes what it is told."""
    checkout, stub = tmp_path / "checkout", tmp_path / "stub"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        (checkout / name).write_text("")
    stub.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        (stub / name).write_text(PYTHON)
        (stub / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()

    def run(script: str, *arguments: str) -> tuple[int, str, list[str]]:
        """The exit code, what was said, and the installations and modules that were asked for."""
        variables = {"PATH": f"{stub}:/usr/bin:/bin", "CALLS": str(calls)}
        done = subprocess.run(
            [checkout / "scripts" / script, *arguments], capture_output=True, text=True, env=variables
        )
        asked, _ = calls.read_text().splitlines(), calls.write_text("")
        return done.returncode, done.stderr, [line for line in asked if line.startswith("-m")]

    return checkout, run


def environment(folder: Path, checkout: str = "/another/checkout") -> dict[str, str]:
    """Make one that belongs to some checkout; what lies in it."""
    (folder / "bin").mkdir(parents=True)
    (folder / "lib/python3.11/site-packages").mkdir(parents=True)
    (folder / "lib/python3.11/site-packages/torch.py").write_text("theirs")
    (folder / "bin/python").write_text(PYTHON)
    (folder / "bin/python").chmod(0o755)
    (folder / "pyvenv.cfg").write_text("")
    (folder / "stamp").write_text(f"1 2 {checkout}")
    return contents(folder)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("stamp", ["1 2 /another/checkout", "making", "failed /another/checkout", ""])
@pytest.mark.parametrize("script", ["run", "test", "tiny_model"])
def test_the_environment_of_another_checkout_is_left_as_it_is_behind_a_link(script, stamp, unmade, tmp_path):
    checkout, run = unmade
    environment(tmp_path / "theirs")
    (tmp_path / "theirs/stamp").write_text(stamp)
    before = contents(tmp_path / "theirs")
    (checkout / ".venv").symlink_to(tmp_path / "theirs")
    code, said, asked = run(script)
    assert (
        code == 2
        and f".venv is a link to {tmp_path / 'theirs'}" in said
        and "Remove the link" in said
        and said.count("\n") == 1
    )
    assert contents(tmp_path / "theirs") == before and not asked and (checkout / ".venv").is_symlink()


def test_an_environment_of_this_checkout_is_used_through_a_link(unmade, tmp_path):
    checkout, run = unmade
    assert run("run")[0] == 0
    (checkout / ".venv").rename(tmp_path / "elsewhere")
    (checkout / ".venv").symlink_to(tmp_path / "elsewhere")
    assert run("run", "task=sample") == (0, "", ["-m expkit task=sample"])


@pytest.mark.parametrize("what", ["dangling", "link to a file", "file"])
def test_what_is_no_folder_is_left_as_it_is(what, unmade, tmp_path):
    checkout, run = unmade
    place, target = checkout / ".venv", tmp_path / "target"
    if what == "file":
        place.write_text("mine")
    else:
        place.symlink_to(target)
    if what == "link to a file":
        target.write_text("mine")
    code, said, asked = run("run")
    assert code == 2 and f".venv is a {what.split()[0].replace('dangling', 'link')}" in said and not asked
    assert place.is_symlink() == (what != "file") and target.exists() == (what == "link to a file")
    assert what == "dangling" or place.read_text() == "mine"


@pytest.mark.parametrize(
    "part", ["bin", "lib", "lib/python3.11", "lib/python3.11/site-packages", "stamp", "pyvenv.cfg"]
)
def test_nothing_is_installed_behind_a_link_inside_of_the_environment(part, unmade, tmp_path):
    checkout, run = unmade
    environment(checkout / ".venv", str(checkout))
    (checkout / ".venv" / part).rename(tmp_path / "target")
    (checkout / ".venv" / part).symlink_to(tmp_path / "target")
    before = contents(tmp_path)
    code, said, asked = run("run")
    assert code == 2 and f".venv/{part} is a link" in said and not asked
    assert {name: text for name, text in contents(tmp_path).items() if name != "calls"} == {
        k: v for k, v in before.items() if k != "calls"
    }


def test_a_copied_environment_is_made_again_and_links_in_it_are_not_followed(unmade, tmp_path):
    checkout, run = unmade
    environment(checkout / ".venv")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine").write_text("mine")
    (checkout / ".venv/share").symlink_to(tmp_path / "data")
    (checkout / ".venv/lib64").symlink_to("lib")
    code, said, asked = run("run")
    assert (
        code == 0
        and "the checkout has moved" in said
        and asked[0] == "-m venv .venv"
        and asked[-1] == "-m expkit"
    )
    assert contents(tmp_path / "data") == {"mine": "mine"} and not (checkout / ".venv/lib").exists()


def installed(asked: list[str]) -> list[str]:
    """The extras of expkit that were installed."""
    return [line.split(".[")[1].rstrip("]") for line in asked if ".[" in line]


def test_the_first_command_installs_what_users_need_with_uv_and_tests_add_what_developers_need(unmade):
    _, run = unmade
    code, said, asked = run("run")
    assert code == 0 and installed(asked) == ["all"] and "the environment is ready" in said
    assert all(line.startswith("-m uv pip install") for line in asked if "install" in line)
    assert installed(run("run")[2]) == []
    assert installed(run("test")[2]) == ["dev"]
    assert installed(run("test")[2]) == installed(run("run")[2]) == []


def test_where_uv_cannot_be_had_pip_installs(unmade):
    checkout, run = unmade
    for stub in (checkout.parent / "stub").iterdir():
        stub.write_text(PYTHON.replace("--version)", '*" uv"|*"-m uv"*) exit 1 ;;\n  --version)'))
    code, _, asked = run("run")
    assert code == 0 and installed(asked) == ["all"]
    assert [line.split()[1] for line in asked if ".[" in line] == ["pip"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_takes_from_expkit_is_there_within_its_functions_too(name):
    tree = ast.parse((ROOT / "scripts" / name).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    for node in [node for node in imports if node.module.startswith("expkit")]:
        module = importlib.import_module(node.module)
        for alias in node.names:
            found = hasattr(module, alias.name)
            assert found or importlib.util.find_spec(f"{node.module}.{alias.name}"), alias.name
