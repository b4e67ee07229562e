"""Training of a diffusion model on captioned images; a caption is dropped for one image in ten.

L = E w_t || F(x_t, t, E(caption)) − target(x0, eps) ||²
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Self

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
from expkit.models.pretrained.base import device_spec
from expkit.storage import weights_io
from expkit.text.caption_grammar import FREQUENT_TEMPLATES, usual_phrase
from expkit.text.embedding_store import PackedEmbeddings, Store
from expkit.text.sentence_prompts import ConceptPrompts, MiniLM, known_things
from expkit.training.objectives import Diffusion, count_parameters, require_type


@dataclass(frozen=True, eq=False)
class TextData:
    """The scenes and text embeddings of a training.

    scenes: how images are rendered, and their captions. bank: the embeddings of all captions.
    known: the embeddings that ship with the model. moved: copies of this object on other devices.
    """

    scenes: Scenes
    bank: PackedEmbeddings
    known: PackedEmbeddings
    moved: dict[torch.device, TextData] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict) -> TextData:
        return self  # it is large and immutable

    def on(self, device: torch.device) -> TextData:
        """The scenes and the embeddings of captions on this device; `known` stays where it is."""
        if device not in self.moved:
            self.moved[device] = TextData(self.scenes.to(device), self.bank.to(device), self.known)
        return self.moved[device]


@dataclass(frozen=True, eq=False)
class TextDiffusion(Diffusion):
    """`Diffusion` conditioned on captions, on images in [-1, 1].

    `drop` is the probability that the caption of an image is dropped.

    Args:
        encoder: the text encoder of the captions.
        captions: number of captions of each concept.
        vary: how much the images of a concept differ.
        of: set by `adapt_to`.
    """

    low: float = -1.0
    encoder: MiniLM = MiniLM()  # noqa: RUF009  frozen
    captions: int = 48
    vary: AugmentStrength = AugmentStrength()  # noqa: RUF009  frozen
    of: TextData | None = None

    file: ClassVar[str] = "model"

    def adapt_to(self, images: Pictures) -> Self:
        if (self.low, self.high, self.only) != (-1.0, 1.0, None):
            raise UserError(
                "trainer=text_conditional trains all levels on pictures in [-1, 1]: "
                "leave low, high and only of the objective."
            )
        # Raises before captions are encoded.
        pictogram_unet.diffusers_prediction_types(self.schedule, self.kind)
        scenes = Scenes.of(images, self.captions, self.vary)
        texts = scenes.captions.texts
        names = [name for concept in images.concepts for name in (concept.name, *concept.others)]
        thing_embeddings = cached_embeddings(
            ["known", *FREQUENT_TEMPLATES, *images.names, *names],
            self.encoder,
            lambda: known_things(names, self.encoder, images.names),
        )
        caption_embeddings = cached_embeddings(
            texts,
            self.encoder,
            lambda: self.encoder.packed(texts),
        )
        return replace(self, of=TextData(scenes, caption_embeddings, thing_embeddings))

    @property
    def adapted(self) -> TextData:
        """`of`, after `adapt_to`."""
        assert self.of is not None, "adapt_to comes first"
        return self.of

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """The loss for glyphs `images` (N, 4, 2S, 2S) of the concepts `labels` (N,).

        Each is rendered as one of its captions says.
        """
        scenes = self.adapted.on(images.device).scenes
        pictures, caption_indices = scenes.render(images, labels, draws)
        conditioned = self.condition_network(network, pictures, draws)
        return super().__call__(conditioned, pictures, caption_indices, draws)

    def condition_network(
        self,
        network: nn.Module,
        pictures: Tensor,
        draws: Draws,
    ) -> Callable[..., tuple[Tensor]]:
        """The network, with any conditioning besides the captions bound to it.

        Args:
            pictures: the rendered images (N, 3, S, S) in [0, 1].
        """
        return network

    def answer(
        self,
        network: Callable[..., tuple[Tensor]],
        x: Tensor,
        t: Tensor,
        labels: Tensor,
        kept: Tensor,
    ) -> Tensor:
        """The network's prediction.

        Args:
            labels: (N,), indices of captions; index 0 is the empty caption.
            kept: (N, 1), False for the rows whose caption is dropped.
        """
        embeddings = self.adapted.on(x.device).bank.rows(labels * kept[:, 0])
        mask = (embeddings != 0).any(-1)
        return network(
            x,
            t,
            encoder_hidden_states=embeddings.to(x.dtype),
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]

    def check_network(self, network: nn.Module) -> None:
        require_type(network, pictogram_unet.diffusers_model_class())

    def save(self, network: nn.Module, path: Path, names: Sequence[str]) -> None:
        pictogram_unet.save_pipeline(path, network, self.schedule, self.kind)
        self.adapted.known.write(path / pictogram_unet.CONCEPTS_FILE)

    def sample_figures(
        self, network: nn.Module, held_out: Pictures, seed: int
    ) -> dict[str, Image.Image]:  # fmt: skip
        """Samples of this model, loaded from a saved folder as a user would load it."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            device = device_spec(str(next(network.parameters()).device), "float32")
            self.save(network, path, held_out.names)
            prompts = ConceptPrompts(Store(), self.encoder, path / pictogram_unet.CONCEPTS_FILE)
            model = pictogram_unet.pictogram_denoiser(prompts, device, str(path), 32)
            return {"samples": text_sample_sheet(model, held_out.names, seed)}

    def facts(self, network: nn.Module) -> dict:
        return {
            "leak": self.schedule.terminal_alpha,
            "parameters": count_parameters(network),
            "captions": len(self.adapted.scenes.captions.texts),
            "encoder": asdict(self.adapted.bank.provenance),
            "vary": asdict(self.vary),
        }


def text_sample_sheet(model, names: Sequence[str], seed: int, gamma: float = 4.0) -> Image.Image:
    """Four samples of each of the first six concepts, and of the last of them in other styles."""
    things = [usual_phrase(name) for name in names[:6]]
    last = things[-1]
    prompts = [
        *things,
        f"{last} in grey",
        f"a line drawing of {last}",
        f"a soft picture of {last}",
        f"{last} on a blue background",
    ]
    model.prepare(["", *prompts])
    seeds = [Seed(seed, 4 * row + k) for row in range(len(prompts)) for k in range(4)]
    grid = strided(len(model.schedule))
    estimate = guided([prompt for prompt in prompts for _ in range(4)], gamma)
    *_, end = sample(model, estimate, grid, seeds, DDPM())
    columns = model.decode(end.x).cpu().split(4)
    rows = [[*row] for row in zip(*columns, strict=True)]
    title = f"samples, {len(grid) - 1} updates, gamma {gamma:g}"
    return picture_sheet(rows, across=prompts, title=title)


def cached_embeddings(texts: Sequence[str], encoder: MiniLM, make) -> PackedEmbeddings:
    """The embeddings of these texts: from the user's cache, or from `make()` and then cached."""
    key = json.dumps([*texts, asdict(encoder.provenance)])
    name = hashlib.sha256(key.encode()).hexdigest()[:24]
    path = weights_io.cache_folder() / "captions" / f"{name}.safetensors"
    try:
        return PackedEmbeddings.read(path)
    except UserError:  # it is not there, or damaged
        embeddings = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        embeddings.write(path)
        return embeddings
