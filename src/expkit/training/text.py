"""Training on pictures and what is said of them: a diffusion model told captions, which are forgotten one time in ten.

    L = E w_t || F(x_t, t, E(caption)) − target(x0, eps) ||²
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from expkit import store
from expkit.denoisers.pretrained import worded
from expkit.denoisers.pretrained.network import machine
from expkit.embeddings import Bank, Store
from expkit.errors import Refusal
from expkit.estimate import guided
from expkit.grids import strided
from expkit.phrases import OFTEN, usual
from expkit.randomness import Draws
from expkit.rules import DDPM
from expkit.sample import Seed, sample
from expkit.sentences import Known, MiniLM, known_things
from expkit.sheets import sheet
from expkit.training.data import Pictures
from expkit.training.objectives import Diffusion, parameters
from expkit.training.scenes import Scenes, Variety


@dataclass(frozen=True, eq=False)
class Told:
    """What a training is told of its pictures: how they are shown, the embeddings of what is said of them; and what ships."""

    scenes: Scenes
    bank: Bank
    known: Bank
    moved: dict[torch.device, Told] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict) -> Told:
        return self  # it is large, and never changed

    def on(self, device: torch.device) -> Told:
        if device not in self.moved:
            self.moved[device] = Told(self.scenes.to(device), self.bank.to(device), self.known)
        return self.moved[device]


@dataclass(frozen=True, eq=False)
class TextDiffusion(Diffusion):
    """Diffusion told captions. captions: how many of each concept; vary: how much its pictures differ; encoder: of the captions."""

    low: float = -1.0
    encoder: MiniLM = MiniLM()  # noqa: RUF009  frozen
    captions: int = 48
    vary: Variety = Variety()  # noqa: RUF009  frozen
    of: Told | None = None

    file: ClassVar[str] = "model"

    def told(self, images: Pictures) -> TextDiffusion:
        if (self.low, self.high, self.only) != (-1.0, 1.0, None):
            raise Refusal("trainer=text_conditional trains all levels on pictures in [-1, 1]: leave low, high and only of the objective.")
        worded.check_kept(self.schedule, self.kind)  # before captions are encoded
        scenes = Scenes.of(images, self.captions, self.vary)
        said, names = scenes.captions.texts, [name for concept in images.concepts for name in (concept.name, *concept.others)]
        known = kept(["known", *OFTEN, *images.names, *names], self.encoder, lambda: known_things(names, self.encoder, images.names))
        return replace(self, of=Told(scenes, kept(said, self.encoder, lambda: self.encoder.packed(said)), known))

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """images (N, 4, 2S, 2S): the glyphs of the labels, each shown as one of its captions says."""
        pictures, said = self.of.on(images.device).scenes.shown(images, labels, draws)
        return super().__call__(self.beside(network, pictures, draws), pictures, said, draws)

    def beside(self, network: nn.Module, pictures: Tensor, draws: Draws) -> Callable[..., tuple[Tensor]]:
        """The network, told what it is to know of these pictures (N, 3, S, S) in [0, 1] beside their captions."""
        return network

    def answer(self, network: Callable[..., tuple[Tensor]], x: Tensor, t: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
        """labels: places of captions, of which the first says nothing."""
        rows = self.of.on(x.device).bank.rows(labels * kept[:, 0])
        mask = (rows != 0).any(-1)
        return network(x, t, encoder_hidden_states=rows.to(x.dtype), encoder_attention_mask=mask, return_dict=False)[0]

    def save(self, network: nn.Module, path: Path, names: Sequence[str]) -> None:
        worded.save(path, network, self.schedule, self.kind)
        self.of.known.write(path / worded.KNOWN)

    def shown(self, network: nn.Module, held_out: Pictures, seed: int) -> dict[str, Image.Image]:
        """Asked through the folder that is kept, as anybody would ask."""
        with TemporaryDirectory() as folder:
            path, place = Path(folder) / "model", str(next(network.parameters()).device)
            self.save(network, path, held_out.names)
            words = Known(Store(), self.encoder, path / worded.KNOWN)
            return {"samples": samples(worded.worded(words, machine(place, "float32"), str(path), 32), held_out.names, seed)}

    def facts(self, network: nn.Module) -> dict:
        told = {"captions": len(self.of.scenes.captions.texts), "encoder": asdict(self.of.bank.provenance), "vary": asdict(self.vary)}
        return {"leak": self.schedule.leak, "parameters": parameters(network), **told}


def samples(model, names: Sequence[str], seed: int, gamma: float = 4.0) -> Image.Image:
    """Four samples of each of a few things, the last of them also in other manners."""
    things = [usual(name) for name in names[:6]]
    last = things[-1]
    asked = [*things, f"{last} in grey", f"a line drawing of {last}", f"a soft picture of {last}", f"{last} on a blue background"]
    model.prepare(["", *asked])
    seeds = [Seed(seed, 4 * row + k) for row in range(len(asked)) for k in range(4)]
    grid = strided(len(model.schedule))
    *_, end = sample(model, guided([text for text in asked for _ in range(4)], gamma), grid, seeds, DDPM())
    rows = [[*four] for four in zip(*model.decode(end.x).cpu().split(4), strict=True)]
    return sheet(rows, across=asked, title=f"samples, {len(grid) - 1} updates, gamma {gamma:g}")


def kept(texts: Sequence[str], encoder: MiniLM, make) -> Bank:
    """The embeddings of these texts, made once and kept in the user's cache."""
    told = json.dumps([*texts, asdict(encoder.provenance)])
    path = store.cache() / "captions" / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.safetensors"
    try:
        return Bank.read(path)
    except Refusal:  # it is not there, or damaged
        bank = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        bank.write(path)
        return bank
