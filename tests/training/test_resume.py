"""A resumed training obeys the command or refuses it, and numbers stay true under the arguments of Lightning's that are taken."""

import csv
import json
import os
import signal
from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from torch import nn

from expkit.core.schedules import cosine, linear_rescaled
from expkit.data.labelled_pictures import Batches, Pictures
from expkit.errors import UserError
from expkit.models.unets import class_conditioned_unet
from expkit.results.run_folder import RunFolder
from expkit.training import checkpoints, lightning_arguments, lr_schedules
from expkit.training.objectives import Diffusion, Objective
from expkit.training.settings import FREE, OBEYED, ON_RESUME, on_resume, plain_values, setting_differences
from expkit.training.train import Train, TrainConfig, TrainingData

SEED, SIZE, EPOCHS, LR = 3, 8, 2, 0.1


def made(count: int, seed: int, shape=(1, 8, 8), names=("a", "b")) -> Pictures:
    """Of `count` different brightnesses."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, *shape), generator=draw) * (torch.arange(1, count + 1) / count).view(
        -1, 1, 1, 1
    )
    return Pictures(images.byte(), torch.arange(count) % 2, names)


IMAGES, TESTS = made(37, 0), made(13, 1)


class OneGrey(nn.Module):
    def __init__(self, **size) -> None:
        super().__init__()
        self.grey = nn.Parameter(torch.zeros(1, dtype=torch.float64))


class Near(Objective):
    """The squared distance of the pictures from one grey: what it learns can be computed by hand."""

    def __call__(self, network, images, labels, draws):
        return (network.grey - images).square().mean()

    def save(self, network, path, names):
        torch.save(network.state_dict(), path)

    def sample_figures(self, network, held_out, seed):
        return {}

    def facts(self, network):
        return {"grey": network.grey.item()}


def falling(done: float, epochs: int) -> float:
    return 1 - done


RECIPE = TrainConfig(
    OneGrey,
    Near(),
    partial(torch.optim.SGD, lr=LR),
    falling,
    SIZE,
    EPOCHS,
    show=(),
    checkpoint_every=1,
    accelerator="cpu",
    precision="64-true",
    lightning={"enable_progress_bar": False},
)


def pictures(train: bool) -> Pictures:
    return IMAGES if train else TESTS


def trained(folder, resume=None, lightning=None, **changed) -> dict:
    """The numbers of a training."""
    recipe = replace(RECIPE, lightning={**RECIPE.lightning, **(lightning or {})}, **changed)
    result = RunFolder(folder)
    Train(recipe, TrainingData(pictures), SEED, resume)(result)
    result.finish()
    return json.loads((folder / "numbers.json").read_text())


def losses(folder) -> list[float]:
    return [float(loss) for _, loss in list(csv.reader((folder / "losses.csv").open()))[1:]]


def by_hand(
    batches: int = 5, tests: int = 2, accumulate: int = 1, clip: float = 0.0, norm: bool = True
) -> tuple:
    """The losses of all steps, a row an epoch and the grey, by a plain loop over the first so many batches of an epoch."""
    grey, found, rows, source = 0.0, [], [], Batches(IMAGES, SIZE, SEED)
    held_out = TESTS.images[: tests * SIZE].float() / 255
    steps = -(-batches // accumulate)
    for epoch in range(EPOCHS):
        source.set_epoch(epoch)
        every = [batch.images for batch in source][:batches]
        for first in range(0, batches, accumulate):
            shown = torch.cat(every[first : first + accumulate]).double()
            slope = float((2 * (grey - shown)).mean())
            if clip:  # torch adds 1e-6 to a norm that it divides by
                slope = slope * min(1, clip / (abs(slope) + 1e-6)) if norm else max(-clip, min(clip, slope))
            rate = LR * (1 - len(found) / (EPOCHS * steps))
            found.append(float((grey - shown).square().mean()))
            grey -= rate * slope
        of_epoch = found[-steps:]
        test = float((grey - held_out.double()).square().mean())
        rows.append({"epoch": epoch + 1, "test_loss": test, "train_loss": sum(of_epoch) / steps})
    return found, rows, grey


ALIKE = [
    {"deterministic": True},
    {"benchmark": True},
    {"detect_anomaly": True},
    {"inference_mode": False},
    {"log_every_n_steps": 1},
]


@pytest.mark.parametrize(
    ("lightning", "hand"),
    [
        (dict(), {}),
        ({"limit_train_batches": 2}, {"batches": 2}),
        ({"limit_train_batches": 0.7, "limit_val_batches": 0.5}, {"batches": 3, "tests": 1}),
        ({"limit_train_batches": 1.0, "limit_val_batches": 99}, {}),
        ({"limit_val_batches": 1}, {"tests": 1}),
        ({"accumulate_grad_batches": 2}, {"accumulate": 2}),
        ({"accumulate_grad_batches": 3, "limit_train_batches": 4}, {"batches": 4, "accumulate": 3}),
        ({"accumulate_grad_batches": 9}, {"accumulate": 9}),
        ({"gradient_clip_val": 0.2}, {"clip": 0.2}),
        ({"gradient_clip_val": 0.3, "gradient_clip_algorithm": "value"}, {"clip": 0.3, "norm": False}),
        ({name: value for part in ALIKE for name, value in part.items()}, {}),
    ],
)
def test_numbers_are_those_of_a_plain_loop(lightning, hand, tmp_path, stderr):
    numbers = trained(tmp_path / "run", lightning=lightning)
    found, rows, grey = by_hand(**hand)
    assert losses(tmp_path / "run") == pytest.approx(found, rel=1e-9) and numbers["steps"] == len(found)
    assert len(numbers["epochs"]) == EPOCHS
    for ours, theirs in zip(numbers["epochs"], rows, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert numbers["grey"] == pytest.approx(grey, rel=1e-6)
    said = stderr()
    tests, shown, steps = (
        min(13, SIZE * hand.get("tests", 2)),
        min(37, SIZE * hand.get("batches", 5)),
        len(found) // EPOCHS,
    )
    each = min(shown, SIZE * hand.get("accumulate", 1))
    assert f"{EPOCHS} epochs of {steps} step{'s' * (steps > 1)}, {each} pictures each" in said
    assert f"{tests} held out" in said and ("16 an epoch" in said) == (hand.get("batches") == 2)


def test_averages_count_optimizer_steps(tmp_path):
    """With a decay of 0 the average is the last step's weights, with one of 1 those of the first step that it takes."""
    accumulated = {"accumulate_grad_batches": 2}
    steps = [
        trained(tmp_path / f"{count}", lightning=accumulated, ema=1.0, ema_from=count)["grey"]
        for count in (2, 5)
    ]
    single = trained(tmp_path / "all", lightning=accumulated)["grey"]
    assert steps[1] == pytest.approx(single) and abs(steps[0]) < abs(single)


