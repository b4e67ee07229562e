"""The output folder of a run, exclusive claims on it, and loggers."""

from typing import TYPE_CHECKING

from expkit.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from expkit.results.run_folder import NullLogger as NullLogger
    from expkit.results.run_folder import TensorBoard as TensorBoard
    from expkit.results.run_folder import WandB as WandB

EXPORTS = {
    "NullLogger": "run_folder",
    "TensorBoard": "run_folder",
    "WandB": "run_folder",
}
lazy_exports(__name__, EXPORTS)
