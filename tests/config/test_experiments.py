"""The group `experiment` is the folder experiments/ beside conf/, without a link: in a checkout and in an installed wheel."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from expkit.config import checks, schema
from expkit.sweep.sweeper import search_folders

ROOT = Path(__file__).parents[2]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
MINE = """\
# @package _global_
# One of the test's own
gamma: 4.5
"""


def copied(folder: Path, sources: dict[str, str]) -> Path:
    """The parts of a checkout, each at the place that `sources` says; weights are left out."""
    for part, place in sources.items():
        leave = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(ROOT / part, folder / place, symlinks=True, ignore=leave, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module", params=["checkout", "wheel"])
def copy(request, tmp_path_factory) -> tuple[Path, Path]:
    """(a folder with expkit in it, its experiments) as a checkout without links has them, and as a wheel has."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "wheel":
        copied(folder, BUILD["sources"])
        return folder, folder / "expkit" / "experiments"
    copied(folder, {part: part for part in BUILD["sources"]})
    return folder / "src", folder / "experiments"


def run(copy: tuple[Path, Path], *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    package, experiments = copy
    (experiments / "mine.yaml").write_text(MINE)
    environment = os.environ | {"PYTHONPATH": str(package), **variables}
    command = [sys.executable, "-m", "expkit", *arguments]
    return subprocess.run(
        command, cwd=package.parent, env=environment, capture_output=True, text=True, timeout=120
    )


def test_nothing_that_is_packed_is_a_link():
    assert {*BUILD["only-include"]} == {"src/expkit", "src/hydra_plugins", "conf", "experiments"}
    paths = [path for part in BUILD["only-include"] for path in (ROOT / part).rglob("*")]
    assert len(paths) > 100 and not [path for path in paths if path.is_symlink()]


def test_a_copy_without_links_composes_its_own_experiments(copy):
    ran = run(copy, "experiment=mine", "--cfg", "job")
    assert ran.returncode == 0 and yaml.safe_load(ran.stdout)["gamma"] == 4.5, ran.stderr


def test_a_copy_says_which_experiments_there_are(copy):
    ran = run(copy, "experiment=min")
    assert ran.returncode == 2 and not ran.stdout
    assert ran.stderr.startswith(
        "expkit: There is no experiment 'min'. Did you mean mine? There are: a1, a2_1,"
    )
    assert "  mine " in run(copy, "--help").stdout


def test_a_copy_completes_the_names_of_its_experiments(copy):
    line = "expkit experiment=mi"
    ran = run(copy, "--shell-completion", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert ran.returncode == 0 and ran.stdout.split() == ["experiment=mine"], ran.stderr


def test_an_experiment_in_a_folder_of_its_own_is_found_too(copy):
    (copy[1] / "inner").mkdir(exist_ok=True)
    (copy[1] / "inner" / "deep.yaml").write_text(MINE.replace("4.5", "2.5"))
    ran = run(copy, "experiment=inner/deep", "--cfg", "job")
    assert ran.returncode == 0 and yaml.safe_load(ran.stdout)["gamma"] == 2.5, ran.stderr


def test_the_folder_of_experiments_is_one_of_those_that_decide_a_sweep():
    with initialize_config_dir(str(schema.config_folder()), version_base="1.3"):
        config = compose("config", ["experiment=a2_1"], return_hydra_config=True)
    assert search_folders(config) == [schema.config_folder(), schema.experiments_folder()]


def test_keys_of_an_experiment_are_read_where_it_lies():
    folders = (schema.config_folder(),)
    assert {"image", "t"} <= {*schema.read_option_file("experiment", "a2_1", "", folders)}
    assert checks.group_options("experiment")["a2_1"].startswith("A2.1: ")


def test_another_application_of_hydra_sees_no_experiments(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "experiments").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("gamma: 1\n")
    (tmp_path / "experiments" / "mine.yaml").write_text(MINE)
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        for name in ("mine", "a2_1"):  # a key of its own, since there is no such group
            assert compose("config", [f"+experiment={name}"]) == {"gamma": 1, "experiment": name}
