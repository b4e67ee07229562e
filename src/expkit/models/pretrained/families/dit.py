"""DiT (Peebles & Xie 2023): a diffusion transformer on latents, told a class of ImageNet.

A prompt names one of the 1,000 classes. The network has learned its variance (Nichol & Dhariwal 2021, eq. 15):

    eps, v = eps_theta(z, t, c);    variance_fraction = (v + 1) / 2

With guidance, diffusers' pipeline extrapolates all channels of eps, as expkit does; the authors'
code extrapolates the first three of four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from expkit.core.denoiser import Prediction
from expkit.errors import UserError, suggest
from expkit.models.pretrained.base import DeviceSpec
from expkit.models.pretrained.deepfloyd import split_variance
from expkit.models.pretrained.families.latent import Latent
from expkit.storage.hub import Repository
from expkit.text.class_names import is_named_in


class DiT(Latent):
    """A class-conditioned network of DiT; its null prompt is the class after the last one.

    The names of the classes are in id2label of model_index.json: synonyms, separated by commas.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("DiTPipeline",)
    # The published configurations have the older name; diffusers loads the newer class.
    networks: ClassVar[tuple[str, ...]] = ("DiTTransformer2DModel", "Transformer2DModel")
    reads_text: ClassVar[bool] = False

    def __init__(
        self, repository: Repository, embeddings, machine: DeviceSpec, size: int | None = None
    ) -> None:  # fmt: skip
        super().__init__(repository, embeddings, machine, size)
        self.learns_variance = self.config.get("out_channels") == 2 * self.shape[0]
        self.classes = ClassLabels(
            repository.index.get("id2label") or {}, self.config.get("num_embeds_ada_norm") or 1000
        )
        self.class_prompts = self.classes.names

    def canonical_prompt(self, prompt: str) -> str:
        return self.classes.find(prompt)

    def condition(self, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        """{"classes": (R,)}, the numbers of the classes."""
        numbers = [self.classes.number(prompt) for prompt in prompts]
        return {"classes": torch.tensor(numbers, device=self.device)}

    def answer(self, x: Tensor, t: float, condition: Mapping[str, Tensor]) -> Prediction:
        """Run one forward pass; see `Family.answer`."""
        time, classes = self.row_times(x, float(t)), condition["classes"]
        output = self.network(x, timestep=time, class_labels=classes)
        return split_variance(output, self.shape[0], self.learns_variance)


class ClassLabels:
    """The classes of a model: numbers, and names that a prompt may use.

    A name that two classes have stands for the later one, as in diffusers' pipeline.

    Args:
        labels: the names of each class, separated by commas, by its number.
        count: how many classes there are; the next number is the null class.
    """

    def __init__(self, labels: Mapping[str, str], count: int) -> None:
        self.count = count
        self.synonyms = {
            int(number): [name.strip() for name in names.split(",") if name.strip()]
            for number, names in sorted(labels.items(), key=lambda item: int(item[0]))
        }
        self.by_name: dict[str, int] = {}
        for number, names in self.synonyms.items():
            self.by_name |= {name.casefold(): number for name in names}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The first name of each class, by which `find` finds it, else its number."""
        return tuple(self.name(number) for number in range(self.count))

    def name(self, number: int) -> str:
        """The first name of a class that no later class has, else its number."""
        names = self.synonyms.get(number, [])
        return next((one for one in names if self.by_name[one.casefold()] == number), str(number))

    def number(self, prompt: str) -> int:
        """The number of the class that a prompt names; of the null class for the null prompt.

        Raises:
            UserError: the prompt names no class, or several.
        """
        text = str(prompt).strip().casefold()
        if not text:
            return self.count
        if text in self.by_name:
            return self.by_name[text]
        if text.isdecimal() and int(text) < self.count:
            return int(text)
        named = {name: number for name, number in self.by_name.items() if is_named_in(name, text)}
        numbers = {number for name, number in named.items() if not is_part(name, named)}
        if len(numbers) != 1:
            raise self.unknown(prompt)
        return numbers.pop()

    def find(self, prompt: str) -> str:
        """The name of the class that a prompt names; "" for the null prompt.

        Raises:
            UserError: the prompt names no class, or several.
        """
        number = self.number(prompt)
        return "" if number == self.count else self.name(number)

    def unknown(self, prompt: str) -> UserError:
        """The error for a prompt that does not name one class."""
        known = [names[0] for names in self.synonyms.values() if names]
        examples = f", such as {', '.join(known[:: max(1, len(known) // 5)][:6])}" if known else ""
        return UserError(
            f"This model does not know the prompt {str(prompt)!r}.{suggest(prompt, self.by_name)} "
            f"It knows one of {self.count} classes a prompt{examples}; or the number of a class, "
            f'0 to {self.count - 1}; "" is the null prompt.'
        )


def is_part(name: str, names: Mapping[str, int]) -> bool:
    """Whether another of the names contains this one, as "tiger cat" does "tiger"."""
    return any(name != other and is_named_in(name, other) for other in names)
