"""Orthogonal views of an image: transformations that keep white noise white.

    view.inverse(view(image)) = image

Most views are permutations of pixels, which are orthogonal by construction. A permutation defines
how pixels move; its inverse is computed from that. The last views of this module (`Blur`,
`WhiteBalance`, `RotateInterpolated`) are not orthogonal: they are counterexamples that show what
then happens.
"""

# A field may stand for what a base class has as a class variable.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, permutations
from random import Random
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


class View(ABC):
    """A transformation of square images (…, H, H) to images of the same shape.

    Subclasses are frozen dataclasses and compare by value.

    Attributes:
        degrees: Angle by which a person has to turn the image clockwise to see this view; 0 if no
            turn shows it.
        symmetric_range: Whether image values must lie symmetrically about zero.
        not_orthogonal_because: Why the view is not orthogonal, for views that demonstrate this;
            else "".
    """

    degrees: ClassVar[float] = 0.0
    symmetric_range: ClassVar[bool] = False
    not_orthogonal_because: ClassVar[str] = ""

    @abstractmethod
    def __call__(self, image: Tensor) -> Tensor:
        """The image (…, H, H) as seen through the view."""

    @abstractmethod
    def inverse(self, image: Tensor) -> Tensor:
        """The image (…, H, H) whose view is `image`."""

    @property
    def inverse_view(self) -> View:
        """The inverse as a view."""
        return Inverse(self)

    @property
    def parts(self) -> tuple[View, ...]:
        """The views that it is composed of, in the order of application."""
        return (self,)

    def unpermute(self, image: Tensor) -> Tensor:
        """Move pixels back and leave signs: for what is not a signal, such as a variance."""
        return self.inverse(image)

    def for_resolution(self, times: float) -> View:
        """The same view for images with sides `times` as long."""
        return self


@dataclass(frozen=True)
class Identity(View):
    """The identity."""

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
    """The negative of an image, x → −x.

    It changes the sign of a signal, but not of a variance, and needs a range symmetric about zero.
    """

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
    """A view that only moves pixels; a subclass defines `move`."""

    @abstractmethod
    def move(self, image: Tensor) -> Tensor:
        """The image, or grid of pixel indices, (…, H, H) with its pixels moved."""

    def __call__(self, image: Tensor) -> Tensor:
        sources = _source_pixels(self, image.shape[-1], image.device)
        return image.flatten(-2)[..., sources].view(image.shape)

    def inverse(self, image: Tensor) -> Tensor:
        sources = _inverse_source_pixels(self, image.shape[-1], image.device)
        return image.flatten(-2)[..., sources].view(image.shape)


@lru_cache(maxsize=64)
def _source_pixels(view: Permutation, side: int, device: torch.device) -> Tensor:
    """(H·H,): the index of the image's pixel that each pixel of the view shows."""
    return view.move(torch.arange(side * side).view(side, side)).flatten().to(device)


@lru_cache(maxsize=64)
def _inverse_source_pixels(view: Permutation, side: int, device: torch.device) -> Tensor:
    return _source_pixels(view, side, device).argsort()


@dataclass(frozen=True)
class Inverse(View):
    """The inverse of another view, as a view."""

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
    """Vertical flip: upside down, as in the anagrams of CS180 project 5 (UC Berkeley)."""

    def move(self, image: Tensor) -> Tensor:
        return image.flip(-2)


@dataclass(frozen=True)
class Mirror(Involution):
    """Horizontal flip: left and right are exchanged."""

    def move(self, image: Tensor) -> Tensor:
        return image.flip(-1)


@dataclass(frozen=True)
class Rotate180(Involution):
    """Rotation by 180°."""

    degrees: ClassVar[float] = 180.0

    def move(self, image: Tensor) -> Tensor:
        return image.flip((-2, -1))


@dataclass(frozen=True)
class RotateCW(Permutation):
    """Rotation by 90° clockwise, by moving pixels without interpolation."""

    degrees: ClassVar[float] = 90.0

    def move(self, image: Tensor) -> Tensor:
        return image.rot90(-1, (-2, -1))

    @property
    def inverse_view(self) -> View:
        return RotateCCW()


