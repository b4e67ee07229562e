"""Readings: what an estimate makes visible in an image, and how one looks at it.

They follow the algebra of estimates: a part behind a blur is read from afar, a part seen through a
view is read through that view, the parts of a sum are read one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from expkit.core.maps import Distance, IdentityMap, LinearMap
from expkit.core.views import Identity, View


@dataclass(frozen=True)
class Reading:
    """What one sees in an image, and how one looks at it.

    Attributes:
        prompt: What is seen: one prompt, or a tuple with one per image of the run.
        names: Names of the part of the estimate that asks for it, the outermost part first.
        lenses: Views and maps through which one looks, in the order of application.
        distance: From where one looks.
    """

    prompt: str | tuple[str, ...]
    names: tuple[str, ...] = ()
    lenses: tuple[View | LinearMap, ...] = ()
    distance: Distance = Distance.NEAR

    def named(self, name: str) -> Reading:
        """The reading of the part `name` of a larger estimate."""
        return replace(self, names=(name, *self.names))

    def through(self, view: View) -> Reading:
        """The same where the image is seen through a view first."""
        return self if view == Identity() else replace(self, lenses=(view, *self.lenses))

    def filtered(self, outer: LinearMap) -> Reading:
        """The same where only the component that `outer` selects is asked for."""
        reading = self
        for factor in outer.factors:
            nearest, farthest = factor.distances
            distance = min(max(reading.distance, nearest), farthest)
            lens = () if factor.lens == IdentityMap() else (factor.lens,)
            reading = replace(reading, lenses=(*lens, *reading.lenses), distance=distance)
        return reading

    def for_resolution(self, times: float) -> Reading:
        """The same for images with sides `times` as long."""
        return replace(self, lenses=tuple(lens.for_resolution(times) for lens in self.lenses))

    def select(self, pictures: Sequence[int]) -> Reading:
        """The reading of these images of the run, in this order and renumbered from 0."""
        if isinstance(self.prompt, str):
            return self
        return replace(self, prompt=tuple(self.prompt[picture] for picture in pictures))
