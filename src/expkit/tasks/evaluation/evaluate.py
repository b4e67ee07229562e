"""How good a generator's pictures are: sampled from noise, read by judges, and compared with as many test pictures.

    quality: accuracy, precision, Fréchet distance            diversity: recall, distance within a class            against gamma

What training pictures get, compared with the same test pictures at the same count, is the floor, to within
the scatter of so many pictures. Beside them stands what recipes can be compared on before anything is sampled, `eps_error`.
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
from expkit.results.run_folder import Result
from expkit.tasks import timing
from expkit.tasks.evaluation import reference_set
from expkit.tasks.evaluation.eps_error import eps_error
from expkit.tasks.evaluation.judge_panel import Panel, Set
from expkit.tasks.evaluation.tradeoff_figure import Row, tradeoff_page
from expkit.tasks.preflight import Plan, check_run, format_header
from expkit.tasks.sampling import usage

if TYPE_CHECKING:
    from expkit.data.labelled_pictures import Pictures
    from expkit.training.train import Data

TEST, TRAIN = "test pictures", "training pictures"
FILED, SHOWN = 20, 10  # pictures of each gamma: so many are written as files, and stand on the page


@dataclass(frozen=True, eq=False)
class Evaluate:
    """Sample `samples` pictures from `model` at each gamma, as many of each class, and compare them with those of `data`.

    Picture k is of class k mod C and has the noise of (seed, k), whatever the gamma and however many are sampled at a time (`chunk`).
    A model that is told no classes has no gamma and no accuracy: the share of each class that is read is reported instead.
    """

    model: Denoiser
    sampler: Sampler
    data: Data
    judges: Mapping[str, Judge] | None
    gamma: float | Sequence[float]
    samples: int
    seed: int
    chunk: int = 250
    note: str = ""

    def __call__(self, result: Result) -> None:
        self.check()
        model, grid, wish = Counting(self.model), self.sampler.timesteps(self.model.schedule), self.wish()
        plan = self.plan(model, wish, grid)
        tests, trains = (reference_set.open_set(self.data, model, train) for train in (False, True))
        panel = Panel(self.judges, tests.names, fidelity.inception_at_hand())
        test, train = self.known(panel, tests, TEST), self.known(panel, trains, TRAIN)
        panel.check(test)
        says = [self.noted, timing.describe_duration(model.name, sum(plan.calls)), *self.remarks(panel, test)]
        result.say(format_header("evaluate", model, grid, plan, self.count, says))
        made = self.made(panel, self.sampled(model, wish, grid))
        read = panel.accuracy if self.model.classes else panel.shares
        measured = {name: read(one) | panel.compared(one, test) for name, one in made.items()}
        measured |= {TRAIN: panel.compared(train, test), TEST: read(test)}
        result.numbers |= {
            "samples": self.samples,
            "seed": self.seed,
            "device": str(model.device),
            **usage(model),
        }
        result.numbers["eps_error"] = error = eps_error(
            self.model, test.images.float() / 255, self.turns(self.model.classes or ("",))
        )
        result.numbers |= {
            "judge": panel.name,
            "features": test.features.shape[1],
            "neighbours": fidelity.K,
            "measured": measured,
        }
        result.numbers["files"] = {
            name: result.bare(first_pictures(one, FILED), f"{name.replace(' ', '_')}_{{:02d}}")
            for name, one in made.items()
        }
        result.picture(self.page(made | {TRAIN: train, TEST: test}, measured, panel, error))

    def check(self) -> None:
        if not self.judges:
            raise UserError(
                "task=evaluate compares what a judge sees in pictures, and this run has none: try judges@model.judges=digits, for digits, "
                "or judges@model.judges=clip."
            )
        if not isinstance(self.seed, int):
            raise UserError(
                "task=evaluate samples with one seed, and was given several: give one, or sweep with -m seed=1,2."
            )
        classes = len(self.model.classes) or 1
        least = classes * -(-max(2 * classes, fidelity.K + 1) // classes)
        if self.samples < least or self.samples % classes:
            raise UserError(
                f"samples={self.samples} does not fit: task=evaluate samples as many pictures of each class as of every other, and "
                f"compares them with each other. Give a multiple of {classes}, {least} or more."
            )

    @cached_property
    def gammas(self) -> dict[str, float]:
        """{what it is called: gamma}; one where the model is told no classes."""
        given = self.gamma if isinstance(self.gamma, Sequence) else [self.gamma]
        return (
            {f"gamma {gamma:g}": gamma for gamma in given} if self.model.classes else {"unconditional": 0.0}
        )

    @property
    def noted(self) -> str:
        return f"{self.note} · {count_updates(self.sampler.timesteps(self.model.schedule))} updates from noise · seed {self.seed}"

    @property
    def count(self) -> int:
        return len(self.gammas) * self.samples

    @property
    def parts(self) -> list[range]:
        """The pictures of all gammas, one gamma after another, as many at a time as are sampled together."""
        return [
            range(first, min(first + self.chunk, self.count)) for first in range(0, self.count, self.chunk)
        ]

    def turns(self, classes: Sequence) -> list:
        """The class of each picture of one gamma: they take turns."""
        return [classes[k % len(classes)] for k in range(self.samples)]

    def wish(self) -> Estimate:
        """All that is asked, for the pictures of all gammas."""
        if not self.model.classes:
            return conditional("", condition=False)
        prompts = self.turns(self.model.classes)
        return guided(prompts * len(self.gammas), [gamma for gamma in self.gammas.values() for _ in prompts])

    def plan(self, model: Denoiser, wish: Estimate, grid: Sequence[int]) -> Plan:
        whole = check_run(model, wish, grid, self.count, clip=self.sampler.clip, rule=self.sampler.rule)
        return replace(
            whole,
            calls=[
                c for rows in self.parts for c in count_rows(wish.only(rows), model.schedule, grid, len(rows))
            ],
        )

    def known(self, panel: Panel, pictures: Pictures, name: str) -> Set:
        """As many pictures of the data as are sampled, and as many of each class where that is asked of the model."""
        classes = panel.labels(self.model.classes)
        each = self.samples // max(1, len(classes))
        found = (
            reference_set.of_each(pictures, each, classes, name)
            if classes
            else reference_set.draw_pictures(pictures, each, name)
        )
        return panel.seen(found.images, found.labels)

    def made(self, panel: Panel, images: Tensor) -> dict[str, Set]:
        labels = torch.tensor(self.turns(panel.labels(self.model.classes))) if self.model.classes else None
        return {
            name: panel.seen(part, labels)
            for name, part in zip(self.gammas, images.split(self.samples), strict=True)
        }

    def remarks(self, panel: Panel, test: Set) -> list[str]:
        """What should be known of the numbers before they are there."""
        size = test.features.shape[1]
        few = f"WARNING: {self.samples} pictures say little of {size} features: take {4 * size} or more for a Fréchet distance"
        untold = "this model is told no classes: gamma has no say, and there is no accuracy"
        without = "Inception FID is left out: torch-fidelity and its weights are not on this machine"
        said = {few: self.samples < 4 * size, untold: not self.model.classes, without: not panel.inception}
        return [text for text, applies in said.items() if applies]

    def sampled(self, model: Denoiser, wish: Estimate, grid: Sequence[int]) -> Tensor:
        """The pictures of all gammas, uint8 (N, C, H, W)."""
        from tqdm import tqdm

        done = []
        with tqdm(
            total=len(self.parts) * count_updates(grid),
            desc="evaluate",
            unit="step",
            leave=False,
            mininterval=0.2,
        ) as bar:
            for rows in self.parts:
                seeds = [Seed(self.seed, row % self.samples) for row in rows]
                for step in sample(
                    model, wish.only(rows), grid, seeds, self.sampler.rule, clip=self.sampler.clip
                ):
                    x = step.x
                    bar.update()
                done.append((model.decode(x) * 255).round().byte().cpu())
        return torch.cat(done)

    def page(
        self, sets: Mapping[str, Set], measured: Mapping[str, dict], panel: Panel, error: float
    ) -> Image.Image:
        rows = [
            Row(name, first_pictures(one, SHOWN), self.gammas.get(name), measured[name])
            for name, one in sets.items()
        ]
        about = (
            f"{self.samples} pictures a row, compared with test pictures in features of judge “{panel.name}”. "
            "What training pictures get, so compared, is the floor.\n"
            f"Mean squared error of eps on test pictures, course schedule: {error:.4f}\n{self.noted}"
        )
        return tradeoff_page(rows, panel.name, about)


def first_pictures(one: Set, count: int) -> Tensor:
    """The first `count`, in [0, 1]."""
    return one.images[:count].float() / 255