def test_profiles_lie_in_the_folder(tmp_path):
    trained(tmp_path / "run", lightning={"profiler": "simple"}, epochs=1)
    assert "optimizer_step" in next((tmp_path / "run").glob("*profile*.txt")).read_text()


def test_a_training_goes_on_from_each_of_its_steps_to_the_same_end(tmp_path, monkeypatch):
    """An epoch's last step among them: the test that follows it is not missed."""
    from expkit.training.callbacks import Checkpoints

    lightning = {"accumulate_grad_batches": 2, "limit_train_batches": 4}
    keep_all = Checkpoints.__init__
    monkeypatch.setattr(
        Checkpoints,
        "__init__",
        lambda self, *parts, **named: keep_all(self, *parts, **{**named, "save_top_k": -1}),
    )
    whole = trained(tmp_path / "whole", lightning=lightning, ema=0.5)
    per_epoch = whole["steps"] // EPOCHS
    for step in (per_epoch - 1, per_epoch):
        again = trained(
            tmp_path / f"{step}",
            str(tmp_path / "whole" / "checkpoints" / f"{step:06d}.ckpt"),
            lightning,
            ema=0.5,
        )
        assert (again["epochs"], again["grey"]) == (whole["epochs"], whole["grey"]), step
        assert losses(tmp_path / f"{step}") == losses(tmp_path / "whole")


