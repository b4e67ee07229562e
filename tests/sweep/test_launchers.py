"""Other launchers of Hydra's: the same cells and pictures as in this process, holes where they fail, and nothing is made again."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from expkit.config import checks
from expkit.images import image_io
from expkit.runs.job import ComposedConfig, Job
from expkit.sweep import sweeper
from expkit.sweep.cells import LAUNCHED, Incomplete, run_cell
from tests.stand_in import AS_EMNIST

SMALL = ("model=ideal", "model.count=60", "logger=none", "steps=4", "task=sdedit", "prompt=3", *AS_EMNIST)
PLUGINS = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher"}


@pytest.fixture(autouse=True)
def new_workers():
    """joblib keeps its processes from sweep to sweep, and with them the folder that an earlier test ran in."""
    yield
    if find_spec("joblib"):
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)


def launched(name: str, expkit):
    """Runs a sweep by another launcher."""
    if not find_spec(f"hydra_plugins.{PLUGINS[name]}"):
        assert not os.environ.get("CI"), "CI must have the launchers: pip install 'expkit[cluster]'"
        pytest.skip("the launcher is not installed: pip install 'expkit[cluster]'")
    workers = ["hydra.launcher.n_jobs=2"] if name == "joblib" else []
    return lambda *arguments: expkit("-m", f"hydra/launcher={name}", *workers, *SMALL, *arguments)


def table(folder: Path) -> list[list[str]]:
    """The columns of a table that are the same wherever a sweep is run."""
    lines = [line.split(",") for line in (folder / "table.csv").read_text(encoding="utf-8").splitlines()]
    kept = [
        place
        for place, name in enumerate(lines[0])
        if name in ("cell", "status", "i_start", "gamma", "picture", "command")
    ]
    return [[line[place] for place in kept] for line in lines]


def picture(folder: Path, cell: str) -> torch.Tensor:
    return image_io.as_tensor(Image.open(folder / "cells" / cell / "pictures" / "000.png"))


@pytest.mark.parametrize(
    ("name", "i_starts"), [("joblib", "1,2,3"), pytest.param("submitit_local", "1", marks=pytest.mark.slow)]
)
def test_a_sweep_elsewhere_equals_one_in_this_process(name, i_starts, expkit, data):
    swept = (f"i_start={i_starts}", "gamma=1,7")
    there, here = (
        launched(name, expkit)(*swept, "hydra.sweep.dir=there"),
        expkit("-m", *SMALL, *swept, "hydra.sweep.dir=here"),
    )
    assert there.code == 0 and here.code == 0, there.err
    rows = table(here.folder)[1:]
    assert table(there.folder) == table(here.folder) and len(rows) == 2 * len(i_starts.split(","))
    for cell, *_ in rows:
        assert (picture(there.folder, cell) - picture(here.folder, cell)).abs().max() <= 1.01 / 255
    assert {path.name for path in here.folder.iterdir()} <= {path.name for path in there.folder.iterdir()}
    again = expkit("-m", *SMALL, swept[0], "gamma=1,3,7", "hydra.sweep.dir=there")
    assert (
        again.code == 0
        and f"{len(table(again.folder)) - 1} cells, {len(rows)} of them there already" in again.err
    )


def test_a_cell_that_fails_elsewhere_is_a_hole_and_the_same_command_goes_on(expkit, data, tmp_path):
    swept = ("image=cat,late.png", "i_start=2", "hydra.sweep.dir=swept")
    done = launched("joblib", expkit)(*swept)
    assert (
        done.code == 2
        and "1 of 2 cells are there" in done.err
        and "There is no picture 'late.png'" in done.err
    )
    assert sorted(path.is_dir() for path in tmp_path.glob("swept/cells/[!.]*")) == [False, True]
    Image.new("L", (28, 28), 90).save(tmp_path / "late.png")
    done = launched("joblib", expkit)(*swept)
    assert (
        done.code == 0
        and "1 of them there already" in done.err
        and [row[1] for row in table(done.folder)[1:]] == ["done", "done"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["rows", "joblib"])
def test_an_experiment_that_sweeps_by_itself_goes_on_in_the_folder_of_its_command(launcher, expkit, data):
    if launcher != "rows":
        launched(launcher, expkit)
    command = (
        "experiment=a1",
        *SMALL[:3],
        *AS_EMNIST,
        "hydra.sweeper.params.steps='4,6'",
        f"hydra/launcher={launcher}",
    )
    first, again, told = expkit(*command), expkit(*command), expkit("-m", *command)
    assert (first.code, again.code, told.code) == (0, 0, 0), first.err
    assert (
        first.folder == again.folder == told.folder
        and first.folder.name.startswith("a1-")
        and "2 of them there already" in again.err
    )
    assert [row[1] for row in table(first.folder)[1:]] == ["done", "done"] and len(
        list((first.folder / "cells").glob("[!.]*"))
    ) == 2
    assert len(list(first.folder.parent.iterdir())) == 1
    assert expkit(*command, "hydra.sweep.dir=mine").folder == Path("mine")


def test_after_a_failure_no_cell_is_begun_where_the_sweep_is_to_stop(tmp_path, monkeypatch):
    begun = []
    job = Job(ComposedConfig({}), [])
    vars(job)["resolved"] = {"sweep": {"on_error": "stop"}}
    monkeypatch.setattr("expkit.sweep.cells.run_job", lambda job, part, about: begun.append(part) or 1 / 0)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "before.error.txt").touch()
    os.utime(tmp_path / "cells" / "before.error.txt", (1, 1))
    (tmp_path / LAUNCHED).touch()
    os.utime(tmp_path / LAUNCHED, (2, 2))
    run_cell(job, tmp_path / "cells" / "first")
    run_cell(job, tmp_path / "cells" / "second")
    assert len(begun) == 1 and "ZeroDivisionError" in (tmp_path / "cells" / "first.error.txt").read_text()


@pytest.mark.parametrize("name", ["joblib", "submitit_slurm"])
def test_a_launcher_that_gives_up_is_said_and_jobs_that_go_on_are(name, tmp_path, stderr):
    from omegaconf import OmegaConf

    def lost(cell_arguments, first):
        assert os.environ["TQDM_DISABLE"] == "1"
        raise RuntimeError("a worker was killed.\nby whom is unknown")

    def interrupted(cell_arguments, first):
        raise KeyboardInterrupt

    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "launcher": {"name": "expkit"}}})
    (tmp_path / "cells").mkdir()
    with pytest.raises(
        Incomplete, match=f"hydra/launcher={name} gave up: a worker was killed. What is missing"
    ):
        sweeper.launch_external(name, lost, config, [("gamma=1",)], 0)
    with pytest.raises(KeyboardInterrupt):
        sweeper.launch_external(name, interrupted, config, [("gamma=1",)], 0)
    assert ("scancel --name=expkit" in stderr()) == (
        name == "submitit_slurm"
    ) and "TQDM_DISABLE" not in os.environ


def test_a_launcher_that_is_not_installed_is_asked_for(expkit, monkeypatch):
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # which registers those that are
    group = ConfigStore.instance().repo["hydra"]["launcher"]
    for name in ("joblib", "submitit_slurm", "submitit_local"):
        monkeypatch.delitem(group, f"{name}.yaml", raising=False)
        done = expkit("-m", f"hydra/launcher={name}", *SMALL, "gamma=1,7")
        assert (
            done.code == 2
            and f"hydra/launcher={name}" in done.err
            and "pip install 'expkit[cluster]'" in done.err
        )
    assert "expkit[cluster]" not in checks.no_option("hydra/launcher/nonsense", ["rows"])
