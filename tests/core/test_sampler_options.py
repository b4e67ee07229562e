"""Samplers and grids as options of the command: any grid goes with any solver, and its calls are told before."""

import pytest

from expkit.config import checks

SMALL = ("task=sample", "model=ideal", "model.count=20", "logger=none", "samples=1", "prompt=3")


@pytest.mark.parametrize("grid", checks.group_options("grid"))
def test_every_grid_goes_with_a_solver_and_the_header_says_its_calls(grid, expkit, data):
    done = expkit(*SMALL, "sampler=heun", f"grid@sampler.grid={grid}", "steps=3")
    calls = done.numbers()["network_calls"]
    expected = {"all_levels": 2 * 300 - 1, "ays": 20, "strided": 6, "strided_clean": 7}
    assert calls == expected.get(grid, 5) and f" {calls} network calls (" in done.err


def test_a_grid_that_is_given_as_a_value_is_told_how_it_is_chosen(expkit, data):
    done = expkit(*SMALL, "sampler=unipc", "sampler.grid=karras")
    assert done.code == 2 and "write grid@sampler.grid=karras" in done.err


def test_i_start_counts_the_levels_of_a_real_grid(expkit, data):
    command = (
        *SMALL[1:-1],
        "task=sdedit",
        "prompt=3",
        "image=hook",
        "sampler=unipc",
        "grid@sampler.grid=karras",
    )
    done = expkit(*command, "steps=8", "i_start=[0,3,8]")
    assert done.code == 0, done.err
    starts = done.numbers()["starts"]
    assert [start["i_start"] for start in starts] == [0, 3, 8]
    assert [start["strength"] for start in starts] == [1.0, 0.63, 0.0] and starts[1]["t"] % 1 != 0


def test_a_picture_can_be_denoised_from_a_level_between_those_of_a_real_grid(expkit, data):
    command = (*SMALL[1:-2], "task=denoise", "prompt=3", "image=hook", "t=500", "sampler=heun")
    done = expkit(*command, "grid@sampler.grid=exponential", "steps=5")
    calls = done.numbers()["network_calls"]
    assert done.code == 0 and f" {calls} network call" in done.err