@pytest.mark.parametrize("moment", [("training_step", 2), ("training_step", 5), ("validation_step", 1)])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(moment, tmp_path, monkeypatch):
    from expkit.training.lightning_module import TrainingModule

    whole = trained(tmp_path / "whole" / "run", ema=0.5)
    (name, number), calls, before = moment, [], getattr(TrainingModule, moment[0])

    def interrupted(*parts):
        calls.append(0)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return before(*parts)

    monkeypatch.setattr(TrainingModule, name, interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped" / "run", ema=0.5, checkpoint_every=100)
    assert signal.getsignal(signal.SIGINT) is handler
    assert list((tmp_path / "stopped" / "run" / "checkpoints").glob("*.ckpt"))
    again = trained(tmp_path / "stopped" / "again", "auto", ema=0.5)
    assert (again["epochs"], again["grey"]) == (whole["epochs"], whole["grey"])
    assert losses(tmp_path / "stopped" / "again") == losses(tmp_path / "whole" / "run")


def test_a_resumed_training_has_the_rate_and_the_epochs_of_its_command(tmp_path, stderr):
    """Three steps by the old rate, then the new one as a plain loop has it, over the new number of epochs."""
    trained(tmp_path / "first", lightning={"limit_train_batches": 2})
    stderr()
    newer = {"optimizer": partial(torch.optim.SGD, lr=0.02), "epochs": 4, "rate": lr_schedules.constant_lr}
    resume = str(tmp_path / "first" / "checkpoints" / "000003.ckpt")
    numbers = trained(tmp_path / "second", resume, {"limit_train_batches": 2}, **newer)
    said = stderr()
    for key in (
        "trainer.optimizer.lr is 0.1 in the checkpoint and 0.02",
        "trainer.epochs is 2 in the checkpoint and 4",
        "trainer.rate",
    ):
        assert key in said
    assert numbers["steps"] == 8 and [row["epoch"] for row in numbers["epochs"]] == [1, 2, 3, 4]
    state = torch.load(resume, weights_only=True)
    grey, source = float(state["state_dict"]["network.grey"]), Batches(IMAGES, SIZE, SEED)
    for step in range(3, 8):
        source.set_epoch(step // 2)
        images = [batch.images for batch in source][step % 2].double()
        grey -= 0.02 * float((2 * (grey - images)).mean())
    assert numbers["grey"] == pytest.approx(grey, rel=1e-6)


# ---- what a checkpoint says, against what the command says

DIGITS = TrainConfig(partial(class_conditioned_unet, hidden=8), Diffusion(linear_rescaled(50), "v", -1.0),
                partial(torch.optim.Adam, lr=1e-3), partial(lr_schedules.cosine_lr), 16, 3, ema=0.9, precision="32-true")  # fmt: skip


def training(
    seed: int = 1, images: Pictures = IMAGES, held_out: Pictures = TESTS, **changed
) -> checkpoints.Training:
    train = Train(replace(DIGITS, **changed), TrainingData(None), seed)
    return train.training(train.network(images), train.batches(images), train.tests(held_out))


@pytest.fixture(scope="module")
def known() -> checkpoints.Training:
    return training()


def written(path, of: checkpoints.Training, step: int = 4, old: bool = False) -> str:
    history = {"losses": [], "epochs": [], "settings": dict(of.settings)}
    if old:
        names = {
            "network": "network.shapes",
            "pictures": "pictures.sha256",
            "batch size": "trainer.batch_size",
            "seed": "seed",
        }
        history = {
            "losses": [],
            "epochs": [],
            "origin": {key: of.settings[name] for key, name in names.items()},
        }
    group = {key: value for key, value in of.optimizer.items() if key != "params"} | {
        "initial_lr": of.optimizer["lr"],
        "lr": 0.5,
    }
    state = {
        "history": history,
        "global_step": step,
        "optimizer_states": [{"state": {}, "param_groups": [group]}],
        "averaging_state": {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return str(path)


def renamed() -> Pictures:
    return Pictures(IMAGES.images, IMAGES.labels, ("a", "c"))


OTHER = [
    (
        {"objective": Diffusion(linear_rescaled(50), "x0", -1.0)},
        "trainer.objective.kind is v in the checkpoint and x0 in this command",
    ),
    (
        {"objective": Diffusion(linear_rescaled(50), "v", 0.0)},
        "trainer.objective.low is -1.0 in the checkpoint and 0.0",
    ),
    (
        {"objective": Diffusion(linear_rescaled(50), "v", -1.0, drop=0.2)},
        "trainer.objective.drop is 0.1 in the checkpoint and 0.2",
    ),
    (
        {"objective": Diffusion(linear_rescaled(50), "v", -1.0, min_snr=5.0)},
        "trainer.objective.min_snr is null in the checkpoint and 5.0",
    ),
    ({"objective": Diffusion(cosine(50), "v", -1.0)}, "trainer.objective.schedule.alpha is 50 numbers from"),
    (
        {"optimizer": partial(torch.optim.SGD, lr=1e-3)},
        "is torch.optim.adam.Adam in the checkpoint and torch.optim.sgd.SGD",
    ),
    (
        {"optimizer": partial(torch.optim.Adam, lr=1e-3, betas=(0.9, 0.99))},
        "trainer.optimizer.betas is 0.999 in the checkpoint and 0.99",
    ),
    (
        {"network": partial(class_conditioned_unet, hidden=12)},
        "trainer.network.hidden is 8 in the checkpoint and 12",
    ),
    (
        {"network": partial(class_conditioned_unet, hidden=8, norm="group")},
        "trainer.network.norm is batch in the checkpoint and group",
    ),
    ({"ema": None}, "trainer.ema is 0.9 in the checkpoint and null"),
    ({"ema_from": 7}, "trainer.ema_from is 0 in the checkpoint and 7"),
    ({"batch_size": 8}, "trainer.batch_size is 16 in the checkpoint and 8"),
    ({"precision": "bf16"}, "trainer.precision is 32-true in the checkpoint and bf16-mixed"),
    ({"seed": 2}, "seed is 1 in the checkpoint and 2"),
    ({"images": made(30, 0)}, "pictures.count is 37 in the checkpoint and 30"),
    ({"images": made(37, 5)}, "pictures.sha256 is"),
    ({"images": made(37, 0, (3, 8, 8))}, "pictures.shape is 1 in the checkpoint and 3"),
    ({"images": renamed()}, "pictures.classes is b in the checkpoint and c in this command"),
    ({"lightning": {"limit_train_batches": 1}}, "limit_train_batches is null in the checkpoint and 1"),
    ({"lightning": {"accumulate_grad_batches": 2}}, "accumulate_grad_batches is 1 in the checkpoint and 2"),
    ({"lightning": {"gradient_clip_val": 1.0}}, "gradient_clip_val is null in the checkpoint and 1.0"),
    ({"epochs": 1}, "has 1.33 epochs (4 steps) behind it, and trainer.epochs=1 asks for no more"),
]


@pytest.mark.parametrize(("changed", "said"), OTHER)
def test_another_training_is_refused_with_both_values(changed, said, known, tmp_path):
    with pytest.raises(UserError) as refused:
        checkpoints.find_checkpoint(
            written(tmp_path / "4.ckpt", known), tmp_path / "run", training(**changed), print
        )
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"epochs": 9}, "trainer.epochs is 3 in the checkpoint and 9 in this command: the command is obeyed"),
        ({"epochs": 2}, "trainer.epochs is 3 in the checkpoint and 2"),
        (
            {"optimizer": partial(torch.optim.Adam, lr=1e-6)},
            "trainer.optimizer.lr is 0.001 in the checkpoint and 1e-06",
        ),
        (
            {"rate": partial(lr_schedules.cosine_lr, warm=0.5)},
            "trainer.rate.warm is 0.03 in the checkpoint and 0.5",
        ),
        ({"held_out": made(9, 1)}, "test pictures.count is 13 in the checkpoint and 9"),
        ({"show": (7,)}, ""),
        (
            {"held_out": made(33, 1), "lightning": {"limit_val_batches": 1}},
            "limit_val_batches is null in the checkpoint and 1",
        ),
        ({"precision": "32"}, ""),
        ({"optimizer": partial(torch.optim.Adam, lr=1e-3, eps=1e-8)}, ""),
        (
            {
                "checkpoint_every": 7,
                "devices": 2,
                "compile": False,
                "lightning": {"log_every_n_steps": 9, "profiler": "simple"},
            },
            "",
        ),
    ],
)
def test_what_may_change_is_obeyed_and_said(changed, said, known, tmp_path):
    lines, path = [], written(tmp_path / "4.ckpt", known)
    assert str(checkpoints.find_checkpoint(path, tmp_path / "run", training(**changed), lines.append)) == path
    text = "\n".join(lines)
    assert said in text and ("the command is obeyed" in text) == bool(said) and "earlier version" not in text


