"""The command: every YAML composes, every task runs, what cannot be done is said in a sentence with exit code 2."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from expkit.__main__ import whole_errors
from expkit.config import checks, schema
from expkit.images import image_io
from expkit.metrics import judges
from expkit.results.run_folder import flatten_scalars
from expkit.sweep.report import read_cell

SMALL = ("model=ideal", "model.count=60", "logger=none", "samples=1", "steps=5", "i_start=[1,3]")
DIGITS = ("model=digits", "logger=none", "samples=1", "steps=4")
SAMPLING = ("sample", "hybrid", "anagram", "sdedit", "inpaint", "trajectory")
GROUPS = {group: list(checks.group_options(group)) for group in checks.GROUPS}


@pytest.fixture
def ran(expkit, data):
    return lambda *arguments: expkit(*SMALL, *arguments)


@pytest.mark.parametrize(
    "choice",
    [
        f"{g}={o}"
        for g in ("task", "model", "sampler", "trainer", "data", "logger", "experiment")
        for o in GROUPS[g]
    ],
)
def test_every_option_composes(choice, expkit):
    ran = expkit("--cfg", "job", "--resolve", choice)
    assert ran.code == 0 and yaml.safe_load(ran.out)["steps"] == 33


@pytest.mark.parametrize(
    "task", [t for t in GROUPS["task"] if t not in ("train", "embed", "upscale", "evaluate")]
)
def test_every_task_runs_without_arguments(task, ran):
    done = ran(f"task={task}")
    assert done.code == 0, done.err
    numbers = done.numbers()
    assert numbers["seed"] == 180 and numbers["seconds"] > 0
    assert Image.open(done.folder / "picture.png").width > 100
    if task in SAMPLING:
        assert numbers["network_calls"] in (4, 5) and numbers["device"] == "cpu" and set(numbers["judged"])
    for file in (done.folder / "pictures").iterdir():
        assert Image.open(file).size == (28, 28)


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["task=sample", "prompt=3"], 2), (["task=sample", "prompt=3", "gamma=1"], 1), (["task=hybrid"], 3), (["task=anagram"], 4),
        (["task=hybrid", "estimate@task.estimate.far=anagram"], 5), (["task=inpaint", "estimate@task.estimate=hybrid"], 3),
        (["task=anagram", "pin@task.pin=picture", "i_start=2"], 4), (["task=inpaint", "estimate@task.estimate=anagram", "gamma=1"], 2),
        (["task=hybrid", "estimate@task.estimate=triple"], 4), (["task=hybrid", "estimate@task.estimate=motion"], 3),
        (["task=sample", "estimate@task.estimate=mixed"], 3), (["task=inpaint", "estimate@task.estimate=rescaled", "prompt=3"], 2),
        (["task=sample", "estimate@task.estimate=rescaled", "estimate@task.estimate.of=hybrid", "prompt=3"], 3),
        (["task=hybrid", "estimate@task.estimate.far=guided_interval"], 3), (["task=hybrid", "estimate@task.estimate.near=triple"], 4),
        (["task=sample", "estimate@task.estimate=guided_interval", "prompt=3", "gamma=[1,7]"], [2, 3, 3, 3, 3]),
        (["task=anagram", "+estimate@task.estimate.parts.prompt=guided", "+view@task.estimate.views.prompt=rotate_cw", "prompt=3"], 6),
    ],
)  # fmt: skip
def test_combinations_have_the_rows_that_the_algebra_promises(arguments, rows, ran):
    done = ran(*arguments)
    assert done.code == 0, done.err
    assert done.numbers()["rows_per_call"] == rows


@pytest.mark.parametrize("sampler", [s for s in GROUPS["sampler"] if s != "own"])
def test_every_sampler_runs(sampler, ran):
    assert ran("task=sample", "prompt=3", f"sampler={sampler}").code == 0


@pytest.mark.parametrize("sampler", [s for s in GROUPS["sampler"] if s not in ("ddpm", "own")])
def test_a_sampler_s_first_line_says_how_many_network_calls_it_makes(sampler, expkit, data):
    done = expkit(
        "model=ideal",
        "model.count=20",
        "logger=none",
        "samples=1",
        "task=sample",
        "prompt=3",
        f"sampler={sampler}",
    )
    assert checks.group_options("sampler")[sampler].endswith(
        f"; {done.numbers()['network_calls']} network calls"
    )


@pytest.mark.parametrize("model", [("model=digits",), ("model=ideal", "model.count=20")])
def test_a_model_that_is_no_pipeline_has_no_sampler_of_its_own(model, expkit, data):
    done = expkit("task=sample", "prompt=3", "sampler=own", *model)
    assert done.code == 2 and "this model has none" in done.err


@pytest.mark.parametrize("view", GROUPS["view"])
def test_every_view_runs(view, ran):
    done = ran("task=anagram", f"view@task.estimate.views.turned={view}")
    assert done.code == 0 and ("WARNING" in done.err) == (
        "Fails on purpose" in checks.group_options("view")[view]
    )


def test_alignment_and_concealment_of_an_anagram_are_those_of_its_pictures(expkit):
    """Log p by each judge of what each reading asks, worked out again from the files, which are rounded to 256 grey levels."""
    done = expkit(*DIGITS, "task=anagram", "upright=6", "turned=9", "samples=3")
    numbers, shown = (
        done.numbers(),
        torch.stack(
            [image_io.as_tensor(Image.open(p)) for p in sorted((done.folder / "pictures").iterdir())]
        ),
    )
    assert {"alignment/first", "concealment/second"} <= flatten_scalars(
        numbers
    ).keys()  # what tables and the page show
    cell = read_cell(done.folder, "cell")
    assert [one["caption"] for one in cell["pictures"]] == ["sample 0", "sample 1", "sample 2"]
    for name, judge in (("first", judges.first_digit_judge()), ("second", judges.second_digit_judge())):
        p = torch.stack([judge(shown)[:, [6, 9]], judge(shown.flip((-2, -1)))[:, [6, 9]]], 1).double()
        told = (p / p.sum(2, keepdim=True) + p / p.sum(1, keepdim=True)).diagonal(dim1=1, dim2=2).mean(1) / 2
        worst = p.diagonal(dim1=1, dim2=2).amin(1).log()
        assert [one["scores"]["alignment"][name] for one in numbers["pictures"]] == pytest.approx(
            worst.tolist(), abs=0.1
        )
        assert [one["scores"]["concealment"][name] for one in numbers["pictures"]] == pytest.approx(
            told.tolist(), abs=0.02
        )
        assert numbers["alignment"][name] == pytest.approx(worst.mean().item(), abs=0.1)
        assert numbers["concealment"][name] == pytest.approx(told.mean().item(), abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "left_out"),
    [
        (["task=sample", "prompt=3"], {"concealment": "one reading"}),
        (["task=anagram", "upright=8", "turned=8"], {"concealment": "ask for the same, in 1 of 1 pictures"}),
        (["task=hybrid", "far="], {"alignment": "far asks for nothing", "concealment": "far asks for nothing"}),
        (["task=hybrid"], {}), (["task=hybrid", "estimate@task.estimate=triple"], {}),
        (["task=hybrid", "estimate@task.estimate=motion"], {}), (["task=sample", "estimate@task.estimate=mixed"], {}),
    ],
)  # fmt: skip
def test_what_has_readings_has_alignment_and_concealment_or_why_not(arguments, left_out, expkit):
    done = expkit(*DIGITS, *arguments)
    assert done.code == 0, done.err
    numbers = done.numbers()
    for name in ("alignment", "concealment"):
        reasons = numbers.get(f"{name}_left_out", {})
        assert set(numbers.get(name, {})) | set(reasons) == {"first", "second"}
        assert all(left_out[name] in reason for reason in reasons.values()) and bool(reasons) == (
            name in left_out
        )


@pytest.mark.parametrize(
    ("old", "target"),
    [
        (["task=anagram", "view@task.estimate.views.turned=jigsaw_knobs"], "expkit.core.Jigsaw"),
        (["task=anagram", "view@task.estimate.views.turned=square_hinge_4"], "expkit.core.SquareHinge"),
        (["task=hybrid", "estimate@task.estimate=triple_independent"], "expkit.core.triple"),
    ],
)
def test_pictures_of_the_former_views_and_bands_are_made_again(old, target, expkit):
    """Their recipes name these and no arguments but those that the former configuration gave."""
    made = expkit(*DIGITS, *old)
    assert f'"_target_": "{target}"' in (made.folder / "recipe.yaml").read_text(encoding="utf-8")
    again = expkit(f"replay={made.folder}")
    assert again.code == 0 and "equal to the bit" in again.err


@pytest.mark.parametrize("name", ["triple", "motion", "mixed"])
def test_a_list_of_any_part_s_prompts_is_a_batch(name, ran):
    part = {"triple": "middle", "motion": "still", "mixed": "second"}[name]
    done = ran("task=sample", f"estimate@task.estimate={name}", f"{part}=[1,8]", "seed=[1,2]")
    assert [(p[part], p["seed"]) for p in done.numbers()["pictures"]] == [(1, 1), (1, 2), (8, 1), (8, 2)]
    readings = {
        "triple": {"far", "middle", "near"},
        "motion": {"moving", "still"},
        "mixed": {"first", "second"},
    }
    assert set(done.numbers()["judged"]) - {"all readings"} == readings[name]


def test_a_list_is_a_batch_whose_pictures_are_those_of_single_runs(ran):
    batch = ran("task=sample", "prompt=[3,8]", "gamma=[1,5]", "samples=2")
    assert batch.code == 0 and len(batch.numbers()["pictures"]) == 8
    wanted = next(
        p for p in batch.numbers()["pictures"] if (p["prompt"], p["gamma"], p["sample"]) == (8, 5, 1)
    )
    alone = ran("task=sample", "prompt=8", "gamma=5", "samples=2")
    apart = [
        image_io.as_tensor(Image.open(p))
        for p in (batch.folder / wanted["file"], alone.folder / "pictures/001.png")
    ]
    assert (apart[0] - apart[1]).abs().max() <= 1.01 / 255


def test_the_same_command_twice_makes_the_same_pictures_in_two_folders(ran):
    first, second = ran("task=hybrid"), ran("task=hybrid")
    assert first.folder != second.folder
    same = [image_io.as_tensor(Image.open(r.folder / "pictures/000.png")) for r in (first, second)]
    assert torch.equal(*same)


def test_inpainting_keeps_what_is_kept_to_the_byte(ran):
    done = ran("task=inpaint", "prompt=3")
    result = image_io.as_tensor(Image.open(done.folder / "pictures/000.png"))
    original = image_io.load_image("hook", (1, 28, 28))
    assert torch.equal((result * 255).round()[:, :14], (original * 255).round()[:, :14])


def test_the_recipe_is_in_the_folder_and_in_every_picture(ran):
    done = ran("task=sample", "prompt=3", "gamma=2")
    recipe = (done.folder / "recipe.yaml").read_text()
    assert yaml.safe_load(recipe)["gamma"] == 2 and "\n# torch: " in recipe
    for picture in (done.folder / "picture.png", done.folder / "pictures/000.png"):
        assert image_io.recipe_of(picture) == recipe


def test_a_folder_is_never_used_twice(ran, tmp_path):
    where = f"hydra.run.dir={tmp_path / 'mine'}"
    assert ran("task=sample", "prompt=3", where).folder == tmp_path / "mine"
    again = ran("task=sample", "prompt=3", where)
    assert again.code == 2 and "already holds a run" in again.err


@pytest.mark.parametrize(
    "given", [("hydra.run.dir=/proc/x/y",), ("-m", "seed=1,2", "hydra.sweep.dir=/proc/x")]
)
def test_a_folder_that_cannot_be_made_is_a_sentence(given, ran):
    done = ran("task=sample", "prompt=3", *given)
    assert done.code == 2 and "cannot be written" in done.err and "Traceback" not in done.err


def test_tensorboard_has_the_pictures_the_numbers_and_the_recipe(expkit, data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = expkit(*[a for a in SMALL if not a.startswith("logger")], "task=sample", "prompt=3")
    read = EventAccumulator(str(done.folder / "tensorboard"))
    read.Reload()
    assert {"picture", "pictures/000"} <= set(read.Tags()["images"])
    assert read.Scalars("network_calls")[0].value == 5 and "recipe" in read.Tags()["tensors"]


def test_what_is_said_to_hydra_is_said_for_this_command_alone(expkit, monkeypatch):
    seen = lambda: os.environ.get("HYDRA_FULL_ERROR")
    monkeypatch.setattr(checks, "error_message", lambda *_: seen() or "nothing")
    assert "nothing" in expkit("steps=abc").err and seen() is None
    with whole_errors() as full:
        assert full is False and seen() == "1"
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with whole_errors() as full:
        assert full is True
    assert seen() == "1"


def test_wandb_offline_needs_no_account(ran, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    done = ran("task=sample", "prompt=3", "logger=wandb", "logger.mode=offline")
    assert done.code == 0, done.err
    assert list(done.folder.glob("wandb/offline-run-*/*.wandb"))


def test_starting_past_the_end_is_refused_where_it_matters(ran):
    late = ran("task=sdedit", "i_start=40")
    assert late.code == 2 and "past the end of a grid of 5 updates" in late.err
    assert ran("task=hybrid", "i_start=40").code == 0


def test_what_is_not_linear_is_refused_inside_another_estimate(ran):
    done = ran("task=hybrid", "estimate@task.estimate.far=rescaled")
    assert done.code == 2 and "Rescaled is not a sum of terms" in done.err and "Traceback" not in done.err


REFUSED = {
    "task=hybird": "Did you mean hybrid",
    "gama=7": "Did you mean gamma",
    "+gama=7": "Did you mean gamma",
    "+task.foo=1": "nothing can be added",
    "trainer.epoch=3": "Did you mean trainer.epochs",
    "sampler=dimm": "Did you mean ddim",
    "smapler=ddim": "Did you mean sampler",
    "estimate@task.nowhere=guided": "no group",
    "gamma=strong": "gamma is a number",
    "samples=0": "1 or more",
    "samples=many": "samples is a whole number",
    "seed=-1": "from 0 to",
    "prompt=[]": "empty list",
    "prompt=a cat, sitting": "'prompt=\"a cat, sitting\"'",
    "prompt=an old man (1900)": "'prompt=\"an old man (1900)\"'",
    "prompt=cat": "0 to 9, zero to nine",
    "task=upscale": "needs a model with a second stage",
    "prompt=twelve": "0 to 9, zero to nine",
    "sampler.rule.variance=learned": "learned a variance",
    "sigma=-1": "sigma is a number from 0 to",
    "fit=stretch": "fit is crop or pad",
    "fit=[crop,pad]": "fit is crop or pad",
    "estimate@task.estimate=colour": "colour component is zero",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_refusals_are_sentences(argument, ran):
    done = ran(argument)
    assert done.code == 2 and REFUSED[argument] in done.err
    assert "Traceback" not in done.err and "expkit: " in done.err
    assert not list(Path("outputs").glob("*/*"))  # no empty folder is left


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("task=anagram", "view=jigsaw"), "write view@task.estimate.views.turned=…"),
        (("sampler=ays", "grid@sampler.grid=karras"), "have levels of their own: name another sampler"),
    ],
)
def test_an_option_that_is_chosen_elsewhere_or_nowhere_is_said(arguments, says, ran):
    done = ran(*arguments)
    assert done.code == 2 and says in done.err and "Did you mean" not in done.err


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.png", None, "no picture"),
        ("empty.png", b"", "cannot be read"),
        ("broken.png", b"\x89PNG\r\n\x1a\n" + b"x" * 99, "cannot be read"),
    ],
)
def test_bad_pictures_are_refused(name, content, says, ran, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = ran("task=sdedit", "prompt=3", f"image={tmp_path / name}")
    assert done.code == 2 and says in done.err and name in done.err


@pytest.mark.parametrize(
    ("size", "colour", "says"),
    [((30, 30), 255, "30 × 30"), ((28, 28), 255, "keeps nothing"), ((56, 56), 0, "repaints nothing")],
)
def test_bad_masks_are_refused(size, colour, says, ran, tmp_path):
    Image.new("L", size, colour).save(tmp_path / "mask.png")
    done = ran("task=inpaint", "prompt=3", f"mask={tmp_path / 'mask.png'}")
    assert done.code == 2 and says in done.err


def test_damaged_weights_are_refused(expkit, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      " * 3)
    done = expkit("task=sample", "logger=none", f"model.weights={tmp_path / 'model.safetensors'}")
    assert done.code == 2 and "cannot be read" in done.err
    done = expkit("task=sample", "logger=none", f"model.weights={tmp_path / 'nothing.safetensors'}")
    assert done.code == 2 and "no weights at" in done.err


def test_no_space_left_is_said(ran, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "pictures/000.png")

    monkeypatch.setattr(Image.Image, "save", full)
    done = ran("task=sample", "prompt=3")
    assert done.code == 2 and "no space left" in done.err


def test_an_interrupted_run_says_what_was_kept_and_leaves_with_130(ran, monkeypatch):
    from expkit.core.solvers import DDPM

    monkeypatch.setattr(DDPM, "__call__", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    done = ran("task=sample", "prompt=3")
    assert (
        done.code == 130 and "interrupted; nothing was finished" in done.err and "Traceback" not in done.err
    )


def test_help_names_every_option_and_key():
    page = checks.help_page()
    for group, known in GROUPS.items():
        assert f"\n{group}  (" in page and all(f"  {option} " in page for option in known), group
    config = yaml.safe_load((schema.config_folder() / "config.yaml").read_text())
    assert {key.partition(".")[0] for key in [*checks.top_level_keys()]} == {
        key for key in config if key not in ("defaults", "hydra")
    }
    assert max(map(len, page.splitlines())) <= 140


def test_help_imports_neither_hydra_nor_torch():
    import subprocess
    import sys

    code = (
        "import sys; sys.argv = ['expkit', '--help']; import expkit.__main__ as m; m.main(); "
        "print({'hydra', 'torch'} & set(sys.modules))"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.splitlines()[-1] == "set()"


def test_numbers_are_json_and_recipes_name_no_folder_of_this_machine(ran):
    done = ran("task=sample", "prompt=3")
    json.loads((done.folder / "numbers.json").read_text())
    assert str(Path.home()) not in (done.folder / "recipe.yaml").read_text().replace(str(done.folder), "")
