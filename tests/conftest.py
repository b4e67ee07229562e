"""What tests share: one thread, toy denoisers whose answers are known, and the data at hand."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from expkit.denoiser import Denoiser, Prediction
from expkit.schedule import scaled

torch.set_num_threads(1)
torch.manual_seed(0)
DATA = next((p for p in (os.environ.get("EXPKIT_DATA"), Path(__file__).parents[2] / "shared" / "data") if p and Path(p).is_dir()), None)


class Toy(Denoiser):
    """Answers tanh(a·x + b) + noise of the prompt's own, pointwise in x: it commutes with every permutation of pixels.

    `skewed` adds a fixed picture, which breaks that. `rows` has the rows of each call, `asked` the prompts of the last one.
    """

    kind, range, device = "eps", (-1.0, 1.0), torch.device("cpu")

    def __init__(self, shape=(1, 8, 8), skewed: float = 0.0, frac: bool = False, schedule=None) -> None:
        self.shape, self.schedule = shape, schedule or scaled(100)
        self.picture = skewed * torch.randn(shape, generator=torch.Generator().manual_seed(1))
        self.frac, self.learned, self.rows, self.asked = frac, frac, [], []

    def understand(self, prompt: str) -> str:
        return prompt

    def predict(self, x: Tensor, t: int, prompts) -> Prediction:
        self.rows.append(len(x))
        self.asked = list(prompts)
        said = torch.tensor([sum(map(ord, p)) % 17 / 17 for p in prompts])[:, None, None, None]
        answer = torch.tanh((1 + said) * x + said + 0.01 * t) + (1 + said) * self.picture
        return Prediction(answer, torch.sigmoid(x + said) if self.frac else None)


@pytest.fixture(autouse=True)
def seeded():
    """The same draws in every run of a test, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """What expkit keeps for later runs is kept for this test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EXPKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def folder(self) -> Path:
        """The run's folder: the last line printed."""
        return Path(self.out.splitlines()[-1])

    def folder_of(self, kind: str) -> Path:
        """The only folder below outputs/KIND, of a run that did not end well and so printed none."""
        (folder,) = (Path("outputs") / kind).iterdir()
        return folder

    def numbers(self) -> dict:
        return json.loads((self.folder / "numbers.json").read_text())


def of_digits(arguments: tuple[str, ...]) -> list[str]:
    asks = any(argument.startswith("task=") for argument in arguments)
    return [*arguments, "model=digits"] if asks and not any(argument.startswith("model=") for argument in arguments) else [*arguments]


@pytest.fixture
def expkit(tmp_path, monkeypatch, capsys):
    """Runs the command in this process, in an empty folder: expkit("task=sample", "gamma=1") -> exit code, output, errors.

    Its model is that of digits, which is quick, unless the command says another.
    """
    from expkit.__main__ import main

    monkeypatch.chdir(tmp_path)
    if DATA:
        monkeypatch.setenv("EXPKIT_DATA", str(Path(DATA).resolve()))

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr("sys.argv", ["expkit", *of_digits(arguments)])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        code = 0
        try:
            main()
        except SystemExit as left:
            code = left.code or 0
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data; CI has it and must not skip."""
    if DATA is None:
        assert not os.environ.get("CI"), "CI must have the data: set EXPKIT_DATA"
        pytest.skip("no data at hand: set EXPKIT_DATA to a folder that holds mnist/ and photos/")
    return Path(DATA)