def test_a_checkpoint_of_an_earlier_version_is_checked_as_far_as_it_says(known, tmp_path):
    path, lines = written(tmp_path / "4.ckpt", known, old=True), []
    assert checkpoints.find_checkpoint(path, tmp_path / "run", known, lines.append)
    assert (
        "does not say all of" in lines[-1]
        and "trainer.objective" in lines[-1]
        and "trainer.batch_size" not in lines[-1]
    )
    obeyed = training(optimizer=partial(torch.optim.Adam, lr=1e-6))
    assert checkpoints.find_checkpoint(path, tmp_path / "run", obeyed, lines.append)
    assert "trainer.optimizer.lr is 0.001 in the checkpoint and 1e-06" in "\n".join(lines)
    for changed, said in (
        ({"optimizer": partial(torch.optim.SGD, lr=1e-3)}, "trainer.optimizer.betas"),
        ({"optimizer": partial(torch.optim.AdamW, lr=1e-3)}, "trainer.optimizer.weight_decay"),
        ({"ema": None}, "whether weights are averaged"),
        ({"seed": 2}, "seed is 1"),
        ({"network": partial(class_conditioned_unet, hidden=12)}, "network.shapes"),
    ):
        with pytest.raises(UserError, match=said):
            checkpoints.find_checkpoint(path, tmp_path / "run", training(**changed), lines.append)