@dataclass(frozen=True)
class RotateCCW(Permutation):
    """Rotation by 90° counterclockwise, by moving pixels without interpolation."""

    degrees: ClassVar[float] = -90.0

    def move(self, image: Tensor) -> Tensor:
        return image.rot90(1, (-2, -1))

    @property
    def inverse_view(self) -> View:
        return RotateCW()


@dataclass(frozen=True)
class Skew(Permutation):
    """Skew: column i is rolled downwards by trunc(slope · (i − H // 2)) pixels.

    Attributes:
        slope: Pixels per column.
    """

    slope: float = 1.5

    def move(self, image: Tensor) -> Tensor:
        side = image.shape[-1]
        shifts = [math.trunc(self.slope * (i - side // 2)) for i in range(side)]
        return torch.stack([image[..., i].roll(shift, -1) for i, shift in enumerate(shifts)], -1)


@dataclass(frozen=True)
class Patches(Permutation):
    """A random permutation of across × across patches, the same one at every resolution.

    With across = 64, every pixel of an image of 64 pixels is shuffled, and blocks of 4 × 4 pixels
    at 256 pixels.

    Attributes:
        across: Patches per side; it must divide the side of the image.
        seed: Seed of the permutation.

    Raises:
        ValueError: across does not divide the side.
    """

    across: int = 4
    seed: int = 0

    def move(self, image: Tensor) -> Tensor:
        patches = _split_patches(image, self.across)
        order = torch.randperm(self.across**2, generator=torch.Generator().manual_seed(self.seed))
        return _join_patches(patches.flatten(-4, -3)[..., order, :, :].view(patches.shape))


@dataclass(frozen=True)
class SquareHinge(Permutation):
    """Hinged squares: each square of a grid is rotated by 90°, and its neighbours the other way.

    The square at the top left is rotated clockwise. Visual anagrams (Geng, Park and Owens 2024)
    have 3 squares per side: of 21 pixels at 64 and of 85 at 256, where the last row and column are
    left over and stay as they are. Other sides are divided as evenly as whole pixels allow. A
    single line that is left over stays. Of a cell that is not square, the largest square is
    rotated: at 32 pixels the cells are 10, 11 and 11 wide.

    Attributes:
        across: Squares per side.

    Raises:
        ValueError: across is not in 1 … H.
    """

    across: int = 4

    def move(self, image: Tensor) -> Tensor:
        side = image.shape[-1]
        if not 1 <= self.across <= side:
            raise ValueError(
                f"a picture of {side} pixels has no {self.across} squares across: give 1 to {side}"
            )
        divided = side - 1 if side % self.across == 1 else side
        edges = [k * divided // self.across for k in range(self.across + 1)]
        result = image.clone()
        for row, (top, bottom) in enumerate(pairwise(edges)):
            for column, (left, right) in enumerate(pairwise(edges)):
                width = min(bottom - top, right - left)
                square = (..., slice(top, top + width), slice(left, left + width))
                quarter_turns = 1 if (row + column) % 2 else -1
                result[square] = image[square].rot90(quarter_turns, (-2, -1))
        return result


def _split_patches(image: Tensor, n: int) -> Tensor:
    """(…, H, H) as n × n patches, (…, n, n, H/n, H/n)."""
    h = image.shape[-1]
    if h % n:
        raise ValueError(
            f"a picture of {h} pixels cannot be cut into {n} × {n} pieces: give a divisor of {h}"
        )
    return image.reshape(*image.shape[:-2], n, h // n, n, h // n).transpose(-3, -2)


def _join_patches(patches: Tensor) -> Tensor:
    """The inverse of `_split_patches`."""
    side = patches.shape[-4] * patches.shape[-1]
    return patches.transpose(-3, -2).reshape(*patches.shape[:-4], side, side)


@dataclass(frozen=True)
class Jigsaw(Permutation):
    """A jigsaw puzzle of 4 × 4 pieces with knobs, reassembled in another order.

    The cut does not change when the whole puzzle is rotated by 90°, so a piece fits wherever a
    rotation takes it, and the view is a permutation of pixels. The cut is defined in quarters of
    the side, not in pixels, so it is the same at every resolution. Each of the four corners comes
    from another corner; the same holds for the left borders, the right borders and the inner
    pieces.

    Attributes:
        seed: Seed of the order and of the directions of the knobs.
        out: Distance of a knob's centre from the edge, as a fraction of a piece. A knob is a disc.
        radius: Radius of a knob, as a fraction of a piece.
    """

    seed: int = 0
    out: ClassVar[float] = 0.12
    radius: ClassVar[float] = 0.21

    def move(self, image: Tensor) -> Tensor:
        turns = self.turns().flatten()[self.owners(image.shape[-1])]
        turned = torch.stack([image.rot90(k, (-2, -1)) for k in range(4)], -1)
        return turned.gather(-1, turns.expand(image.shape)[..., None])[..., 0]

    def turns(self) -> Tensor:
        """(4, 4): the number of quarter turns that bring a piece to each place.

        Four places that are quarter turns of each other form an orbit. Place k of an orbit receives
        the piece from place p(k), with p(k) ≠ k, so no piece stays.
        """
        derangements = [p for p in permutations(range(4)) if all(p[k] != k for k in range(4))]
        orders = Random(self.seed).choices(derangements, k=4)  # one per orbit
        turns = torch.tensor([[(k - p[k]) % 4 for k in range(4)] for p in orders]).view(2, 2, 4)
        grid = torch.zeros(4, 4, dtype=torch.long)
        for k in range(4):
            grid[:2, :2] = turns[..., k]
            grid = grid.rot90(-1)
        return grid

    def owners(self, side: int) -> Tensor:
        """(H, H): the piece, 0 … 15, to which each pixel belongs.

        The knobs of one quarter of the edges are painted, and the grid is rotated, four times.
        """
        coordinates = (torch.arange(side) + 0.5) * 4 / side
        y, x = torch.meshgrid(coordinates, coordinates, indexing="ij")
        pieces = torch.arange(16).view(4, 4)
        owner = pieces[y.long(), x.long()]
        for _ in range(4):
            for row, edge, direction in self.knobs():
                dx = x - edge - direction * self.out
                dy = y - row - 0.5
                disc = dx**2 + dy**2 < self.radius**2
                owner = torch.where(disc, pieces[row, edge - (direction > 0)], owner)
            owner, pieces = owner.rot90(), pieces.rot90()
        return owner

    def knobs(self) -> Iterator[tuple[int, int, int]]:
        """The knobs on the vertical edges of the upper half, as (row, edge, direction).

        direction is 1 for a knob that points to the right, else −1.
        """
        random = Random(f"knobs {self.seed}")
        return ((row, edge, random.choice((-1, 1))) for row in (0, 1) for edge in (1, 2, 3))


def mersenne_twister(seed: int) -> Random:
    """MT19937 (Matsumoto & Nishimura 1998), seeded as numpy.random.RandomState(seed).

    getrandbits(32) gives the same 32-bit words as numpy's generator.
    """
    state = [seed]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ state[-1] >> 30) + i) % 2**32)
    random = Random()
    random.setstate((3, (*state, 624), None))
    return random


def permutation(n: int, random: Random) -> list[int]:
    """A random permutation of 0 … n − 1, the same as RandomState.permutation(n) of numpy.

    It is a Fisher-Yates shuffle from the end. Indices are drawn by masked rejection sampling.
    """
    order = list(range(n))
    for i in reversed(range(1, n)):
        mask = (1 << i.bit_length()) - 1
        while (k := random.getrandbits(32) & mask) > i:
            pass
        order[i], order[k] = order[k], order[i]
    return order


@dataclass(frozen=True)
class VisualAnagramsJigsaw(Permutation):
    """The jigsaw puzzle of visual anagrams (Geng, Park and Owens 2024), 4 × 4 pieces reassembled.

        c0 e0 f0 c1
        f3 i0 i1 e1        c corner, i inner, e and f border
        e3 i3 i2 f1        k in c_k, i_k, e_k, f_k: number of clockwise quarter turns
        c3 f2 e2 c2        that bring piece 0 of its kind to the place of piece k

    The pieces of a kind are quarter turns of each other, and e and f have the same shape. So
    corners are permuted among themselves, as are inner pieces and border pieces; a border piece may
    also be exchanged with its neighbour on the same border. At 64 pixels a corner has 256 pixels, a
    border piece 272 and an inner piece 224.

    Equal seeds move the same pieces as in the authors' code. The cut differs: theirs is drawn by
    hand and comes as image files. Here every tab is a disc on a neck, as large as theirs (16 pixels
    at 64), and the tabs on the upper border point to the right. The cut is the same at every side
    that is a multiple of 4.

    Attributes:
        seed: Seed of numpy's RandomState. It draws an order of the four corners, one of the inner
            pieces, one of e and one of f, then for each border whether e and f are exchanged on it.
            The images of the paper have 11.
        out: Distance of the centre of a tab's disc from the edge, as a fraction of a piece.
        radius: Radius of the disc, as a fraction of a piece.
        neck: Half the width of the neck, as a fraction of a piece.
        layout: The pieces of each row.
        kinds: Kinds of pieces in order: piece k of kind number n is piece 4 n + k.

    Raises:
        ValueError: The side of the image is not a multiple of 4.
    """

    seed: int = 11
    out: ClassVar[float] = 0.17
    radius: ClassVar[float] = 0.135
    neck: ClassVar[float] = 0.06
    layout: ClassVar[tuple[str, ...]] = ("c0 e0 f0 c1", "f3 i0 i1 e1", "e3 i3 i2 f1", "c3 f2 e2 c2")
    kinds: ClassVar[str] = "cief"

    def move(self, image: Tensor) -> Tensor:
        owners = self.owners(image.shape[-1])
        result = image
        for place, piece in enumerate(self.pieces()):
            moved = self._place_piece(self._align_piece(image, piece), place)
            result = torch.where(owners == place, moved, result)
        return result

    def pieces(self) -> list[int]:
        """The piece that each of the 16 places shows."""
        random = mersenne_twister(self.seed)
        orders = [permutation(4, random) for _ in self.kinds]
        is_swapped = [random.getrandbits(32) & 1 for _ in range(4)]
        pieces: list[int] = []
        for kind, order in enumerate(orders):
            partner = {2: 3, 3: 2}.get(kind, kind)
            pieces += [4 * (partner if is_swapped[turn] else kind) + turn for turn in order]
        return pieces

    def owners(self, side: int) -> Tensor:
        """(H, H): the piece, 0 … 15, to which each pixel belongs.

        The tabs of one quarter of the edges are painted, and the grid is rotated, four times.
        """
        if side % 4:
            raise ValueError(
                f"a picture of {side} pixels cannot be cut into 4 × 4 pieces of one size: "
                "this puzzle needs a multiple of 4"
            )
        width = side // 4
        names = [row.split() for row in self.layout]
        pieces = torch.tensor(
            [[4 * self.kinds.index(name[0]) + int(name[1]) for name in row] for row in names]
        )
        right = self._tab_pixels(width)
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

    def _tab_pixels(self, width: int) -> Tensor:
        """bool (width, width): the pixels of a piece that the tab of its left neighbour covers."""
        x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
        offset = (x[:, None] - 0.5).abs()
        disc = (x - self.out) ** 2 + offset**2 < self.radius**2
        neck = (x < self.out) & (offset < self.neck)
        return disc | neck

    @staticmethod
    def _align_piece(image: Tensor, piece: int) -> Tensor:
        """Rotate and shift the image so that a piece lies where piece 0 of its kind does.

        Pieces of kind f are brought to the place of e0.
        """
        rotated = image.rot90(piece % 4, (-2, -1))
        return rotated.roll(-(image.shape[-1] // 4), -1) if piece // 4 == 3 else rotated

    @staticmethod
    def _place_piece(image: Tensor, piece: int) -> Tensor:
        """The inverse of `_align_piece`."""
        shifted = image.roll(image.shape[-1] // 4, -1) if piece // 4 == 3 else image
        return shifted.rot90(-(piece % 4), (-2, -1))


@dataclass(frozen=True)
class InnerCircle(Involution):
    """Rotation by 180° of the pixels inside a central circle.

    Attributes:
        radius: Radius of the circle as a fraction of the side.
    """

    radius: float = 0.375

    def move(self, image: Tensor) -> Tensor:
        side = image.shape[-1]
        coordinates = torch.arange(side, device=image.device) + 0.5 - side / 2
        y, x = torch.meshgrid(coordinates, coordinates, indexing="ij")
        return torch.where(x**2 + y**2 < (self.radius * side) ** 2, image.flip((-2, -1)), image)


@dataclass(frozen=True)
class Composition(View):
    """A composition of views, in the order of application."""

    items: tuple[View, ...]

    @property
    def parts(self) -> tuple[View, ...]:
        return self.items

    def __call__(self, image: Tensor) -> Tensor:
        for view in self.items:
            image = view(image)
        return image

    def inverse(self, image: Tensor) -> Tensor:
        for view in self.items[::-1]:
            image = view.inverse(image)
        return image

    def unpermute(self, image: Tensor) -> Tensor:
        for view in self.items[::-1]:
            image = view.unpermute(image)
        return image

    @property
    def inverse_view(self) -> View:
        return Composition(tuple(view.inverse_view for view in self.items[::-1]))


def compose(*views: View) -> View:
    """The composition of the views, in the order of application and in its shortest form.

    Identities are removed, and a view next to its inverse cancels.
    """
    parts: list[View] = []
    for view in views:
        for part in view.parts:
            if parts and parts[-1] == part.inverse_view:
                parts.pop()
            else:
                parts.append(part)
    if not parts:
        return Identity()
    return parts[0] if len(parts) == 1 else Composition(tuple(parts))


@dataclass(frozen=True)
class Blur(View):
    """Mean over width × width pixels with reflected edges; `inverse` is the same blur.

    It is not orthogonal.

    Attributes:
        width: Odd number of pixels.
    """

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
    """Multiplies the first channel by 1 + warmth and the last by 1 − warmth, linear in between.

    The inverse divides. It is not orthogonal.

    Attributes:
        warmth: Change of gain of the first and the last channel.
    """

    warmth: float = 0.3
    not_orthogonal_because: ClassVar[str] = (
        "a white balance makes the noise of one channel stronger than the network expects, "
        "and of another weaker"
    )

    def gains(self, image: Tensor) -> Tensor:
        """The factor of each channel, (C, 1, 1), for an image (…, C, H, W)."""
        gains = torch.linspace(1 + self.warmth, 1 - self.warmth, image.shape[-3])
        return gains.to(image)[:, None, None]

    def __call__(self, image: Tensor) -> Tensor:
        return image * self.gains(image)

    def inverse(self, image: Tensor) -> Tensor:
        return image / self.gains(image)


@dataclass(frozen=True)
class RotateInterpolated(View):
    """Rotation by any angle with bilinear interpolation; `inverse` rotates back.

    It is not orthogonal.

    Attributes:
        degrees: Angle, clockwise.
    """

    degrees: float = 45.0
    not_orthogonal_because: ClassVar[str] = (
        "interpolation averages neighbouring pixels, so that their noise is weaker and no longer "
        "independent"
    )  # fmt: skip

    def __call__(self, image: Tensor) -> Tensor:
        return _rotate_bilinear(image, self.degrees)

    def inverse(self, image: Tensor) -> Tensor:
        return _rotate_bilinear(image, -self.degrees)


def _rotate_bilinear(image: Tensor, degrees: float) -> Tensor:
    """Rotate clockwise about the centre, bilinear, with reflection at the edges."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    flat = image.reshape(1, -1, *image.shape[-2:])
    matrix = torch.tensor([[[cos, sin, 0.0], [-sin, cos, 0.0]]]).to(image)
    grid = F.affine_grid(matrix, list(flat.shape), align_corners=False)
    rotated = F.grid_sample(flat, grid, padding_mode="reflection", align_corners=False)
    return rotated.view(image.shape)
