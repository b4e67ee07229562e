"""The tasks: what each command produces, and how its results are scored and displayed."""

from typing import TYPE_CHECKING

from expkit.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from expkit.tasks.denoise import Denoise as Denoise
    from expkit.tasks.embed import Embed as Embed
    from expkit.tasks.evaluation.evaluate import Evaluate as Evaluate
    from expkit.tasks.forward import Forward as Forward
    from expkit.tasks.noise_levels import Generalize as Generalize
    from expkit.tasks.pins import no_pin as no_pin
    from expkit.tasks.pins import pin_around_mask as pin_around_mask
    from expkit.tasks.pins import pin_part as pin_part
    from expkit.tasks.pins import pin_whole as pin_whole
    from expkit.tasks.sampling import Sampling as Sampling
    from expkit.tasks.scoring import Downsampled as Downsampled
    from expkit.tasks.scoring import Readout as Readout
    from expkit.tasks.trajectory import Film as Film

EXPORTS = {
    "Denoise": "denoise",
    "Embed": "embed",
    "Evaluate": "evaluation.evaluate",
    "Forward": "forward",
    "Generalize": "noise_levels",
    "no_pin": "pins",
    "pin_around_mask": "pins",
    "pin_part": "pins",
    "pin_whole": "pins",
    "Sampling": "sampling",
    "Downsampled": "scoring",
    "Readout": "scoring",
    "Film": "trajectory",
}
lazy_exports(__name__, EXPORTS)
