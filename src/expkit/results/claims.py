"""A run's folder belongs to one process: claimed before anything is loaded, and cleaned only of what that process made.

FOLDER/.expkit.lock    there while a run is written. It is locked by the process that writes; unlocked, that process was killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from expkit.errors import UserError

LOCK, RECIPE, FINISHED = ".expkit.lock", "recipe.yaml", "numbers.json"
ALWAYS = (RECIPE, FINISHED, "look.json", "picture.png")
SAMPLED = (
    "pictures",
    "original",
    "first_stage",
    "readings",
    "frames.png",
    "trajectory.png",
    "curves.png",
    "*.gif",
    "listing.txt",
)
TRAINED = ("checkpoints", "epochs", "losses.csv", "model", "model.safetensors", "lightning_logs")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems that have none
OTHER = "Give another one with hydra.run.dir=FOLDER, or leave it out."
HELD: dict[Path, Claim] = {}  # of the command that this process carries out


class NotClaimed(BaseException):
    """Carries `error` through Hydra, which makes a warning of every Exception of a callback."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def written_names(task: str, logger: str) -> tuple[str, ...]:
    """The names, or patterns of names, of what a run of this task and logger writes into its folder."""
    return (*ALWAYS, *(TRAINED if task == "train" else SAMPLED), *({"tensorboard", "wandb"} & {logger}))


class Claim:
    """A folder that this process alone writes a run into, made where it is not there.

    names: what the run will write. alone: False in the further processes of a training, which share the folder of the first.
    Raises UserError where another process writes there, where something has one of these names, or where nothing can be written.
    """

    def __init__(self, folder: Path, names: Sequence[str] = (*ALWAYS, *SAMPLED), alone: bool = True) -> None:
        self.folder, self.names, self.made, self.lock = Path(os.path.abspath(folder)), names, [], None
        try:
            self.made = [
                *make_folders(Path.cwd() / folder),
                *make_folders(self.folder),
            ]  # they differ where a .. comes after a link
            if alone:
                self.check_outside_of_runs()
                self.claim()
        except OSError as error:
            self.release()
            if error.errno in NO_SPACE:
                raise
            raise unwritable_error(self.folder, error) from None
        except BaseException:
            self.release()
            raise

    def claim(self) -> None:
        if not self.folder.is_dir():
            what = "a link to nothing" if self.folder.is_symlink() else "a file"
            raise UserError(f"{self.folder} is {what}, and a run needs a folder. {OTHER}")
        self.lock, left = lock_file(self.folder / LOCK)
        if self.lock is None:
            raise UserError(f"The folder {self.folder} is being written by another run. {OTHER}")
        if there := self.there():
            lock, self.lock = self.lock, None
            if not left:
                (self.folder / LOCK).unlink()
            os.close(lock)
            raise UserError(self.held(there, left))

    def held(self, there: Sequence[str], killed: bool) -> str:
        """Why the folder cannot be written into."""
        listed = list_names(there)
        if killed:
            return (
                f"The folder {self.folder} holds what a run that was killed has left: {listed}. "
                "Remove it, or give another one with hydra.run.dir=FOLDER."
            )
        if {RECIPE, FINISHED} <= set(there):
            return f"The folder {self.folder} already holds a run. {OTHER}"
        return f"The folder {self.folder} already holds {listed}, which a run would overwrite. {OTHER}"

    def there(self) -> list[str]:
        return matching_names(self.folder, self.names)

    def check_outside_of_runs(self) -> None:
        """Refuse a folder such as RUN/pictures: it is a part of another run."""
        for run in self.folder.parents:
            part = self.folder.relative_to(run).parts[0]
            inside = any(
                fnmatch(part, pattern) for pattern in (*ALWAYS, *SAMPLED, *TRAINED, "tensorboard", "wandb")
            )
            if inside and ((run / LOCK).exists() or (run / RECIPE).exists()):
                raise UserError(f"The folder {self.folder} lies in {part} of the run {run}. {OTHER}")

    def release(self) -> bool:
        """Give the folder free. Remove the recipe of a run that wrote nothing else, and what folders of ours are empty then.

        Returns whether nothing of a run is left.
        """
        left: list[str] = []
        if self.lock is not None:
            for name in self.there():
                with suppress(OSError):
                    (self.folder / name).rmdir()  # which succeeds for empty folders only
            left = [name for name in self.there() if name != RECIPE]
            for name in (LOCK,) if left else (RECIPE, LOCK):
                (self.folder / name).unlink(missing_ok=True)
            os.close(self.lock)
            self.lock = None
        remove_empty(self.made)
        return not left


def hold_folder(folder: Path, names: Sequence[str], alone: bool = True) -> Claim:
    """The claim of this command on its folder, made once."""
    place = Path(os.path.abspath(folder))
    if place not in HELD:
        with signals_deferred() as came:
            HELD[place] = Claim(folder, names, alone)
        for number in came:
            signal.raise_signal(number)
    return HELD[place]


def release_claims() -> list[Path]:
    """Give free what this command has claimed; those of the folders in which something of a run is left."""
    with signals_deferred():
        kept = [folder for folder, claim in HELD.items() if not claim.release()]
        HELD.clear()
    return kept


@contextmanager
def signals_deferred() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM do not interrupt what stands inside; those that come are in the list."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # no other one is interrupted
        yield came
        return
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def claimed_folder(folder: Path) -> Iterator[Claim]:
    """A folder claimed for as long as a run is written into it."""
    claim = Claim(folder)
    try:
        yield claim
    finally:
        claim.release()


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and what it lies in; those of them that were made here, outermost first. Another process may make or remove some."""
    ours: list[Path] = []
    for attempt in range(20):
        try:
            for path in reversed([path for path in (folder, *folder.parents) if not os.path.lexists(path)]):
                with suppress(FileExistsError):
                    path.mkdir()
                    ours.append(path)
            return ours
        except FileNotFoundError:
            if attempt == 19:
                remove_empty(ours)
                raise
        except OSError:
            remove_empty(ours)
            raise
    return ours


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those that are empty, the last first."""
    for path in reversed(folders):
        with suppress(OSError):
            path.rmdir()


def lock_file(path: Path) -> tuple[int | None, bool]:
    """An open file that this process alone has locked, None where another one has; and whether it was there before.

    Where the file system has no locks, a file that is there is taken for locked.
    """
    while True:
        try:
            file, left = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), False
        except FileExistsError:
            try:
                file, left = os.open(path, os.O_RDWR | os.O_NOFOLLOW), True
            except FileNotFoundError:
                continue  # it was given free meanwhile
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file, left
        except OSError as error:
            if error.errno in NO_LOCKS and not left:
                return file, left
            if not isinstance(error, BlockingIOError) and error.errno not in NO_LOCKS:
                raise
            os.close(file)
            return None, left
        os.close(file)


def matching_names(folder: Path, patterns: Sequence[str]) -> list[str]:
    """What lies in a folder under one of these names, or patterns of names."""
    return sorted(name for name in os.listdir(folder) if any(fnmatch(name, pattern) for pattern in patterns))


def list_names(names: Sequence[str]) -> str:
    """The first names, in words."""
    return ", ".join(names[:5]) + ", …" * (len(names) > 5)


def unwritable_error(folder: Path, error: OSError, key: str = "hydra.run.dir") -> UserError:
    return UserError(
        f"The folder {folder} cannot be written ({error.strerror}). Give another one with {key}=FOLDER."
    )


def is_follower_process() -> bool:
    """Whether this is one of several processes of a training and not the first: Lightning, torchrun and SLURM number them."""
    return any(int(os.environ.get(name) or 0) for name in ("LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID"))
