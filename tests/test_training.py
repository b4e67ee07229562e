"""Training: the course's networks, streams that belong to (seed, epoch, index), and a killed run that goes on as itself."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from expkit.denoisers import trained
from expkit.denoisers.unets import UNet
from expkit.errors import Refusal
from expkit.randomness import stream
from expkit.schedule import linear, scaled
from expkit.training import rates
from expkit.training.data import Batches, Pictures
from expkit.training.fit import find_checkpoint
from expkit.training.objectives import Diffusion

PICTURES = Pictures(torch.randint(256, (50, 1, 28, 28), dtype=torch.uint8), torch.arange(50) % 10)


@pytest.mark.parametrize(
    ("hidden", "plain", "timed", "classed"),
    [
        (8, 31_433, 31_825, 32_433),
        (32, 495_137, 500_545, 506_817),
        (64, 1_975_361, 1_996_417, 2_019_201),
        (128, 7_891_073, 7_974_145, 8_060_673),
    ],
)
def test_the_unets_are_the_courses(hidden, plain, timed, classed):
    count = lambda *made: sum(p.numel() for p in UNet(hidden, *made).parameters())  # noqa: E731
    assert (count(False), count(True), count(True, 10)) == (plain, timed, classed)


def test_conditioning_acts_as_written():
    net, x, u = UNet(8, True, 10).eval(), torch.rand(2, 1, 28, 28), torch.tensor([[0.1], [0.9]])
    none, three = torch.zeros(2, 10), torch.eye(10)[[3, 3]]
    assert not torch.equal(net(x, u, none), net(x, u, three)) and not torch.equal(net(x, u, none), net(x, u.flip(0), none))
    h = torch.rand(2, 16, 7, 7)
    by_hand = net.labels[0](three)[:, :, None, None] * h + net.times[0](u)[:, :, None, None]
    assert torch.equal(net.conditioned(h, 0, u, three), by_hand)


def test_an_epochs_order_is_a_function_of_seed_and_epoch():
    batches = Batches(PICTURES, 8, seed=3)
    first = [b.labels.tolist() for b in batches]
    assert first == [b.labels.tolist() for b in batches] and sum(map(len, first)) == 50
    batches.set_epoch(1)
    assert first != [b.labels.tolist() for b in batches]


def test_batches_are_taken_up_again_where_they_were_left():
    whole, left = list(Batches(PICTURES, 8, seed=3)), Batches(PICTURES, 8, seed=3)
    seen = iter(left)
    next(seen), next(seen)
    again = Batches(PICTURES, 8, seed=3)
    again.load_state_dict(left.state_dict())
    assert [b.index for b in again] == [2, 3, 4, 5, 6]
    assert torch.equal(next(iter(Batches(PICTURES, 8, seed=3))).images, whole[0].images)


def test_processes_share_a_global_batch_and_its_noise():
    objective, net = Diffusion(scaled(300)), UNet(8, True, 10).eval()

    def losses(rank: int, world: int) -> torch.Tensor:
        batches = Batches(PICTURES, 10, 3, True, rank, world)
        return torch.stack([objective(net, b.images, b.labels, stream(b.index), rank, world) for b in batches])

    assert torch.allclose(losses(0, 1), (losses(0, 2) + losses(1, 2)) / 2, atol=1e-6)


def test_the_loss_is_the_papers():
    class Perfect(torch.nn.Module):
        """Knows the picture: a single flat one."""

        classes, made = 0, linear(300)

        def forward(self, x, u, label):
            alpha, sigma = self.made.rows((u[:, 0] * 300).round().long() - 1)
            return (x - alpha * 0.5) / sigma

    images, objective = torch.full((64, 1, 28, 28), 0.5), Diffusion(linear(300))
    assert objective(Perfect(), images, torch.zeros(64).long(), stream(0)) < 1e-6
    silent = objective(Silent(), images, torch.zeros(64).long(), stream(0))
    assert float(silent) == pytest.approx(1, abs=0.02)  # the variance of the noise


class Silent(torch.nn.Module):
    classes = 0

    def forward(self, x, u, label):
        return torch.zeros_like(x)


def test_classes_are_forgotten_as_often_as_asked():
    class Listening(torch.nn.Module):
        classes = 10

        def forward(self, x, u, label):
            self.kept = label.sum(1)
            return x

    net = Listening()
    Diffusion(scaled(300), drop=0.1)(net, torch.zeros(4000, 1, 4, 4), torch.arange(4000) % 10, stream(0))
    assert float((net.kept == 0).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_rates():
    assert [rates.tenth(done, 20) for done in (0, 0.5, 0.95)] == pytest.approx([1, 0.1**0.5, 0.1**0.95])
    assert rates.cosine(0, 5) == 0 and rates.cosine(0.03, 5) == 1 and rates.cosine(1, 5) == pytest.approx(0)


def test_weights_come_back_as_they_were_saved(tmp_path):
    net, facts = UNet(8, True, 10).eval(), trained.Facts(8, True, 10, 1, 28, "v", -1.0, 1.0)
    trained.save(tmp_path / "model.safetensors", net, scaled(300), facts)
    model = trained.load(str(tmp_path / "model.safetensors"), precision="float32", device="cpu")
    x = torch.randn(2, 1, 28, 28)
    assert (model.kind, model.range, len(model.schedule)) == ("v", (-1.0, 1.0), 300)
    assert torch.equal(model.schedule.alpha, scaled(300).alpha)
    expected = net(x, torch.full((2, 1), 151 / 300), torch.stack([torch.eye(10)[3], torch.zeros(10)]))
    assert torch.allclose(model.predict(x, 150, ["a handwritten 3", ""]).native, expected, atol=1e-5)


def test_a_single_step_denoiser_does_not_sample(tmp_path):
    trained.save(tmp_path / "m.safetensors", UNet(8, False), scaled(300), trained.Facts(8, False, 0, 1, 28, "x0", 0.0, 1.0))
    with pytest.raises(Refusal, match="single-step"):
        trained.load(str(tmp_path / "m.safetensors"))


def test_a_card_that_promises_another_file_is_not_believed(tmp_path):
    trained.save(tmp_path / "m.safetensors", UNet(8, True, 10), scaled(300), trained.Facts(8, True, 10, 1, 28, "v", -1.0, 1.0))
    with pytest.raises(Refusal, match="damaged"):
        trained.read(tmp_path / "m.safetensors", "0" * 64)


def test_checkpoints_that_cannot_be_gone_on_from(tmp_path):
    with pytest.raises(Refusal, match="missing or damaged"):
        find_checkpoint(str(tmp_path / "no.ckpt"), tmp_path / "run")
    assert find_checkpoint("auto", tmp_path / "run") is None
    torn = tmp_path / "old" / "checkpoints" / "step=5.ckpt"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"PK\x03\x04 torn")
    assert find_checkpoint("auto", tmp_path / "run") is None


TINY = ("task=train", "trainer=digits", "trainer.network.hidden=8", "data.limit=320", "data.test_limit=64", "trainer.epochs=3",
        "trainer.batch_size=32", "trainer.checkpoint_every=4", 
        "trainer.lightning.log_every_n_steps=4", "trainer.lightning.accelerator=cpu")  # fmt: skip


def losses(folder: Path) -> list:
    return list(csv.reader((folder / "losses.csv").open()))


def test_a_run_killed_in_mid_epoch_goes_on_as_if_it_had_not_been(expkit, data, tmp_path):
    whole = expkit(*TINY, f"hydra.run.dir={tmp_path / 'whole' / 'run'}")
    assert whole.code == 0, whole.err
    victim = tmp_path / "killed" / "run"
    environment = os.environ | {"EXPKIT_DATA": str(data), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "expkit", *TINY, "logger=none", f"hydra.run.dir={victim}"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(victim.glob("checkpoints/step=16*.ckpt")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = expkit(*TINY, "resume=auto", f"hydra.run.dir={tmp_path / 'killed' / 'again'}")
    assert resumed.code == 0 and "resuming from" in resumed.err
    assert len(losses(whole.folder)) == 31 and losses(resumed.folder) == losses(whole.folder)
    weights = [trained.read(run.folder / "model.safetensors")[0].state_dict() for run in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    tested = whole.numbers()["epochs"]
    assert [row["epoch"] for row in tested] == [1, 2, 3] and all(row["test_loss"] > 0 for row in tested)
    for file in ("picture.png", "samples_epoch_1.png", "recipe.yaml"):
        assert (whole.folder / file).stat().st_size > 0


def test_a_loss_that_is_no_number_stops_the_run_with_a_sentence(expkit, data):
    done = expkit(*TINY, "logger=none", "trainer.optimizer.lr=1e30")
    assert done.code == 2 and "no longer a number" in done.err


def test_missing_data_is_said(expkit, tmp_path):
    done = expkit(*TINY, "logger=none", f"data.pictures.folder={tmp_path / 'nowhere'}")
    assert done.code == 2 and "MNIST is not at" in done.err
