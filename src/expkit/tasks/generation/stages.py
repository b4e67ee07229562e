"""A stage of a model, with all that it needs to sample a batch of pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from expkit.core.denoiser import Counting
from expkit.core.estimate import EstimateBase
from expkit.core.sampler import Sampler, Seed, Step, sample
from expkit.tasks import timing
from expkit.tasks.pins import Pinned
from expkit.tasks.preflight import Plan, check_composition, format_header, plan_run


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage of a model, and what it samples: B pictures, one for each seed.

    Attributes:
        name: for the header and the progress bar.
        model: the network of this stage, which counts its calls.
        sampler: solver, timesteps and threshold.
        grid: the levels to visit.
        estimate: what is evaluated, with maps for the size of this stage.
        pinned: what is kept of a picture.
        seeds: the noise keys of the B rows.
        warnings: what fails on purpose.
    """

    name: str
    model: Counting
    sampler: Sampler
    grid: Sequence[float]
    estimate: EstimateBase
    pinned: Pinned
    seeds: Sequence[Seed]
    warnings: tuple[str, ...] = ()

    def check(self) -> Stage:
        """Refuse what cannot work, before any prompt is encoded; the stage with its warnings."""
        pin, rule, clip = self.pinned.pin, self.sampler.rule, self.sampler.clip
        count = len(self.seeds)
        warnings = check_composition(self.model, self.estimate, self.grid, count, pin, clip, rule)
        return replace(self, warnings=warnings)

    def plan(self, rows_left: Callable[[int], Collection[int]] | None = None) -> Plan:
        """Prepare the prompts; what the stage will do. rows_left: see `sampler.count_rows`."""
        model, estimate, pin, count = self.model, self.estimate, self.pinned.pin, len(self.seeds)
        grid, rule = self.grid, self.sampler.rule
        return plan_run(model, estimate, grid, count, pin, self.warnings, rows_left, rule)

    def header(self, plan: Plan, notes: Sequence[str] = ()) -> str:
        """The header of this stage: its work, conventions, notes, and how long it will take."""
        extra = [*notes, timing.describe_duration(self.model.name, sum(plan.calls))]
        return format_header(self.name, self.model, self.grid, plan, len(self.seeds), extra)

    def steps(
        self, purpose: str = "", drop: Callable[[int, Step], Collection[int]] | None = None
    ) -> Iterable[Step]:
        """Sample; the steps of the loop, with a progress bar. Arguments: see `sampler.sample`."""
        model, estimate, grid, seeds = self.model, self.estimate, self.grid, self.seeds
        rule, pin, clip = self.sampler.rule, self.pinned.pin, self.sampler.clip
        steps = sample(model, estimate, grid, seeds, rule, pin, clip, purpose=purpose, drop=drop)
        return timing.progress(steps, self.name, grid, pin)

    def select(self, rows: Sequence[int]) -> Stage:
        """The stage for these rows of the batch only."""
        pinned = replace(self.pinned, pin=self.pinned.pin and self.pinned.pin.select(rows))
        seeds = [self.seeds[row] for row in rows]
        return replace(self, estimate=self.estimate.select(rows), pinned=pinned, seeds=seeds)
