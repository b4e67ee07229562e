"""A run's folder: pictures, numbers, recipe. Files are the truth; loggers mirror them."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch


class Result:
    def __init__(self, folder: Path, recipe: str, logger: str = "none") -> None:
        self.folder, self.recipe, self.logger = Path(folder), recipe, logger
        self.numbers: dict = {}
        self.began = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "recipe.yaml").write_text(recipe)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def lightning_logger(self):
        if self.logger == "tensorboard":
            from pytorch_lightning.loggers import TensorBoardLogger

            return TensorBoardLogger(self.folder, name="", version="tensorboard")
        return False

    def finish(self) -> None:
        facts = {"seconds": round(time.perf_counter() - self.began, 3), "torch": torch.__version__}
        (self.folder / "numbers.json").write_text(json.dumps(facts | self.numbers, indent=1))
