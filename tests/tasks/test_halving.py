"""Samples that promise little are dropped on the way; those that go on are the pictures that they would have been alone."""

import pytest
import torch
from PIL import Image

from expkit.core import timesteps
from expkit.core.estimate import guided
from expkit.core.sampler import Sampler, count_rows, sample, seeded
from expkit.core.solvers import DDPM, DPMpp
from expkit.core.views import Identity
from expkit.errors import UserError
from expkit.images import image_io
from expkit.tasks.halving import Halving
from expkit.tasks.scoring import Readout
from expkit.tasks.trajectory import Film
from tests.tasks.test_sampling_tasks import Brightness, run, six, task

READ = {"judges": {"eye": Brightness()}, "readings": {"picture": Readout("light", Identity())}, "samples": 8}
CELLS = [{"gamma": 1}, {"gamma": 5}]
TWO = {"estimate": guided("light", [cell["gamma"] for cell in CELLS for _ in range(8)]), "cells": CELLS}


def shown(folder, numbers):
    return {
        (p["gamma"], p["sample"]): image_io.as_tensor(Image.open(folder / p["file"]))
        for p in numbers["pictures"]
    }


@pytest.mark.parametrize("rule", [DDPM(), DPMpp()])
def test_what_goes_on_is_what_it_would_have_been_alone(rule, toy, tmp_path):
    given = {**READ, **TWO, "sampler": Sampler(six, rule)}
    every, few = (
        run(task(toy, **given, **more), tmp_path / name)
        for name, more in (("every", {}), ("few", {"prune": [1, 3], "keep": 1}))
    )
    whole, left = shown(tmp_path / "every", every), shown(tmp_path / "few", few)
    assert len(left) == 2 and {gamma for gamma, _ in left} == {1, 5} and len(few["ranking"]) == 4
    assert all(torch.equal(picture, whole[key]) for key, picture in left.items())


def test_what_reads_worst_when_it_is_time_is_dropped_and_costs_nothing_more(toy):
    grid, seeds, dropped = six(100), seeded(5, 8), []
    steps = [*sample(toy, guided("light", 3), grid, seeds)]
    halving = Halving([2, 4], 8, 1, 1, lambda x0: x0.mean((1, 2, 3)))
    toy.rows.clear()
    pruned = [
        *sample(
            toy,
            guided("light", 3),
            grid,
            seeds,
            drop=lambda done, step: dropped.append({*halving(done, step)}) or dropped[-1],
        )
    ]
    assert (
        toy.rows
        == count_rows(guided("light", 3), toy.schedule, grid, 8, left=halving.planned)
        == [16, 16, 8, 8, 4, 4]
    )
    assert [len(rows) for rows in dropped] == [0, 4, 4, 6, 6, 6]
    assert dropped[1] == {*steps[1].x0.mean((1, 2, 3)).argsort()[:4].tolist()}
    stay = [row for row in range(8) if row not in dropped[-1]]
    assert torch.equal(pruned[-1].x[stay], steps[-1].x[stay]) and not torch.equal(pruned[-1].x, steps[-1].x)


def test_never_fewer_are_left_than_are_kept(toy, tmp_path):
    numbers = run(task(toy, **READ, prune=[1, 2, 3], keep=3), tmp_path / "run")
    assert (
        len(numbers["pictures"]) == 3
        and len(numbers["ranking"]) == 3
        and numbers["rows_per_call"] == [16, 8, 6, 6, 6, 6]
    )


def test_all_that_is_left_is_shown_where_nothing_is_said_of_keeping(toy, tmp_path):
    numbers = run(task(toy, **READ, **TWO, prune=[2]), tmp_path / "run")
    assert [p["gamma"] for p in numbers["pictures"]] == [1] * 4 + [5] * 4 and "ranking" not in numbers


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"prune": [6]}, "before the last of 6"),
        ({"prune": [3, 2]}, "in rising order"),
        ({"prune": [2, 2]}, "in rising order"),
        ({"prune": [2], "judges": None}, "needs a judge"),
        ({"prune": [2], "film": Film(2, 0)}, "leave one of the two out"),
        ({"prune": [2], "readings": {"picture": Readout("", Identity())}}, "cannot be read by a judge"),
        ({"prune": [2], "sampler": Sampler(lambda levels: timesteps.repaint(levels, 6))}, "never goes back"),
    ],
)
def test_what_cannot_be_pruned_is_said_before_anything_is_sampled(given, says, toy, tmp_path):
    with pytest.raises(UserError, match=says):
        run(task(toy, **READ | given), tmp_path / "run")
    assert not toy.rows
