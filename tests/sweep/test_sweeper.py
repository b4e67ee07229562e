"""Sweeps: a cell is made once, ever, in one batch with others where it can be; what fails is a hole; all of it is shown."""

import csv
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from expkit.config.command_line import CommandLine
from expkit.errors import UserError
from expkit.images import image_io
from expkit.runs import replay
from expkit.runs.job import ComposedConfig
from expkit.sweep import batch_launcher, contact_sheet, names, report
from expkit.sweep.cells import Cell, Incomplete, atomic_folder, make_cell
from expkit.sweep.sweeper import check_cells
from tests.stand_in import AS_EMNIST

SMALL = ("model=ideal", "model.count=60", "logger=none", "samples=1", "steps=5", "i_start=1")
EMPTY = repr("")


@pytest.fixture
def ran(expkit, data):
    return lambda *arguments: expkit(*SMALL, *arguments)


def table(folder: Path) -> list[dict]:
    with (folder / "table.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def picture(folder: Path, name: str = "pictures/000.png"):
    return image_io.as_tensor(Image.open(folder / name))


def page(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def test_a_sweep_leaves_a_folder_a_cell_a_sheet_a_table_and_a_page(ran):
    done = ran("-m", "task=sdedit", "i_start=1,2,3", "gamma=1,7", "prompt=3")
    assert done.code == 0, done.err
    rows = table(done.folder)
    assert [(row["i_start"], row["gamma"]) for row in rows] == [(i, g) for i in "123" for g in "17"]
    assert all(row["status"] == "done" and (done.folder / row["picture"]).is_file() for row in rows)
    assert rows[0]["command"] == " ".join(
        ["python -m expkit", *SMALL[:-1], "i_start=1 task=sdedit gamma=1 prompt=3"]
    )
    assert len(list((done.folder / "cells").iterdir())) == 6
    assert Image.open(done.folder / "sheet.png").width > 100 and "i_start by gamma" in page(done.folder)
    from pyarrow import parquet

    assert parquet.read_table(done.folder / "table.parquet").column("gamma").to_pylist() == [1, 7] * 3


def test_cells_that_differ_in_rows_only_are_one_batch_and_have_the_pictures_they_have_alone(ran, tmp_path):
    Image.new("L", (28, 28), 200).save(tmp_path / "grey.png")
    axes = {
        "prompt": "3,8",
        "gamma": "1,5",
        "seed": "1,2",
        "i_start": "1,3",
        "image": "smiley,grey.png",
        "negative": "'',8",
    }
    done = ran("-m", "task=sdedit", "sweep.rows=999", *[f"{key}={values}" for key, values in axes.items()])
    assert done.code == 0 and "sdedit: 64 pictures" in done.err, done.err
    for row in table(done.folder)[::9]:
        alone = ran("task=sdedit", *[f"{key}={row[key] or EMPTY}" for key in axes])
        assert alone.code == 0, alone.err
        assert (picture(done.folder / row["folder"]) - picture(alone.folder)).abs().max() <= 1.01 / 255
        numbers = json.loads((done.folder / row["folder"] / "numbers.json").read_text())
        assert (
            numbers["starts"] == alone.numbers()["starts"]
            and numbers["judged"].keys() == alone.numbers()["judged"].keys()
        )


@pytest.mark.parametrize("task", ["hybrid", "anagram", "trajectory", "inpaint"])
def test_every_sampling_task_can_share_a_batch(task, ran):
    key = {"hybrid": "far", "anagram": "upright"}.get(task, "prompt")
    done = ran("-m", f"task={task}", f"{key}=3,8", "samples=2")
    assert done.code == 0 and f"{task}: 4 pictures" in done.err, done.err
    for row in table(done.folder):
        alone = ran(f"task={task}", f"{key}={row[key]}", "samples=2")
        assert {p.name for p in alone.folder.iterdir()} == {
            p.name for p in (done.folder / row["folder"]).iterdir()
        }
        assert (
            picture(done.folder / row["folder"], "picture.png") - picture(alone.folder, "picture.png")
        ).abs().max() <= 1.01 / 255


def test_what_is_there_is_not_made_again_and_what_is_missing_is(ran, monkeypatch):
    command = ("-m", "task=sample", "prompt=3,8", "seed=1,2")
    first = ran(*command)
    times = {path: path.stat().st_mtime_ns for path in first.folder.glob("cells/*/numbers.json")}
    assert (
        ran(*command).out.strip() == str(first.folder) and "sweep" not in ran(*command).err
    )  # answered by its stamp
    gone = sorted(times)[2].parent
    kept = picture(gone)
    for file in sorted(gone.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    again = ran(*command)
    assert (
        again.code == 0
        and "4 cells, 3 of them there already" in again.err
        and "sample: 1 picture" in again.err
    )
    assert {path for path, at in times.items() if path.stat().st_mtime_ns != at} == {gone / "numbers.json"}
    assert (picture(gone) - kept).abs().max() <= 1.01 / 255


def test_a_wider_sweep_in_the_same_folder_makes_only_what_is_new(ran, tmp_path):
    where = f"hydra.sweep.dir={tmp_path / 'mine'}"
    ran("-m", "task=sample", "prompt=3", "gamma=1,7", where)
    wider = ran("-m", "task=sample", "prompt=3", "gamma=1,3,7", where)
    assert "3 cells, 2 of them there already" in wider.err and len(table(tmp_path / "mine")) == 3


def test_another_picture_under_the_same_name_is_another_cell(ran, tmp_path):
    command = ("-m", "task=sdedit", "prompt=3", "i_start=3,4", "image=mine.png")
    found = []
    for shade in (0, 250):
        Image.new("L", (28, 28), shade).save(tmp_path / "mine.png")
        done = ran(*command)
        assert done.code == 0 and "0 of them there already" in done.err
        found.append({row["cell"] for row in table(done.folder)})
    assert not found[0] & found[1]


def test_cells_that_fail_are_holes_and_the_others_go_on(ran):
    command = ("-m", "task=sample", "prompt=3,cat,8", "sampler=strided,nonsense")
    done = ran(*command)
    assert done.code == 2 and "2 of 6 cells are there; 4 are not" in done.err and "Traceback" not in done.err
    states = {(row["prompt"], row["sampler"]): row for row in table(done.folder_of("sweeps"))}
    assert states["3", "strided"]["status"] == states["8", "strided"]["status"] == "done"
    assert "'cat'" in states["cat", "strided"]["error"] and "nonsense" in states["3", "nonsense"]["error"]
    assert (
        "nonsense" in page(done.folder_of("sweeps"))
        and Image.open(done.folder_of("sweeps") / "sheet.png").width > 100
    )
    again = ran(*command)
    assert again.code == 2 and "2 of them there already" in again.err


def test_a_sweep_can_stop_at_its_first_failure(ran):
    done = ran("-m", "task=sample", "sampler=euler,strided", "prompt=cat", "sweep.on_error=stop")
    assert done.code == 2 and "the cells after it are left out" in done.err
    assert [row["status"] for row in table(done.folder_of("sweeps"))] == ["failed", "missing"]


def test_an_interrupted_sweep_shows_what_is_there_and_leaves_with_130(ran, monkeypatch):
    from expkit.core.solvers import DDPM

    def step(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(DDPM, "__call__", step)
    done = ran("-m", "task=sample", "prompt=3,8")
    assert done.code == 130 and "interrupted; 0 of 2 cells are there. The same command goes on." in done.err
    assert [row["status"] for row in table(done.folder_of("sweeps"))] == ["missing", "missing"]


def test_what_does_not_fit_into_memory_at_once_is_made_by_halves(ran, monkeypatch):
    from expkit.models.analytic import Ideal

    whole = Ideal.predict

    def tight(self, x, t, prompts):
        if len(x) > 4:
            raise MemoryError
        return whole(self, x, t, prompts)

    monkeypatch.setattr(Ideal, "predict", tight)
    done = ran("-m", "task=sample", "prompt=0,1,2,3,4,5", "gamma=3")
    assert done.code == 0 and all(row["status"] == "done" for row in table(done.folder))


def test_a_batch_holds_no_more_rows_than_asked_for(ran):
    done = ran("-m", "task=sample", "prompt=0,1,2,3,4,5", "sweep.rows=4")
    assert done.code == 0 and done.err.count("sample: 2 pictures") == 3


def cell(*told: str) -> Cell:
    return Cell(told, {}, str(told), None, "", told)


def test_what_is_dear_to_change_varies_slowest_whatever_order_it_was_typed_in():
    typed = [cell(f"sampler={s}", f"model={m}") for s in ("ddim", "ays") for m in ("digits", "ideal")]
    assert [[c.group[1] for c in group] for group in batch_launcher.group_cells(typed)] == [
        ["model=digits"]
    ] * 2 + [["model=ideal"]] * 2


def test_a_model_stays_loaded_from_cell_to_cell(ran, monkeypatch):
    from expkit.models import analytic
    from expkit.runs.job import resident

    made = []
    monkeypatch.setattr(
        analytic.Ideal,
        "__init__",
        lambda self, *a, _of=analytic.Ideal.__init__, **k: made.append(1) or _of(self, *a, **k),
    )
    resident.kept.clear()
    assert ran("-m", "task=sample", "prompt=3", "sampler=strided,ddim,ays", "steps=4").code in (0, 2)
    assert len(made) == 1


def test_tasks_that_share_no_batch_are_swept_too(ran):
    done = ran("-m", "task=forward,denoise", "t=[250],[500]")
    assert done.code == 0, done.err
    assert [row["task"] for row in table(done.folder)] == ["forward", "forward", "denoise", "denoise"]


def test_who_comes_second_to_a_cell_is_content_with_what_is_there(tmp_path):
    with atomic_folder(tmp_path / "a") as part:
        (part / "numbers.json").write_text("1")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "numbers.json").write_text("2")
    assert (tmp_path / "a" / "numbers.json").read_text() == "2" and [p.name for p in tmp_path.iterdir()] == [
        "a"
    ]
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "b") as part:
        1 / 0  # noqa: B018
    assert not (tmp_path / "b").exists()


def test_a_cell_that_was_not_run_is_said_in_a_sentence_of_its_own(tmp_path):
    with pytest.raises(Incomplete, match=r"The first of them: it was not run\. All are on"):
        check_cells(tmp_path, [Cell((), {}, "a")])


def test_the_command_of_a_cell_has_nothing_of_hydra_s_own():
    def refuse(arguments):
        raise UserError("it cannot be composed")

    arguments = ("gamma=1", "+hydra.job.env_set.A=1")
    overrides = OverridesParser.create().parse_overrides([*arguments])
    cell = make_cell(arguments, overrides, refuse, ComposedConfig({}))
    assert cell.error == "it cannot be composed" and cell.command.endswith("python -m expkit gamma=1")


def test_an_error_does_not_end_the_report_of_a_running_sweep(tmp_path, monkeypatch, stderr):
    failed, written = threading.Event(), threading.Event()

    def write() -> None:
        if failed.is_set():
            return written.set()
        failed.set()
        raise OSError("the disk is asleep")

    book = report.SweepReport(tmp_path, [Cell((), {}, "a")], "")
    monkeypatch.setattr(report, "PATIENCE", 0.01)
    monkeypatch.setattr(report, "is_done", lambda folder: failed.is_set())
    monkeypatch.setattr(book, "write", write)
    with book.live():
        assert written.wait(20)
    assert "the report was not updated (the disk is asleep)" in stderr()


def test_whether_a_cell_is_looked_at_from_afar_is_yes_or_no(tmp_path):
    assert report.NOTHING["distance"] is report.read_cell(tmp_path, "a")["distance"] is False


@pytest.mark.parametrize(
    ("value", "several"),
    [
        ("1,2", True),
        ("range(1,4)", True),
        ("[1,2]", False),
        ("'a, b'", False),
        ("[1,2],[3]", True),
        ("cat.png", False),
        ("{a:1,b:2}", 0),
    ],
)
def test_what_stands_for_several_values(value, several):
    assert names.is_sweep(value) == several


def test_a_sweep_has_one_name_whatever_the_order_and_the_launcher():
    def folder(*arguments: str) -> Path:
        return names.sweep_folder(CommandLine.of(arguments))

    told = ("task=sdedit", "gamma=1,7", "i_start=1,3")
    assert folder(*told).name.startswith("sdedit-gamma-i_start-")
    assert (
        folder("i_start=1,3", "hydra/launcher=joblib", "task=sdedit", "gamma=1,7").name[-8:]
        == folder(*told).name[-8:]
    )
    assert folder("task=sdedit", "gamma=1,8", "i_start=1,3") != folder(*told)
    others = (
        "--config-dir=src",
        "--config-name=other",
        "hydra.searchpath=[file://A]",
        "hydra.searchpath=[file://B]",
    )
    assert len({folder(*told, *other) for other in ((), *((one,) for one in others))}) == 5
    assert (
        folder("-cd", "src", *told)
        == folder(*told, "--config-dir", "src")
        == folder("--config-dir=src/", *told)
    )


def test_a_finished_sweep_is_answered_without_hydra_and_torch(ran, tmp_path):
    command = [*SMALL, "-m", "task=sample", "prompt=3,8"]
    folder = ran(*command[len(SMALL) :]).folder
    code = (
        f"import sys; sys.argv = ['expkit', *{command!r}]; import expkit.__main__ as m\n"
        "try: m.main()\nexcept SystemExit as e: print(e.code, {'hydra', 'torch'} & set(sys.modules))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert asked.stdout.splitlines() == [str(folder), "0 set()"]


def test_tensorboard_has_a_column_for_every_swept_key_and_number(expkit, data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    done = expkit(
        *[a for a in SMALL if not a.startswith("logger")], "-m", "task=sample", "prompt=3,8", "gamma=1,7"
    )
    assert done.code == 0, done.err

    def read(folder: Path):
        events = EventAccumulator(str(folder / "tensorboard"))
        return events.Reload()

    root = read(done.folder).SummaryMetadata(metadata.EXPERIMENT_TAG)
    experiment = metadata.parse_experiment_plugin_data(root.plugin_data.content)
    assert [one.name for one in experiment.hparam_infos] == ["prompt", "gamma"]
    assert {"network_calls", "judged/picture/second"} <= {one.name.tag for one in experiment.metric_infos}
    for row in table(done.folder):
        run = read(done.folder / row["folder"])
        told = run.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        start = metadata.parse_session_start_info_plugin_data(told)
        assert start.hparams["gamma"].number_value == float(row["gamma"]) and {
            "picture",
            "pictures/000",
        } <= set(run.Tags()["images"])


def test_wandb_has_a_run_a_cell_offline_and_grouped(expkit, data, monkeypatch):
    import wandb

    begun, init = [], wandb.init
    monkeypatch.setattr(wandb, "init", lambda **given: begun.append((given, init(**given))) or begun[-1][1])
    small = [a for a in SMALL if not a.startswith("logger")]
    done = expkit(*small, "logger=wandb", "logger.mode=offline", "-m", "task=sample", "prompt=3,8")
    assert done.code == 0, done.err
    assert [given["config"]["prompt"] for given, _ in begun] == [3, 8] and not any(
        "logger" in given["name"] for given, _ in begun
    )
    assert {given["group"] for given, _ in begun} == {done.folder.name}
    assert len(list(done.folder.glob("cells/*/wandb/offline-run-*/*.wandb"))) == 2


# ---- the sheet


def entries(axes: dict, error: str = "") -> list[dict]:
    from itertools import product

    return [
        {"axes": dict(zip(axes, values, strict=True)), "error": error} for values in product(*axes.values())
    ]


def plain(cell, side):
    return None if cell["error"] else Image.new("RGB", (side, side), (200, 30, 30))


@pytest.mark.parametrize(
    ("axes", "pages"),
    [({"a": [1]}, 1), ({"a": range(100)}, 1), ({"a": [1, 2], "b": range(9)}, 1), ({"a": [1, 2], "b": [1], "c": [1]}, 2),
     ({"a": range(100), "b": [1, 2]}, 3), ({"a": range(1000)}, 3)],
)  # fmt: skip
def test_axes_are_rows_and_columns_and_more_of_them_pages(axes, pages):
    made = contact_sheet.sheet_pages(
        {key: list(values) for key, values in axes.items()}, entries(axes), plain, "title", "note"
    )
    assert len(made) == pages and all(image.width * image.height <= 1e8 for image in made)
    red = sum(bool(image.getcolors(maxcolors=1 << 24)) for image in made)
    assert red == pages


def test_a_hole_says_why():
    axes = {"a": [1, 2]}
    whole, hole = (
        contact_sheet.sheet_pages(axes, entries(axes, error), plain, "", "")[0]
        for error in ("", "no such picture")
    )
    colours = [{colour for _, colour in image.getcolors(maxcolors=1 << 24)} for image in (whole, hole)]
    assert contact_sheet.FAILED in colours[1] and contact_sheet.FAILED not in colours[0]


def test_a_large_sheet_is_scaled_down_not_left_out():
    assert contact_sheet.limit_size(Image.new("L", (20_000, 10_000))).size == (14142, 7071)


# ---- made again

TASKS = (
    "sample",
    "hybrid",
    "anagram",
    "sdedit",
    "inpaint",
    "trajectory",
    "forward",
    "denoise",
    "generalize",
    "evaluate",
)


@pytest.mark.parametrize("task", TASKS)
def test_a_picture_of_every_task_is_made_again_to_the_bit(task, ran, expkit):
    done = ran(f"task={task}", "samples=20" if task == "evaluate" else "samples=2")
    assert done.code == 0, done.err
    for file in (sorted(done.folder.glob("pictures/*.png"))[-1], done.folder):
        again = expkit(f"replay={file}")
        assert again.code == 0 and "equal to the bit" in again.err, again.err


def test_a_cell_of_a_batch_is_made_again_from_a_copy_of_its_picture(ran, expkit, tmp_path):
    done = ran("-m", "task=sdedit", "prompt=3", "i_start=1,3,4", "gamma=1,7", "samples=2")
    cell = done.folder / table(done.folder)[3]["folder"]
    copy = tmp_path / "mailed.png"
    copy.write_bytes((cell / "pictures/001.png").read_bytes())
    again = expkit(f"replay={copy}")
    assert again.code == 0 and "sdedit: 12 pictures" in again.err
    assert torch.equal(picture(again.folder, "pictures/001.png"), picture(cell, "pictures/001.png"))


def test_what_is_not_equal_is_said_with_what_is_not_as_it_was(ran, expkit):
    done = ran("task=sample", "prompt=3")
    recipe = done.folder / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text.replace("# torch: ", "# torch: 1.").replace('"seed": 180', '"seed": 181'))
    again = expkit(f"replay={done.folder}")
    assert again.code == 1 and "differs: by up to" in again.err and "torch: 1." in again.err


def test_a_picture_that_is_missing_is_not_called_one_of_another_size(tmp_path):
    old, other = Image.new("L", (8, 8)), tmp_path / "other.png"
    Image.new("L", (9, 9)).save(other)
    apart = {path.name: replay.find_difference(old, path) for path in (other, tmp_path / "none.png")}
    assert replay.comparison_report(apart, {}, {})[:2] == [
        "other.png differs: it is of another size",
        "none.png differs: it was not made again",
    ]


@pytest.mark.parametrize("evil", ["os.system", "expkit.runs.recipe.subprocess.run"])
def test_a_recipe_builds_nothing_but_what_conf_can(evil, ran, expkit):
    done = ran("task=sample", "prompt=3")
    recipe = done.folder / "recipe.yaml"
    recipe.write_text(
        recipe.read_text().replace('"_target_": "expkit.core.Sampler"', f'"_target_": "{evil}"')
    )
    again = expkit(f"replay={done.folder}")
    assert again.code == 2 and evil in again.err and "not made again" in again.err


def test_what_cannot_be_made_again_is_said(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "recipe.yaml").write_text("gamma: 7\n")
    for place, says in (
        ("a.png", "holds no recipe"),
        ("nothing.png", "no file or folder"),
        (".", "holds no recipe"),
    ):
        with pytest.raises(UserError, match=says):
            replay.replay_picture(str(tmp_path / place), [])


# ---- killed, and two at once


def command(folder: Path) -> list[str]:
    axes = (
        "task=sdedit",
        "prompt=3",
        "i_start=1,2,3,4",
        "gamma=1,2,3,4,5,7",
        "sweep.rows=6",
        f"hydra.sweep.dir={folder}",
    )
    return [sys.executable, "-m", "expkit", "-m", *SMALL, *AS_EMNIST, *axes]


@pytest.mark.slow
def test_a_sweep_that_is_killed_ten_times_ends_as_one_that_was_not(tmp_path, digits):
    import os

    env = os.environ | {"EXPKIT_DATA": str(digits), "OMP_NUM_THREADS": "1"}
    began = time.time()
    subprocess.run(command(tmp_path / "whole"), env=env, check=True, capture_output=True)
    whole, random = time.time() - began, Random(0)
    wanted = {row["cell"]: picture(tmp_path / "whole" / row["folder"]) for row in table(tmp_path / "whole")}
    assert len(wanted) == 24
    for _ in range(10):
        killed = subprocess.Popen(
            command(tmp_path / "killed"), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(random.uniform(0.3, 1) * whole)
        killed.kill()
        killed.wait()
        for cell in (tmp_path / "killed" / "cells").glob("[!.]*"):
            assert {"numbers.json", "picture.png", "recipe.yaml"} <= {path.name for path in cell.iterdir()}
            assert (picture(cell) - wanted[cell.name]).abs().max() <= 1.01 / 255
    done = subprocess.run(command(tmp_path / "killed"), env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {row["cell"] for row in table(tmp_path / "killed") if row["status"] == "done"} == set(wanted)
    assert all(
        left.suffix == ".part" for left in (tmp_path / "killed" / "cells").glob(".*")
    )  # of the killed, and nobody else's to remove


@pytest.mark.slow
def test_two_sweeps_at_once_in_one_folder_do_not_harm_each_other(tmp_path, digits):
    import os

    env = os.environ | {"EXPKIT_DATA": str(digits), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(command(tmp_path / "one"), env=env, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [(one.wait(), one.stderr.read())[0] for one in both] == [0, 0]
    assert [row["status"] for row in table(tmp_path / "one")] == ["done"] * 24 and not list(
        (tmp_path / "one" / "cells").glob(".*")
    )


def test_an_experiment_may_say_what_it_sweeps(expkit, data):
    done = expkit(
        "experiment=a1", "model=ideal", "model.count=60", "logger=none", "hydra.sweeper.params.steps='4,6'"
    )
    assert done.code == 0, done.err
    assert [row["steps"] for row in table(done.folder)] == ["4", "6"] and done.err.count(
        "sample: 3 pictures"
    ) == 2


def test_what_no_cell_can_be_made_of_is_refused_before_there_is_a_folder(expkit):
    done = expkit("-m", *SMALL, "gamma=1,2", "keep=0")
    assert done.code == 2 and "keep=0 does not fit" in done.err and "cells" not in done.err
    assert not [*Path("outputs").rglob("*.png")] and not [*Path().rglob("cells")]
