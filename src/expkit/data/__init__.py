"""Pictures with labels or captions, for training and for comparison."""

from typing import TYPE_CHECKING

from expkit.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from expkit.data.captioned_scenes import AugmentStrength as AugmentStrength
    from expkit.data.datasets import emnist as emnist
    from expkit.data.datasets import fashion_mnist as fashion_mnist
    from expkit.data.datasets import ideal_denoiser as ideal_denoiser
    from expkit.data.datasets import image_folder as image_folder
    from expkit.data.datasets import kmnist as kmnist
    from expkit.data.datasets import mnist as mnist
    from expkit.data.pictograms import emoji_pictograms as emoji_pictograms

EXPORTS = {
    "AugmentStrength": "captioned_scenes",
    "emnist": "datasets",
    "fashion_mnist": "datasets",
    "ideal_denoiser": "datasets",
    "image_folder": "datasets",
    "kmnist": "datasets",
    "mnist": "datasets",
    "emoji_pictograms": "pictograms",
}
lazy_exports(__name__, EXPORTS)