def test_auto_takes_the_newest_run_that_agrees_in_all_and_says_why_it_takes_none(known, tmp_path):
    run, lines = tmp_path / "now", []
    assert (
        checkpoints.find_checkpoint("auto", run, known, lines.append) is None
        and "there is no unfinished run" in lines[-1]
    )
    slower = training(optimizer=partial(torch.optim.Adam, lr=1e-4))
    other = written(tmp_path / "other" / "checkpoints" / "4.ckpt", slower)
    assert checkpoints.find_checkpoint("auto", run, known, lines.append) is None
    assert (
        f"{other}, is another training: trainer.optimizer.lr is 0.0001 in the checkpoint and 0.001"
        in lines[-1]
        and "anew" in lines[-1]
    )
    mine, done = (tmp_path / name / "checkpoints" / "4.ckpt" for name in ("mine", "done"))
    written(mine, known)
    written(done, known, step=9)
    os.utime(mine, (1, 1))
    assert checkpoints.find_checkpoint("auto", run, known, lines.append) == mine, (
        "not the newer ones, of another rate and without a step left"
    )
    mine.with_name("5.ckpt").write_bytes(b"PK\x03\x04 torn")
    assert checkpoints.find_checkpoint("auto", run, known, lines.append) == mine
    (mine.parents[1] / "numbers.json").write_text("{}")
    assert checkpoints.find_checkpoint("auto", run, known, lines.append) is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("no.ckpt", None, "There is no checkpoint"),
        ("torn.ckpt", b"PK\x03\x04 torn", "damaged, or of another program"),
        ("empty.ckpt", b"", "damaged, or of another program"),
        ("model.safetensors", b"x", "begin=.*starts a training from them"),
        ("list.ckpt", [1, 2], "not of a training of expkit's"),
        ("tensor.ckpt", torch.zeros(2), "not of a training of expkit's"),
        (
            "other.ckpt",
            {"state_dict": {}, "loops": {}, "global_step": 3, "optimizer_states": []},
            "not of a training of expkit's",
        ),
        (
            "strange.ckpt",
            {"history": {}, "global_step": 3, "optimizer_states": [{"param_groups": [{"lr": 1}]}]},
            "not of a training",
        ),
        ("folder", ..., "is a folder.*The newest in it is resume=.*4.ckpt"),
    ],
)
def test_what_is_no_checkpoint_is_said(name, content, said, known, tmp_path):
    path = tmp_path / name
    if content is ...:
        written(path / "checkpoints" / "4.ckpt", known)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=said):
        checkpoints.find_checkpoint(str(path), tmp_path / "run", known, print)


def test_resume_and_begin_exclude_each_other():
    with pytest.raises(UserError, match=r"resume=a\.ckpt and begin=digits exclude each other"):
        Train(DIGITS, TrainingData(None), 1, "a.ckpt", "digits")


def test_checkpoints_are_looked_at_before_captions_are_encoded(known, tmp_path):
    class Dear(Near):
        def adapt_to(self, images):
            raise AssertionError("captions were encoded")

    for resume, said in (
        (str(tmp_path / "no.ckpt"), "There is no checkpoint"),
        (written(tmp_path / "4.ckpt", known), "another training"),
    ):
        with pytest.raises(UserError, match=said):
            Train(replace(RECIPE, objective=Dear()), TrainingData(pictures), SEED, resume)(
                RunFolder(tmp_path / said)
            )
    with pytest.raises(UserError, match="There is no checkpoint"):
        Train(RECIPE, TrainingData(None), SEED, str(tmp_path / "no.ckpt"))(RunFolder(tmp_path / "run"))


