"""A network of diffusers as it runs fastest without gradients; its outputs stay the same.

- Convolutions run in the memory layout channels_last.
- What depends on the prompts alone is computed once: keys and values of their tokens in each cross-
  attention, and the embedding of the pooled text.
- A residual block works in place where it can, and divides by no 1.
- On the CPU in float32, a convolution of an enlarged image is one transposed convolution of the
  small one: 16 multiplications for each of its pixels and weights instead of 36.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expkit.models.once_per_input import OncePerInput

UNET = "UNet2DConditionModel"


class UpsampledConv(nn.Module):
    """diffusers' Upsample2D, nearest-neighbour by 2 and then a 3 × 3 convolution, in one pass.

    It is a transposed convolution. Two pixels of the enlarged image are one of the small image, so
    weights that meet the same pixel are added: K_m = w_{2−m} + w_{3−m} on each axis, m = 0 … 3.

    Args:
        upsample: the module; its convolution has padding 1.
    """

    def __init__(self, upsample: Any) -> None:
        super().__init__()
        self.upsample = upsample
        conv = upsample.conv
        taps = conv.weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
        kernel = torch.einsum("oihw,ah,bw->ioab", conv.weight, taps, taps)
        self.kernel = nn.Parameter(kernel, requires_grad=False)

    def forward(self, image: Tensor, output_size: Any = None, *given: Any, **named: Any) -> Tensor:
        """(N, inner, H, W) -> (N, outer, 2·H, 2·W), or the images of another `output_size`."""
        if output_size is not None:
            return self.upsample(image, output_size, *given, **named)
        return F.conv_transpose2d(image, self.kernel, self.upsample.conv.bias, stride=2, padding=1)


def prepare_for_inference(network: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """The network, changed in place to run faster; see the module's docstring.

    Args:
        network: a network of diffusers in evaluation mode, on the CPU.
        device: where it will run.
        dtype: of its weights.
    """
    if device == "cpu" and dtype == torch.float32:
        replace_children(network, is_upsampled_conv, UpsampledConv)
    for block in [one for one in network.modules() if is_scale_shift_block(one)]:
        block.forward = partial(residual_forward, block)
    keep_text_projections(network)
    # torch's stubs have no call with a memory format alone
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def replace_children(
    network: nn.Module, test: Callable[[nn.Module], bool], wrap: Callable[[nn.Module], nn.Module]
) -> None:
    """Replace each module of the network that passes the test by `wrap(module)`."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if test(child):
                setattr(parent, name, wrap(child))


def is_scale_shift_block(module: Any) -> bool:
    """Whether `residual_forward` is what this module computes."""
    from diffusers.models.resnet import ResnetBlock2D

    return (
        isinstance(module, ResnetBlock2D)
        and module.time_embedding_norm == "scale_shift"
        and isinstance(module.nonlinearity, nn.SiLU)
        and not (module.upsample or module.downsample or module.skip_time_act)
        and module.output_scale_factor == 1
    )


def residual_forward(block: Any, image: Tensor, temb: Tensor, *_: Any, **__: Any) -> Tensor:
    """The forward of diffusers' ResnetBlock2D without gradients, for SiLU, scale and shift.

    Args:
        image: (N, C, H, W).
        temb: the embedding of the time, (N, D).
    """
    h = block.conv1(F.silu(block.norm1(image), inplace=True))
    scale, shift = block.time_emb_proj(F.silu(temb))[:, :, None, None].chunk(2, 1)
    h = block.norm2(h).mul_(1 + scale).add_(shift)
    h = block.conv2(F.silu(h, inplace=True))
    return h.add_(image if block.conv_shortcut is None else block.conv_shortcut(image))


def is_upsampled_conv(module: nn.Module) -> bool:
    """Whether `UpsampledConv` can stand for this module."""
    from diffusers.models.upsampling import Upsample2D

    if not isinstance(module, Upsample2D) or module.norm is not None or module.name != "conv":
        return False
    conv = module.conv
    return module.interpolate and isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)


def keep_text_projections(network: nn.Module) -> None:
    """Compute once for a batch of prompts what depends on its tokens alone.

    This is what projects the tokens to the network's width, the embedding of the pooled text, and
    in cross-attention the tokens' normalisation, keys and values. It concerns UNets, which hand the
    tokens to each block as they are; transformers make new ones of them first.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.embeddings import TextTimeEmbedding

    text_only: list[Any] = []
    unets = [one for one in network.modules() if type(one).__name__ == UNET]
    for module in (module for unet in unets for module in unet.modules()):
        if isinstance(module, TextTimeEmbedding):
            text_only.append(module)
        elif isinstance(module, Attention) and module.is_cross_attention:
            has_added = module.added_kv_proj_dim is not None
            projections = ("add_k_proj", "add_v_proj") if has_added else ("to_k", "to_v")
            text_only += [getattr(module, name) for name in projections]
            normalise: Any = OncePerInput(module.norm_encoder_hidden_states)
            module.norm_encoder_hidden_states = normalise.forward
    projections = [getattr(unet, "encoder_hid_proj", None) for unet in unets]
    text_only += [one for one in projections if isinstance(one, nn.Linear)]
    replace_children(network, lambda module: module in text_only, OncePerInput)
