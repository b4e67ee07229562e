"""A search: it finds a known optimum, goes on where it was, and says in a sentence what it cannot seek."""

import csv
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from PIL import Image

from expkit.config.command_line import CommandLine
from expkit.errors import UserError
from expkit.sweep import names
from expkit.sweep.trials import SearchObjective, Trial

SMALL = ("model=ideal", "model.count=60", "logger=none", "task=sdedit", "prompt=3", "i_start=1")
SOUGHT = (
    "hydra.sweeper.objective=network_calls",
    "hydra.sweeper.direction=minimize",
)  # which are steps − i_start, or one more


@pytest.fixture
def searched(expkit, data):
    if not find_spec("optuna"):
        assert not os.environ.get("CI"), "CI must have Optuna: pip install 'expkit[search]'"
        pytest.skip("Optuna is not installed: pip install 'expkit[search]'")
    return lambda *arguments: expkit("-m", "hydra/sweeper=search", *SMALL, *arguments)


def table(folder: Path) -> list[dict]:
    with (folder / "table.csv").open(encoding="utf-8") as file:
        return sorted(csv.DictReader(file), key=lambda row: float(row["trial"]))


def test_a_search_finds_the_best_and_shows_all_its_trials(searched):
    done = searched(
        "steps=interval(2,7)",
        "gamma=interval(1,10)",
        "sampler=strided,ddim",
        *SOUGHT,
        "hydra.sweeper.trials=12",
    )
    assert done.code == 0, done.err
    rows, best = table(done.folder), yaml.safe_load((done.folder / "best.yaml").read_text())
    assert (
        best["values"]["steps"] == 2
        and best["value"] == min(float(row["network_calls"]) for row in rows) == 1
    )
    assert (
        f"best: steps=2 gamma={best['values']['gamma']} sampler=" in done.out
        and f"→ 1 (trial {best['trial']})" in done.out
    )
    assert best["command"] in done.out and rows[best["trial"] - 1]["command"] == best["command"]
    assert all(row["objective"] == row["network_calls"] and 2 <= int(row["steps"]) <= 7 for row in rows)
    assert all(len(row["gamma"]) <= 5 and 1 <= float(row["gamma"]) <= 10 for row in rows), (
        "values are told to a thousandth"
    )
    assert (
        Image.open(done.folder / "search.png").width > 1000
        and Image.open(done.folder / "sheet.png").width > 300
    )
    assert "hydra/sweeper=search" in (done.folder / "index.html").read_text(encoding="utf-8")


def test_a_search_that_is_run_again_makes_nothing_again_and_with_more_trials_goes_on(searched, monkeypatch):
    wanted = ("steps=range(3,8,2)", "gamma=interval(1,10)", *SOUGHT)
    first = searched(*wanted, "hydra.sweeper.trials=3")
    with monkeypatch.context() as patched:
        patched.setattr("expkit.sweep.batch_launcher.run_batch", lambda *_: pytest.fail("it was there"))
        assert searched(*wanted, "hydra.sweeper.trials=3").out == first.out
    more = searched(*wanted, "hydra.sweeper.trials=5")
    rows = table(more.folder)
    assert (
        more.code == 0
        and more.folder == first.folder
        and len(rows) == 5
        and {row["steps"] for row in rows} <= {"3", "5", "7"}
    )
    assert more.err.count("sdedit: 1 picture") == 2


def test_searches_for_something_else_have_folders_of_their_own_and_longer_ones_have_not():
    command = [
        "hydra/sweeper=search",
        "task=evaluate",
        "gamma=interval(1,10)",
        "hydra.sweeper.objective=seconds",
    ]
    folder = lambda *arguments: names.sweep_folder(CommandLine.of([*command, *arguments]))
    one = folder()
    other = (
        "hydra.sweeper.direction=minimize",
        "hydra.sweeper.objective=network_calls",
        "hydra.sweeper.seed=1",
        "hydra/sweeper=cells",
    )
    assert one.name.startswith("evaluate-gamma-") and len({one, *map(folder, other)}) == 5
    same = (
        "hydra.sweeper.trials=40",
        "hydra.sweeper.batch=2",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "logger=none",
    )
    assert folder(*same) == one


def test_a_search_for_something_else_is_not_written_over_the_first(searched):
    wanted = ("steps=3,4", "hydra.sweeper.trials=2", "hydra.sweeper.objective=network_calls")
    least, most = (
        searched(*wanted, f"hydra.sweeper.direction={direction}") for direction in ("minimize", "maximize")
    )
    found = [yaml.safe_load((done.folder / "best.yaml").read_text()) for done in (least, most)]
    assert least.folder != most.folder and [best["direction"] for best in found] == ["minimize", "maximize"]


def test_trials_that_fail_are_holes_and_a_search_that_only_fails_ends(searched):
    done = searched(
        "image=cat,none.png", "steps=4", *SOUGHT, "hydra.sweeper.trials=6", "hydra.sweeper.seed=1"
    )
    assert (
        done.code == 2 and "best: image=cat → " in done.out and "There is no picture 'none.png'" in done.err
    )
    done = searched("image=none.png", "steps=range(3,9)", *SOUGHT, "hydra.sweeper.trials=40")
    assert done.code == 2 and done.err.count("nothing") == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["steps=3,4"],
            "What is sought is not said: add 'hydra.sweeper.objective=NAME'. There are: seconds, network_calls",
        ),
        (
            ["steps=3,4", "hydra.sweeper.objective=judged/picture/secnd"],
            "Did you mean judged/picture/second? There are",
        ),
        (["steps=3", *SOUGHT], "There is nothing to search"),
        (["gamma=interval(3,1)", *SOUGHT], "gamma=interval(3,1) cannot be searched"),
        (["steps=3,4", "hydra.sweeper.direction=up"], "direction is maximize or minimize"),
        (["steps=3,4", "hydra.sweeper.trials=0"], "hydra.sweeper.trials=0 does not fit"),
        (["gama=3,4", *SOUGHT], "Did you mean gamma?"),
    ],
)
def test_what_cannot_be_searched_is_said(arguments, said, searched):
    done = searched(*arguments)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err


def test_a_sweep_has_no_intervals(expkit):
    done = expkit("-m", *SMALL, "gamma=interval(1,10)")
    assert done.code == 2 and "hydra/sweeper=search" in done.err


def test_without_optuna_it_is_asked_for(expkit, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = expkit("-m", "hydra/sweeper=search", *SMALL, "steps=3,4")
    assert done.code == 2 and "pip install 'expkit[search]'" in done.err


def test_a_star_stands_for_one_part_of_a_name_and_must_mean_one_number():
    numbers = {
        "measured/gamma 3.5/recall": 0.5,
        "measured/gamma 3.5/accuracy/second": 0.9,
        "measured/test pictures/recall": 0.8,
    }
    assert SearchObjective("measured/gamma */recall").of(numbers) == 0.5
    with pytest.raises(
        UserError, match=r"several numbers: measured/gamma 3.5/recall, measured/test pictures/recall"
    ):
        SearchObjective("measured/*/recall").of(numbers)
    with pytest.raises(UserError, match=r"Did you mean measured/gamma 3.5/accuracy/second"):
        SearchObjective("measured/gamma */accuracy/secnd").of(numbers)


def test_the_best_is_the_first_of_the_best():
    trials = [Trial(number, None, value) for number, value in enumerate([None, 2.0, 3.0, 3.0, 1.0], 1)]
    assert (
        SearchObjective(direction="maximize").best(trials).number == 3
        and SearchObjective(direction="minimize").best(trials).number == 5
    )
    assert SearchObjective().best(trials[:1]) is None
