"""What tests share: the same surroundings on every machine, toy denoisers whose answers are known, digits, and the data at hand.

A test sees one thread of a CPU without instructions for bfloat16, no GPU, an empty home and none of the user's settings or caches.
"""

import atexit
import json
import os
import shutil
import site
import tempfile
from pathlib import Path
from typing import NamedTuple

DATA = next(
    (
        p
        for p in (os.environ.get("EXPKIT_DATA"), Path(__file__).parents[2] / "shared" / "data")
        if p and Path(p).is_dir()
    ),
    None,
)
OTHERS = ("EXPKIT_CACHE", "HF_", "HUGGING", "TRANSFORMERS_", "DIFFUSERS_", "WANDB_", "XDG_", "TORCH_HOME", "HYDRA_", "SLURM_", "TQDM_",
          "MPL", "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_", "GRADIO_")  # fmt: skip


def isolate() -> None:
    """An empty home and none of the variables that change what libraries do; for the processes that tests start too."""
    os.environ.setdefault("PYTHONUSERBASE", site.getuserbase())  # where this Python's libraries may lie
    for name in [name for name in os.environ if name.startswith(OTHERS)]:
        del os.environ[name]
    home = tempfile.mkdtemp(prefix="expkit-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= {"HOME": home, "CUDA_VISIBLE_DEVICES": "", "TZ": "UTC", "MPLBACKEND": "agg"}
    os.umask(0o022)


isolate()  # before the libraries are imported, which read them then

import pytest  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from expkit.core.denoiser import Denoiser, Prediction  # noqa: E402
from expkit.core.schedules import linear_rescaled  # noqa: E402
from expkit.runs import messages  # noqa: E402
from expkit.storage.files import sha256  # noqa: E402
from tests import stand_in  # noqa: E402

os.environ["OMP_NUM_THREADS"] = "1"  # of commands that tests run: with more threads last bits differ
torch.set_num_threads(1)
torch.manual_seed(0)
torch.cpu._is_avx512_bf16_supported = torch.cpu._is_amx_tile_supported = lambda: False


class Toy(Denoiser):
    """Answers tanh(a·x + b) + noise of the prompt's own, pointwise in x: it commutes with every permutation of pixels.

    `skewed` adds a fixed picture, which breaks that. `rows` has the rows of each call, `asked` the prompts of the last one.
    """

    prediction_type, range, device = "eps", (-1.0, 1.0), torch.device("cpu")

    def __init__(
        self, shape=(1, 8, 8), skewed: float = 0.0, variance_fraction: bool = False, schedule=None
    ) -> None:
        self.shape, self.schedule = shape, schedule or linear_rescaled(100)
        self.picture = skewed * torch.randn(shape, generator=torch.Generator().manual_seed(1))
        self.variance_fraction, self.learns_variance, self.rows, self.asked = (
            variance_fraction,
            variance_fraction,
            [],
            [],
        )

    def canonical_prompt(self, prompt: str) -> str:
        return prompt

    def predict(self, x: Tensor, t: int, prompts) -> Prediction:
        self.rows.append(len(x))
        self.asked = list(prompts)
        said = torch.tensor([sum(map(ord, p)) % 17 / 17 for p in prompts])[:, None, None, None]
        answer = torch.tanh((1 + said) * x + said + 0.01 * t) + (1 + said) * self.picture
        return Prediction(answer, torch.sigmoid(x + said) if self.variance_fraction else None)


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
    return (
        [*arguments, "model=digits"]
        if asks and not any(argument.startswith("model=") for argument in arguments)
        else [*arguments]
    )


@pytest.fixture
def expkit(tmp_path, monkeypatch, capsys, data):
    """Runs the command in this process, in an empty folder: expkit("task=sample", "gamma=1") -> exit code, output, errors.

    Its model is that of digits, which is quick, unless the command says another.
    """
    from expkit.__main__ import main

    monkeypatch.chdir(tmp_path)

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


@pytest.fixture
def stderr(capsys):
    """Shows messages of the library as the command does: stderr() -> what was written to stderr since the last call."""
    with messages.shown_on_stderr():
        yield lambda: capsys.readouterr().err


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """The folder of the digits that stand in for MNIST."""
    return stand_in.write(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def data(digits, monkeypatch) -> Path:
    """Commands and functions of this process take the digits for MNIST; those of other processes add `stand_in.AS_EMNIST`."""
    from expkit.data import datasets

    monkeypatch.setenv("EXPKIT_DATA", str(digits))
    monkeypatch.setattr(datasets, "MNIST_IMAGES", sha256(digits / "mnist/MNIST/raw/train-images-idx3-ubyte"))
    return digits


def at_hand(name: str) -> Path:
    """A folder of real data; CI has it and must not skip."""
    place = Path(DATA).resolve() / name if DATA else None
    if place is None or not place.is_dir():
        assert not os.environ.get("CI"), "CI must have the data: set EXPKIT_DATA"
        pytest.skip(f"no {name} at hand: set EXPKIT_DATA to a folder that holds mnist/ and photos/")
    return place


@pytest.fixture(scope="session")
def mnist() -> Path:
    """MNIST itself, for what is true of it alone."""
    return at_hand("mnist")


@pytest.fixture(scope="session")
def photos() -> Path:
    return at_hand("photos")
