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

from expkit.core.estimate import guided
from expkit.core.rng import Draws
from expkit.core.sampler import Seed, sample
from expkit.core.solvers import DDPM
from expkit.core.timesteps import strided
from expkit.data.captioned_scenes import AugmentStrength, Scenes
from expkit.data.labelled_pictures import Pictures
from expkit.errors import UserError
from expkit.images.sheets import picture_sheet
from expkit.models.pretrained import pictogram_unet
from expkit.models.pretrained.base import machine
from expkit.storage import weights_io
from expkit.text.caption_grammar import OFTEN, usual_phrase
from expkit.text.embedding_store import PackedEmbeddings, Store
from expkit.text.sentence_prompts import ConceptPrompts, MiniLM, known_things
from expkit.training.objectives import Diffusion, count_parameters


@dataclass(frozen=True, eq=False)
class Told:
    """What a training is told of its pictures: how they are shown, the embeddings of what is said of them; and what ships."""

    scenes: Scenes
    bank: PackedEmbeddings
    known: PackedEmbeddings
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
    vary: AugmentStrength = AugmentStrength()  # noqa: RUF009  frozen
    of: Told | None = None

    file: ClassVar[str] = "model"

    def told(self, images: Pictures) -> TextDiffusion:
        if (self.low, self.high, self.only) != (-1.0, 1.0, None):
            raise UserError(
                "trainer=text_conditional trains all levels on pictures in [-1, 1]: leave low, high and only of the objective."
            )
        pictogram_unet.check_kept(self.schedule, self.kind)  # before captions are encoded
        scenes = Scenes.of(images, self.captions, self.vary)
        said, names = (
            scenes.captions.texts,
            [name for concept in images.concepts for name in (concept.name, *concept.others)],
        )
        known = cached_embeddings(
            ["known", *OFTEN, *images.names, *names],
            self.encoder,
            lambda: known_things(names, self.encoder, images.names),
        )
        return replace(
            self,
            of=Told(scenes, cached_embeddings(said, self.encoder, lambda: self.encoder.packed(said)), known),
        )

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """images (N, 4, 2S, 2S): the glyphs of the labels, each shown as one of its captions says."""
        pictures, said = self.of.on(images.device).scenes.shown(images, labels, draws)
        return super().__call__(self.beside(network, pictures, draws), pictures, said, draws)

    def beside(self, network: nn.Module, pictures: Tensor, draws: Draws) -> Callable[..., tuple[Tensor]]:
        """The network, told what it is to know of these pictures (N, 3, S, S) in [0, 1] beside their captions."""
        return network

    def answer(
        self, network: Callable[..., tuple[Tensor]], x: Tensor, t: Tensor, labels: Tensor, kept: Tensor
    ) -> Tensor:
        """labels: places of captions, of which the first says nothing."""
        rows = self.of.on(x.device).bank.rows(labels * kept[:, 0])
        mask = (rows != 0).any(-1)
        return network(
            x, t, encoder_hidden_states=rows.to(x.dtype), encoder_attention_mask=mask, return_dict=False
        )[0]

    def save(self, network: nn.Module, path: Path, names: Sequence[str]) -> None:
        pictogram_unet.save_pipeline(path, network, self.schedule, self.kind)
        self.of.known.write(path / pictogram_unet.KNOWN)

    def shown(self, network: nn.Module, held_out: Pictures, seed: int) -> dict[str, Image.Image]:
        """Asked through the folder that is kept, as anybody would ask."""
        with TemporaryDirectory() as folder:
            path, place = Path(folder) / "model", str(next(network.parameters()).device)
            self.save(network, path, held_out.names)
            words = ConceptPrompts(Store(), self.encoder, path / pictogram_unet.KNOWN)
            return {
                "samples": sample_sheet(
                    pictogram_unet.worded(words, machine(place, "float32"), str(path), 32),
                    held_out.names,
                    seed,
                )
            }

    def facts(self, network: nn.Module) -> dict:
        told = {
            "captions": len(self.of.scenes.captions.texts),
            "encoder": asdict(self.of.bank.provenance),
            "vary": asdict(self.vary),
        }
        return {"leak": self.schedule.terminal_alpha, "parameters": count_parameters(network), **told}


def sample_sheet(model, names: Sequence[str], seed: int, gamma: float = 4.0) -> Image.Image:
    """Four samples of each of a few things, the last of them also in other manners."""
    things = [usual_phrase(name) for name in names[:6]]
    last = things[-1]
    asked = [
        *things,
        f"{last} in grey",
        f"a line drawing of {last}",
        f"a soft picture of {last}",
        f"{last} on a blue background",
    ]
    model.prepare(["", *asked])
    seeds = [Seed(seed, 4 * row + k) for row in range(len(asked)) for k in range(4)]
    grid = strided(len(model.schedule))
    *_, end = sample(model, guided([text for text in asked for _ in range(4)], gamma), grid, seeds, DDPM())
    rows = [[*four] for four in zip(*model.decode(end.x).cpu().split(4), strict=True)]
    return picture_sheet(rows, across=asked, title=f"samples, {len(grid) - 1} updates, gamma {gamma:g}")


def cached_embeddings(texts: Sequence[str], encoder: MiniLM, make) -> PackedEmbeddings:
    """The embeddings of these texts, made once and kept in the user's cache."""
    told = json.dumps([*texts, asdict(encoder.provenance)])
    path = (
        weights_io.cache_folder()
        / "captions"
        / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.safetensors"
    )
    try:
        return PackedEmbeddings.read(path)
    except UserError:  # it is not there, or damaged
        bank = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        bank.write(path)
        return bank
