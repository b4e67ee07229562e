"""Orthogonal views of a picture: ways to look at it that keep white noise white.

    view.inverse(view(image)) = image

Most are permutations of pixels, orthogonal by construction. A view says how it moves pixels; its inverse is worked out from that.
The last ones are failures, kept under their names: they are not orthogonal, and show what then happens to a picture.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import pairwise, permutations
from random import Random
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


class View(ABC):
    """A frozen dataclass with equality by value, for square pictures (…, H, H)."""

    degrees: ClassVar[float] = (
        0.0  # by how much a person turns the picture clockwise to see it so; 0 where turning does not do it
    )
    symmetric_range: ClassVar[bool] = False  # whether it needs pictures whose values lie evenly about zero
    not_orthogonal_because: ClassVar[str] = (
        ""  # why it is not orthogonal, where that is what it is there to show
    )

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor: ...

    @abstractmethod
    def inverse(self, image: Tensor) -> Tensor:
        """The picture of which this is the view."""

    @property
    def inverse_view(self) -> View:
        """The inverse as a view."""
        return Inverse(self)

    @property
    def parts(self) -> tuple[View, ...]:
        """The views it is made of, one after another."""
        return (self,)

    def unpermute(self, image: Tensor) -> Tensor:
        """Pixels moved back, signs untouched: for what is not a signal, such as a variance."""
        return self.inverse(image)


@dataclass(frozen=True)
class Identity(View):
    """As it is."""

    def __call__(self, image: Tensor) -> Tensor:
        return image

    inverse = __call__

    @property
    def parts(self) -> tuple[View, ...]:
        return ()

    @property
    def inverse_view(self) -> View:
        return self


@dataclass(frozen=True)
class Negate(View):
    """Black for white. It flips the sign of a signal but not of a variance, and needs a range that is symmetric about zero."""

    symmetric_range: ClassVar[bool] = True

    def __call__(self, image: Tensor) -> Tensor:
        return -image

    inverse = __call__

    @property
    def inverse_view(self) -> View:
        return self

    def unpermute(self, image: Tensor) -> Tensor:
        return image


class Permutation(View):
    """A view that only moves pixels. `move` is given pictures or a grid of indices (…, H, H)."""

    @abstractmethod
    def move(self, image: Tensor) -> Tensor:
        """The picture with its pixels moved."""

    def __call__(self, image: Tensor) -> Tensor:
        return image.flatten(-2)[..., _places(self, image.shape[-1], image.device)].view(image.shape)

    def inverse(self, image: Tensor) -> Tensor:
        return image.flatten(-2)[..., _back(self, image.shape[-1], image.device)].view(image.shape)


@lru_cache(maxsize=64)
def _places(view: Permutation, side: int, device: torch.device) -> Tensor:
    """Which pixel of the picture each pixel of the view shows."""
    return view.move(torch.arange(side * side).view(side, side)).flatten().to(device)


@lru_cache(maxsize=64)
def _back(view: Permutation, side: int, device: torch.device) -> Tensor:
    return _places(view, side, device).argsort()


@dataclass(frozen=True)
class Inverse(View):
    """The inverse of a view that is not its own."""

    view: View

    def __call__(self, image: Tensor) -> Tensor:
        return self.view.inverse(image)

    def inverse(self, image: Tensor) -> Tensor:
        return self.view(image)

    @property
    def inverse_view(self) -> View:
        return self.view


class Involution(Permutation):
    """A permutation that is its own inverse."""

    def __call__(self, image: Tensor) -> Tensor:
        return self.move(image)

    def inverse(self, image: Tensor) -> Tensor:
        return self.move(image)

    @property
    def inverse_view(self) -> View:
        return self


@dataclass(frozen=True)
class Flip(Involution):
    """The vertical mirror: upside down, as the course's anagrams."""

    def move(self, image: Tensor) -> Tensor:
        return image.flip(-2)


@dataclass(frozen=True)
class Mirror(Involution):
    """The horizontal mirror: left for right."""

    def move(self, image: Tensor) -> Tensor:
        return image.flip(-1)