def test_each_part_of_a_recipe_is_decided_upon():
    listed = {name.split(".")[1] for name in ON_RESUME if name.startswith("trainer.")}
    assert {part.name for part in fields(TrainConfig)} == listed
    assert {f"trainer.lightning.{name}" for name in lightning_arguments.ALLOWED} == {
        n for n in ON_RESUME if "lightning" in n
    }
    assert (
        on_resume("trainer.optimizer.lr") == OBEYED
        and on_resume("trainer.show") == FREE
        and on_resume("new") == "refused"
    )


def test_settings_are_what_json_holds_and_tell_no_tensors_last_bits(known):
    assert json.loads(json.dumps(dict(known.settings))) == known.settings
    made_elsewhere = linear_rescaled(50).alpha * (1 + 1e-15)
    assert (
        plain_values(made_elsewhere)
        == plain_values(linear_rescaled(50).alpha)
        != plain_values(cosine(50).alpha)
    )
    assert (
        plain_values(lr_schedules.cosine_lr)
        == plain_values(partial(lr_schedules.cosine_lr))
        == plain_values(partial(lr_schedules.cosine_lr, warm=0.03))
        != plain_values(lr_schedules.constant_lr)
    )
    assert setting_differences({"a": 1, "b": 2}, {"a": 1, "c": 3}) == {"b": (2, "not set")}


# ---- Lightning's arguments


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        *[(name, 1, f"trainer.lightning.{name}=1 is not taken") for name in lightning_arguments.REFUSED],
        ("max_epochs", 3, "give trainer.epochs"),
        ("fast_dev_run", True, "limit_train_batches=N"),
        ("logger", ["a", "b"], "logger=tensorboard, wandb or none"),
        ("limit_train_batch", 2, "Did you mean limit_train_batches?"),
        *[
            ("limit_train_batches", value, "a whole number of batches")
            for value in (0, 0.0, -1, 1.5, True, "all", float("nan"))
        ],
        *[("limit_val_batches", value, "a whole number of batches") for value in (0, -2)],
        *[("accumulate_grad_batches", value, "1 or more") for value in (0, 1.5, [2])],
        *[("log_every_n_steps", value, "1 or more") for value in (0, 2.5)],
        *[("gradient_clip_val", value, "above 0") for value in (0, -1.0, float("inf"), "x")],
        ("gradient_clip_algorithm", "l1", "norm or value"),
        ("deterministic", "yes", "true, false or warn"),
        ("profiler", "xla", "simple or advanced"),
        ("benchmark", 1, "true or false"),
    ],
)
def test_arguments_that_would_make_numbers_untrue_are_refused(name, value, said):
    with pytest.raises(UserError) as refused:
        replace(RECIPE, lightning={name: value})
    assert said in str(refused.value)


def test_arguments_are_refused_before_anything_is_made(expkit):
    done = expkit("task=train", "+trainer.lightning.callbacks=[{_target_:no.such.Thing}]", "logger=none")
    assert done.code == 2 and "trainer.lightning.callbacks is not taken" in done.err.replace(
        "=[{'_target_': 'no.such.Thing'}]", ""
    )


def test_lightning_knows_what_is_allowed():
    from inspect import signature

    from pytorch_lightning import Trainer

    assert set(lightning_arguments.ALLOWED) <= set(signature(Trainer.__init__).parameters)
    with pytest.raises(UserError, match="arguments of Lightning's Trainer"):
        replace(RECIPE, lightning=None)


def test_a_share_that_leaves_no_batch_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"limit_train_batches=0\.1 of 5 batches is none: give 0\.2 or more"):
        trained(tmp_path / "run", lightning={"limit_train_batches": 0.1})


@pytest.mark.filterwarnings("ignore:Error detected in")
def test_a_network_whose_gradient_is_no_number_is_a_sentence(tmp_path):
    class Broken(Near):
        def __call__(self, network, images, labels, draws):
            return (network.grey * 0).sqrt().mean() * 0

    with pytest.raises(UserError, match="returned nan values"):
        trained(tmp_path / "run", lightning={"detect_anomaly": True}, objective=Broken())
