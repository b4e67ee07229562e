"""The core needs torch and the standard library: its examples run where every other library, and the rest of expkit, is out of reach."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "hybrid": "2 rows a picture",
    "anagram": "furthest from the mean of both",
    "inpaint": "inpainted: the left half differs from the disc by 0.00",
    "composition": "low pass + high pass: ['null', 'disc']",
    "solvers": "100 steps, DPMpp: mean ",
    "own_view": "there and back again: True",
}
# Torch looks for numpy itself and does without; everything else that is installed beside it is hidden.
ALONE = """
import importlib.abc, runpy, sys
LIBRARIES = {"numpy", "PIL", "torchvision", "safetensors", "diffusers", "transformers", "hydra", "omegaconf", "pytorch_lightning", "yaml"}
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        first, _, rest = name.partition(".")
        if first in LIBRARIES or first == "expkit" and rest and rest.split(".")[0] not in ("core", "errors"):
            raise ModuleNotFoundError(f"hidden: {name}", name=name)
sys.meta_path.insert(0, Hidden())
sys.path.insert(0, sys.argv[2])
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_with_nothing_but_torch(name):
    folder = ROOT / "docs" / "core"
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(folder / f"{name}.py"), str(folder)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert EXAMPLES[name] in done.stdout