@dataclass(frozen=True)
class Rotate180(Involution):
    """Half a turn."""

    degrees: ClassVar[float] = 180.0

    def move(self, image: Tensor) -> Tensor:
        return image.flip((-2, -1))


@dataclass(frozen=True)
class RotateCW(Permutation):
    """A quarter turn clockwise, by moving pixels and never by interpolation."""

    degrees: ClassVar[float] = 90.0

    def move(self, image: Tensor) -> Tensor:
        return image.rot90(-1, (-2, -1))

    @property
    def inverse_view(self) -> View:
        return RotateCCW()


@dataclass(frozen=True)
class RotateCCW(Permutation):
    """A quarter turn counterclockwise."""

    degrees: ClassVar[float] = -90.0

    def move(self, image: Tensor) -> Tensor:
        return image.rot90(1, (-2, -1))

    @property
    def inverse_view(self) -> View:
        return RotateCW()


@dataclass(frozen=True)
class Skew(Permutation):
    """Column i is rolled downwards by trunc(slope · (i − centre)) pixels."""

    slope: float = 1.5

    def move(self, image: Tensor) -> Tensor:
        side = image.shape[-1]
        columns = [image[..., i].roll(math.trunc(self.slope * (i - side // 2)), -1) for i in range(side)]
        return torch.stack(columns, -1)


@dataclass(frozen=True)
class Patches(Permutation):
    """The picture is cut into across × across patches, which are shuffled: the same shuffle at every resolution.

    With as many across as a picture of 64 pixels has, every pixel is shuffled, and at 256 pixels blocks of 4 × 4 are.
    """

    across: int = 4
    seed: int = 0

    def move(self, image: Tensor) -> Tensor:
        cut = _cut(image, self.across)
        order = torch.randperm(self.across**2, generator=torch.Generator().manual_seed(self.seed))
        return _joined(cut.flatten(-4, -3)[..., order, :, :].view(cut.shape))


@dataclass(frozen=True)
class SquareHinge(Permutation):
    """Squares hinged at their corners: opened and closed again, each has made a quarter turn, and its neighbours the other way.

    The square at the top left turns clockwise. Visual anagrams (Geng, Park and Owens 2024) have 3 across: at 64 pixels squares of 21, at
    256 of 85, and the last row and column, which are left over, stay. Other sides are divided as evenly as whole pixels allow, a single
    line left over stays, and of a part that is not square the largest square turns: at 32 pixels the parts are 10, 11 and 11 wide.
    """

    across: int = 4

    def move(self, image: Tensor) -> Tensor:
        side, seen = image.shape[-1], image.clone()
        if not 1 <= self.across <= side:
            raise ValueError(
                f"a picture of {side} pixels has no {self.across} squares across: give 1 to {side}"
            )
        divided = side - (side % self.across == 1)
        parts = list(pairwise(k * divided // self.across for k in range(self.across + 1)))
        for i, (top, bottom) in enumerate(parts):
            for j, (left, right) in enumerate(parts):
                width = min(bottom - top, right - left)
                square = image[..., top : top + width, left : left + width]
                seen[..., top : top + width, left : left + width] = square.rot90(
                    1 if (i + j) % 2 else -1, (-2, -1)
                )
        return seen


def _cut(image: Tensor, n: int) -> Tensor:
    """(…, H, H) as n × n pieces, (…, n, n, H/n, H/n)."""
    side = image.shape[-1]
    if side % n:
        raise ValueError(
            f"a picture of {side} pixels cannot be cut into {n} × {n} pieces: give a divisor of {side}"
        )
    return image.reshape(*image.shape[:-2], n, side // n, n, side // n).transpose(-3, -2)


def _joined(pieces: Tensor) -> Tensor:
    side = pieces.shape[-4] * pieces.shape[-1]
    return pieces.transpose(-3, -2).reshape(*pieces.shape[:-4], side, side)


@dataclass(frozen=True)
class Jigsaw(Permutation):
    """A puzzle of 4 × 4 pieces with knobs, put together in another way: corners change places, borders do, and inner pieces.

    The cut is the same after a quarter turn of the whole, so a piece fits wherever a turn takes it, and every pixel finds a place.
    Drawn in quarters of the side, not in pixels: the same cut at every resolution. Each of the four corners comes from another one, and
    so do the left borders, the right borders and the inner pieces.
    """

    seed: int = 0
    out: ClassVar[float] = 0.12  # a knob is a disc whose centre stands out this far from the edge, in pieces
    radius: ClassVar[float] = 0.21

    def move(self, image: Tensor) -> Tensor:
        turns = self.turns().flatten()[self.owners(image.shape[-1])]
        turned = torch.stack([image.rot90(k, (-2, -1)) for k in range(4)], -1)
        return turned.gather(-1, turns.expand(image.shape)[..., None])[..., 0]

    def turns(self) -> Tensor:
        """(4, 4): how many quarter turns have brought the piece that is in each place.

        Of four places that are quarter turns of each other, number j has the piece from p(j), and no piece stays: p(j) ≠ j.
        """
        drawn = Random(self.seed)
        orders = [p for p in permutations(range(4)) if all(p[j] != j for j in range(4))]
        brought = torch.tensor([[(j - p[j]) % 4 for j in range(4)] for p in drawn.choices(orders, k=4)]).view(
            2, 2, 4
        )
        grid = torch.zeros(4, 4, dtype=torch.long)
        for j in range(4):
            grid[:2, :2] = brought[..., j]
            grid = grid.rot90(-1)
        return grid

    def owners(self, side: int) -> Tensor:
        """(H, H): the piece, 0 … 15, that each pixel belongs to. A quarter of the knobs is painted, four times over."""
        places = (torch.arange(side) + 0.5) * 4 / side
        y, x = torch.meshgrid(places, places, indexing="ij")
        pieces = torch.arange(16).view(4, 4)
        owner = pieces[y.long(), x.long()]
        for _ in range(4):
            for row, edge, way in self.knobs():
                disc = (x - edge - way * self.out) ** 2 + (y - row - 0.5) ** 2 < self.radius**2
                owner = torch.where(disc, pieces[row, edge - (way > 0)], owner)
            owner, pieces = owner.rot90(), pieces.rot90()
        return owner

    def knobs(self) -> Iterator[tuple[int, int, int]]:
        """The knobs on the upright edges of the upper half: (row, edge, 1 where it stands out to the right, else −1)."""
        drawn = Random(f"knobs {self.seed}")
        return ((row, edge, drawn.choice((-1, 1))) for row in (0, 1) for edge in (1, 2, 3))


def mersenne_twister(seed: int) -> Random:
    """MT19937 (Matsumoto & Nishimura 1998), seeded as numpy.random.RandomState(seed): getrandbits(32) gives the same words."""
    state = [seed]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ state[-1] >> 30) + i) % 2**32)
    random = Random()
    random.setstate((3, (*state, 624), None))
    return random


def permutation(n: int, random: Random) -> list[int]:
    """RandomState.permutation(n): Fisher and Yates, from the end; places are drawn by masking and drawing again."""
    order = list(range(n))
    for i in reversed(range(1, n)):
        mask = (1 << i.bit_length()) - 1
        while (j := random.getrandbits(32) & mask) > i:
            pass
        order[i], order[j] = order[j], order[i]
    return order


@dataclass(frozen=True)
class VisualAnagramsJigsaw(Permutation):
    """The jigsaw puzzle of visual anagrams (Geng, Park and Owens 2024): 4 × 4 pieces, put together in another way.

        c0 e0 f0 c1
        f3 i0 i1 e1        c corner, i inner, e and f border; k in c_k, i_k, e_k, f_k is the number of quarter turns clockwise
        e3 i3 i2 f1        that bring piece 0 of its kind to the place of piece k
        c3 f2 e2 c2

    The pieces of a kind are quarter turns of each other, and e and f have one shape. So corners take each other's places, inner pieces
    do, and border pieces do; a border piece may also change places with its neighbour on the same border. At 64 pixels a corner has 256
    pixels, a border piece 272, an inner piece 224.

    seed: of numpy's RandomState, which draws an order of the four corners, one of the inner pieces, one of e and one of f, then for each
    border whether e and f change places on it; the paper's pictures have 11. Equal seeds move the same pieces as in the authors' code.
    The cut differs: theirs is drawn by hand and ships as pictures; here every tab is a disc on a neck, as large as theirs (16 pixels at
    64), and on the upper border tabs point to the right. It is the same cut at every side that is a multiple of 4.
    """

    seed: int = 11
    out: ClassVar[float] = 0.17  # how far the centre of a tab's disc stands out from the edge, in pieces
    radius: ClassVar[float] = 0.135
    neck: ClassVar[float] = 0.06  # half its width
    layout: ClassVar[tuple[str, ...]] = ("c0 e0 f0 c1", "f3 i0 i1 e1", "e3 i3 i2 f1", "c3 f2 e2 c2")
    kinds: ClassVar[str] = "cief"  # piece k of kind number n is piece 4 n + k

    def move(self, image: Tensor) -> Tensor:
        owners, seen = self.owners(image.shape[-1]), image
        for place, piece in enumerate(self.pieces()):
            seen = torch.where(owners == place, self._put_back(self._taken_out(image, piece), place), seen)
        return seen

    def pieces(self) -> list[int]:
        """Which piece each of the 16 places shows."""
        random = mersenne_twister(self.seed)
        turns = [permutation(4, random) for _ in self.kinds]
        swapped = [random.getrandbits(32) & 1 for _ in range(4)]
        shown = []
        for kind, orders in enumerate(turns):
            other = {2: 3, 3: 2}.get(kind, kind)
            shown += [4 * (other if swapped[turn] else kind) + turn for turn in orders]
        return shown

    def owners(self, side: int) -> Tensor:
        """(H, H): the piece, 0 … 15, that each pixel belongs to. A quarter of the tabs is painted, four times over."""
        if side % 4:
            raise ValueError(
                f"a picture of {side} pixels cannot be cut into 4 × 4 pieces of one size: this puzzle needs a multiple of 4"
            )
        width = side // 4
        pieces = torch.tensor(
            [[4 * self.kinds.index(name[0]) + int(name[1]) for name in row.split()] for row in self.layout]
        )
        right = self._tab(width)
        down = right.rot90(-1)
        owners = pieces.repeat_interleave(width, 0).repeat_interleave(width, 1)
        for _ in range(4):
            for row, column, tab in (
                (0, 0, right),
                (0, 1, right),
                (0, 2, right),
                (1, 1, right),
                (0, 1, down),
                (0, 2, down),
            ):
                y, x = (row, column + 1) if tab is right else (row + 1, column)
                neighbour = owners[y * width : (y + 1) * width, x * width : (x + 1) * width]
                neighbour[tab] = pieces[row, column]
            owners, pieces = owners.rot90(), pieces.rot90()
        return owners

    def _tab(self, width: int) -> Tensor:
        """(width, width): which pixels of a piece the tab takes that comes from its left neighbour."""
        out = (torch.arange(width, dtype=torch.float64) + 0.5) / width
        off = (out[:, None] - 0.5).abs()
        return ((out - self.out) ** 2 + off**2 < self.radius**2) | ((out < self.out) & (off < self.neck))

    @staticmethod
    def _taken_out(image: Tensor, piece: int) -> Tensor:
        """The picture so turned and moved that a piece lies where piece 0 of its kind does, f where e does."""
        upright = image.rot90(piece % 4, (-2, -1))
        return upright.roll(-(image.shape[-1] // 4), -1) if piece // 4 == 3 else upright

    @staticmethod
    def _put_back(image: Tensor, piece: int) -> Tensor:
        """The inverse of _taken_out."""
        placed = image.roll(image.shape[-1] // 4, -1) if piece // 4 == 3 else image
        return placed.rot90(-(piece % 4), (-2, -1))


@dataclass(frozen=True)
class InnerCircle(Involution):
    """Half a turn of what lies inside a circle of radius 3/8 of the side."""

    radius: float = 0.375

    def move(self, image: Tensor) -> Tensor:
        side = image.shape[-1]
        y, x = torch.meshgrid(*[torch.arange(side, device=image.device) + 0.5 - side / 2] * 2, indexing="ij")
        return torch.where(x**2 + y**2 < (self.radius * side) ** 2, image.flip((-2, -1)), image)


@dataclass(frozen=True)
class Composition(View):
    """Views one after another, the first one first."""

    items: tuple[View, ...]

    @property
    def parts(self) -> tuple[View, ...]:
        return self.items

    def __call__(self, image: Tensor) -> Tensor:
        return reduce(lambda seen, view: view(seen), self.items, image)

    def inverse(self, image: Tensor) -> Tensor:
        return reduce(lambda seen, view: view.inverse(seen), self.items[::-1], image)

    def unpermute(self, image: Tensor) -> Tensor:
        return reduce(lambda seen, view: view.unpermute(seen), self.items[::-1], image)

    @property
    def inverse_view(self) -> View:
        return Composition(tuple(v.inverse_view for v in self.items[::-1]))


def compose(*views: View) -> View:
    """The views one after another, written as shortly as it can be: identities go, a view and its opposite cancel."""
    parts: list[View] = []
    for part in (p for view in views for p in view.parts):
        if parts and parts[-1] == part.inverse_view:
            parts.pop()
        else:
            parts.append(part)
    return parts[0] if len(parts) == 1 else Composition(tuple(parts)) if parts else Identity()


@dataclass(frozen=True)
class Blur(View):
    """The mean over width × width pixels, edges reflected; its own way back."""

    width: int = 3
    not_orthogonal_because: ClassVar[str] = (
        "a blur takes the fine half of the noise away, and nothing brings it back"
    )

    def __call__(self, image: Tensor) -> Tensor:
        flat = F.pad(image.reshape(1, -1, *image.shape[-2:]), [self.width // 2] * 4, mode="reflect")
        return F.avg_pool2d(flat, self.width, stride=1).view(image.shape)

    inverse = __call__


@dataclass(frozen=True)
class WhiteBalance(View):
    """The first channel brighter by `warmth`, the last one darker; the inverse divides again."""

    warmth: float = 0.3
    not_orthogonal_because: ClassVar[str] = (
        "a white balance makes the noise of one channel stronger than the network expects, and of another weaker"
    )

    def gains(self, image: Tensor) -> Tensor:
        """What each channel is multiplied by, (C, 1, 1)."""
        return torch.linspace(1 + self.warmth, 1 - self.warmth, image.shape[-3]).to(image)[:, None, None]

    def __call__(self, image: Tensor) -> Tensor:
        return image * self.gains(image)

    def inverse(self, image: Tensor) -> Tensor:
        return image / self.gains(image)


@dataclass(frozen=True)
class RotateInterpolated(View):
    """A turn by any angle, each pixel a mixture of the four that it falls between; the inverse turns back."""

    degrees: float = 45.0
    not_orthogonal_because: ClassVar[str] = (
        "interpolation averages neighbouring pixels, so that their noise is weaker and no longer independent"
    )

    def __call__(self, image: Tensor) -> Tensor:
        return _turned(image, self.degrees)

    def inverse(self, image: Tensor) -> Tensor:
        return _turned(image, -self.degrees)


def _turned(image: Tensor, degrees: float) -> Tensor:
    """Turned clockwise about the centre, bilinear, corners reflected."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    flat = image.reshape(1, -1, *image.shape[-2:])
    grid = F.affine_grid(
        torch.tensor([[[c, s, 0.0], [-s, c, 0.0]]]).to(image), list(flat.shape), align_corners=False
    )
    return F.grid_sample(flat, grid, padding_mode="reflection", align_corners=False).view(image.shape)
