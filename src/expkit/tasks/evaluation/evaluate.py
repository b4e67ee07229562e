"""task=evaluate: sample pictures from noise and compare them with test pictures, by judges.

    quality: accuracy, precision, Fréchet distance
    diversity: recall, distance within a class
    both against the guidance strength gamma

Training pictures are compared with the same test pictures at the same count. Their numbers are the
floor, up to the scatter of so many pictures. `eps_error` is reported too, which compares training
recipes without any sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from expkit.core.denoiser import Counting, Denoiser
from expkit.core.estimate import Estimate, conditional, guided
from expkit.core.sampler import Sampler, Seed, count_rows, sample
from expkit.core.timesteps import count_updates
from expkit.errors import UserError
from expkit.metrics import fidelity
from expkit.metrics.judges import Judge
from expkit.results.run_folder import RunFolder
from expkit.tasks import timing
from expkit.tasks.evaluation import reference_set
from expkit.tasks.evaluation.eps_error import eps_error
from expkit.tasks.evaluation.judge_panel import JudgedSet, Panel
from expkit.tasks.evaluation.tradeoff_figure import Row, tradeoff_page
from expkit.tasks.preflight import Plan, check_run, format_header

if TYPE_CHECKING:
    from expkit.data.labelled_pictures import Pictures
    from expkit.training.train import TrainingData

TEST, TRAIN = "test pictures", "training pictures"
FILED, SHOWN = 20, 10  # pictures of each gamma that are written as files, and shown on the page


@dataclass(frozen=True, eq=False)
class Evaluate:
    """Sample `samples` pictures at each gamma, equally many per class; compare them with `data`.

    Picture k is of class k mod C and has the noise of (seed, k), for every gamma and chunk size.
    For a model without classes there is no gamma and no accuracy; the share of each class among the
    judge's answers is reported instead.

    Args:
        judges: {name: Judge}; distances are in the features of the last one.
        gamma: guidance strengths, one or several.
        samples: a multiple of the number of classes.
        chunk: the number of pictures sampled at a time.
        note: a line for the header and the foot of the page.
    """

    model: Denoiser
    sampler: Sampler
    data: TrainingData
    judges: Mapping[str, Judge] | None
    gamma: float | Sequence[float]
    samples: int
    seed: int
    chunk: int = 250
    note: str = ""

    def __call__(self, result: RunFolder) -> None:
        self.check()
        model = Counting(self.model)
        grid, estimate = self.sampler.timesteps(self.model.schedule), self.estimate()
        plan = self.plan(model, estimate, grid)
        tests = reference_set.open_set(self.data, model, train=False)
        trains = reference_set.open_set(self.data, model, train=True)
        assert self.judges is not None  # see `check`
        panel = Panel(self.judges, tests.names, fidelity.inception_at_hand())
        test, train = self.real_set(panel, tests, TEST), self.real_set(panel, trains, TRAIN)
        panel.check(test)
        extra = [self.noted, timing.describe_duration(model.name, sum(plan.calls))]
        extra += self.remarks(panel, test)
        result.say(format_header("evaluate", model, grid, plan, self.count, extra))
        generated_sets = self.generated_sets(panel, self.sample_images(model, estimate, grid))
        read_statistics = panel.accuracy if self.model.class_prompts else panel.shares
        measurements = {
            name: read_statistics(pictures) | panel.compare(pictures, test)
            for name, pictures in generated_sets.items()
        }
        measurements |= {TRAIN: panel.compare(train, test), TEST: read_statistics(test)}
        prompts = self.turns(self.model.class_prompts or ("",))
        result.numbers |= {
            "samples": self.samples,
            "seed": self.seed,
            "device": str(model.device),
            **timing.usage(model),
        }
        error = eps_error(self.model, test.images.float() / 255, prompts)
        result.numbers |= {
            "eps_error": error,
            "judge": panel.name,
            "features": test.features.shape[1],
            "neighbours": fidelity.K,
            "measured": measurements,
        }
        result.numbers["files"] = {
            name: result.save_images(
                first_pictures(pictures, FILED),
                f"{name.replace(' ', '_')}_{{:02d}}",
            )
            for name, pictures in generated_sets.items()
        }
        sets = generated_sets | {TRAIN: train, TEST: test}
        result.picture(self.page(sets, measurements, panel, error))

    def check(self) -> None:
        """Refuse a run without judges, with several seeds, or with an unfit number of samples."""
        if not self.judges:
            raise UserError(
                "task=evaluate compares what a judge sees in pictures, and this run has none: try "
                "judges@model.judges=digits, for digits, or judges@model.judges=clip."
            )
        if not isinstance(self.seed, int):
            raise UserError(
                "task=evaluate samples with one seed, and was given several: "
                "give one, or sweep with -m seed=1,2."
            )
        classes = len(self.model.class_prompts) or 1
        least = classes * -(-max(2 * classes, fidelity.K + 1) // classes)
        if self.samples < least or self.samples % classes:
            raise UserError(
                f"samples={self.samples} does not fit: task=evaluate samples as many pictures of "
                "each class as of every other, and compares them with each other. "
                f"Give a multiple of {classes}, {least} or more."
            )

    @cached_property
    def gammas(self) -> dict[str, float]:
        """{label: gamma}; one entry for a model without classes."""
        if not self.model.class_prompts:
            return {"unconditional": 0.0}
        gammas = self.gamma if isinstance(self.gamma, Sequence) else [self.gamma]
        return {f"gamma {gamma:g}": gamma for gamma in gammas}

    @property
    def noted(self) -> str:
        """The note with what was really done."""
        updates = count_updates(self.sampler.timesteps(self.model.schedule))
        return f"{self.note} · {updates} updates from noise · seed {self.seed}"

    @property
    def count(self) -> int:
        """The number of pictures of all gammas."""
        return len(self.gammas) * self.samples

    @property
    def parts(self) -> list[range]:
        """The rows of each chunk; rows are numbered gamma by gamma."""
        starts = range(0, self.count, self.chunk)
        return [range(start, min(start + self.chunk, self.count)) for start in starts]

    def turns(self, classes: Sequence) -> list:
        """The class of each picture of one gamma: the classes take turns."""
        return [classes[index % len(classes)] for index in range(self.samples)]

    def estimate(self) -> Estimate:
        """The estimate, for the pictures of all gammas."""
        if not self.model.class_prompts:
            return conditional("", condition=False)
        prompts = self.turns(self.model.class_prompts)
        gammas = [gamma for gamma in self.gammas.values() for _ in prompts]
        return guided(prompts * len(self.gammas), gammas)

    def plan(self, model: Denoiser, estimate: Estimate, grid: Sequence[float]) -> Plan:
        """The plan of the run, whose calls are those of all chunks."""
        rule, clip = self.sampler.rule, self.sampler.clip
        plan = check_run(model, estimate, grid, self.count, clip=clip, rule=rule)
        calls = []
        for rows in self.parts:
            selected = estimate.select(rows)
            calls += count_rows(selected, model.schedule, grid, len(rows), rule=rule)
        return replace(plan, calls=calls)

    def real_set(self, panel: Panel, pictures: Pictures, name: str) -> JudgedSet:
        """As many pictures of the data as are sampled; equally many of each class of the model."""
        classes = panel.labels(self.model.class_prompts)
        if classes:
            count = self.samples // len(classes)
            subset = reference_set.of_each(pictures, count, classes, name)
        else:
            subset = reference_set.draw_pictures(pictures, self.samples, name)
        return panel.read(subset.images, subset.labels)

    def generated_sets(self, panel: Panel, images: Tensor) -> dict[str, JudgedSet]:
        """The sampled pictures of each gamma, as the judges read them."""
        labels = None
        if self.model.class_prompts:
            labels = torch.tensor(self.turns(panel.labels(self.model.class_prompts)))
        parts = zip(self.gammas, images.split(self.samples), strict=True)
        return {name: panel.read(part, labels) for name, part in parts}

    def remarks(self, panel: Panel, test: JudgedSet) -> list[str]:
        """The limits of the numbers, for the header."""
        size = test.features.shape[1]
        remarks = []
        if self.samples < 4 * size:
            remarks.append(
                f"WARNING: {self.samples} pictures say little of {size} features: "
                f"take {4 * size} or more for a Fréchet distance"
            )
        if not self.model.class_prompts:
            effect = "gamma has no say, and there is no accuracy"
            remarks.append(f"this model is told no classes: {effect}")
        if not panel.inception:
            remarks.append(
                "Inception FID is left out: torch-fidelity and its weights are not on this machine"
            )
        return remarks

    def sample_images(self, model: Denoiser, estimate: Estimate, grid: Sequence[float]) -> Tensor:
        """The pictures of all gammas, uint8 (N, C, H, W)."""
        from tqdm import tqdm

        rule, clip = self.sampler.rule, self.sampler.clip
        total = len(self.parts) * count_updates(grid)
        chunks = []
        with tqdm(total=total, desc="evaluate", unit="step", leave=False, mininterval=0.2) as bar:
            for rows in self.parts:
                seeds = [Seed(self.seed, row % self.samples) for row in rows]
                for step in sample(model, estimate.select(rows), grid, seeds, rule, clip=clip):
                    x = step.x
                    bar.update()
                chunks.append((model.decode(x) * 255).round().byte().cpu())
        return torch.cat(chunks)

    def page(
        self,
        sets: Mapping[str, JudgedSet],
        measured: Mapping[str, dict],
        panel: Panel,
        error: float,
    ) -> Image.Image:
        """The page with all numbers, curves against gamma, and some pictures of each set."""
        rows = [
            Row(name, first_pictures(pictures, SHOWN), self.gammas.get(name), measured[name])
            for name, pictures in sets.items()
        ]
        about = (
            f"{self.samples} pictures a row, compared with test pictures in features of judge "
            f"“{panel.name}”. What training pictures get, so compared, is the floor.\n"
            f"Mean squared error of eps on test pictures, course schedule: {error:.4f}\n"
            f"{self.noted}"
        )
        return tradeoff_page(rows, panel.name, about)


def first_pictures(one: JudgedSet, count: int) -> Tensor:
    """The first `count` pictures of a set, in [0, 1]."""
    return one.images[:count].float() / 255
