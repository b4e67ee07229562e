"""Exclusive claims on output folders: only one process writes a run into a folder.

A folder is claimed before anything is loaded. On release, only files of this process are removed.

FOLDER/.expkit.lock exists while a run is written, and the writing process holds a lock on it. If
the file exists but is not locked, that process was killed.
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
from itertools import count
from pathlib import Path

from expkit.errors import UserError

LOCK = ".expkit.lock"
RECIPE = "recipe.yaml"  # the first file that a run writes
NUMBERS = "numbers.json"  # the last file that a run writes: it marks a finished run
LOOK = "look.json"
ALWAYS = (RECIPE, NUMBERS, LOOK, "picture.png")
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
# errors of file systems without locks
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
OTHER = "Give another one with hydra.run.dir=FOLDER, or leave it out."
HELD: dict[Path, Claim] = {}  # claims of the command that this process executes


class NotClaimed(BaseException):
    """Carries `error` through Hydra, which turns every Exception of a callback into a warning."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def written_names(task: str, logger: str) -> tuple[str, ...]:
    """The names, or patterns of names, that a run of this task and logger writes in its folder."""
    task_names = TRAINED if task == "train" else SAMPLED
    return (*ALWAYS, *task_names, *({"tensorboard", "wandb"} & {logger}))


class Claim:
    """An exclusive claim on a folder for one run. The folder is created if necessary.

    Args:
        folder: The folder.
        names: The names, or patterns of names, that the run will write.
        exclusive: False for all processes of a distributed training except the first one, whose
            folder they share.

    Raises:
        UserError: Another process writes to the folder, one of the names exists already, or the
            folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str] = (*ALWAYS, *SAMPLED),
        exclusive: bool = True,
    ) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.names = names
        self.created_folders: list[Path] = []
        self.lock = None
        try:
            # the two paths differ if the path contains .. after a symbolic link
            self.created_folders += make_folders(Path.cwd() / folder)
            self.created_folders += make_folders(self.folder)
            if exclusive:
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
            kind = "a link to nothing" if self.folder.is_symlink() else "a file"
            raise UserError(f"{self.folder} is {kind}, and a run needs a folder. {OTHER}")
        self.lock, existed = lock_file(self.folder / LOCK)
        if self.lock is None:
            raise UserError(f"The folder {self.folder} is being written by another run. {OTHER}")
        names = self.existing_names()
        if names:
            lock, self.lock = self.lock, None
            if not existed:
                (self.folder / LOCK).unlink()
            os.close(lock)
            raise UserError(self.refusal_message(names, existed))

    def refusal_message(self, existing: Sequence[str], killed: bool) -> str:
        """The message that says why the folder cannot be written to.

        Args:
            existing: The names that exist already.
            killed: Whether a killed process wrote them.
        """
        names = list_names(existing)
        if killed:
            return (
                f"The folder {self.folder} holds what a run that was killed has left: {names}. "
                "Remove it, or give another one with hydra.run.dir=FOLDER."
            )
        if {RECIPE, NUMBERS} <= set(existing):
            return f"The folder {self.folder} already holds a run. {OTHER}"
        problem = f"The folder {self.folder} already holds {names}"
        return f"{problem}, which a run would overwrite. {OTHER}"

    def existing_names(self) -> list[str]:
        """The names of the run that exist in the folder."""
        return matching_names(self.folder, self.names)

    def check_outside_of_runs(self) -> None:
        """Raise UserError if the folder is a part of another run, such as RUN/pictures."""
        patterns = (*ALWAYS, *SAMPLED, *TRAINED, "tensorboard", "wandb")
        for run in self.folder.parents:
            part = self.folder.relative_to(run).parts[0]
            is_part_of_run = any(fnmatch(part, pattern) for pattern in patterns)
            if is_part_of_run and ((run / LOCK).exists() or (run / RECIPE).exists()):
                place = f"{part} of the run {run}"
                raise UserError(f"The folder {self.folder} lies in {place}. {OTHER}")

    def release(self) -> bool:
        """Release the folder.

        If the run wrote nothing except its recipe, the recipe is removed, and so are folders that
        this claim created and that are empty.

        Returns:
            Whether nothing of the run is left.
        """
        remaining: list[str] = []
        if self.lock is not None:
            for name in self.existing_names():
                with suppress(OSError):
                    (self.folder / name).rmdir()  # this removes empty folders only
            remaining = [name for name in self.existing_names() if name != RECIPE]
            for name in (LOCK,) if remaining else (RECIPE, LOCK):
                (self.folder / name).unlink(missing_ok=True)
            os.close(self.lock)
            self.lock = None
        remove_empty(self.created_folders)
        return not remaining


def hold_folder(folder: Path, names: Sequence[str], exclusive: bool = True) -> Claim:
    """Claim a folder for this command, or return the claim that it already has."""
    path = Path(os.path.abspath(folder))
    if path not in HELD:
        with signals_deferred() as signals:
            HELD[path] = Claim(folder, names, exclusive)
        for number in signals:
            signal.raise_signal(number)
    return HELD[path]


def release_claims() -> list[Path]:
    """Release all claims of this command. Returns the folders in which parts of a run are left."""
    with signals_deferred():
        remaining = [folder for folder, claim in HELD.items() if not claim.release()]
        HELD.clear()
    return remaining


@contextmanager
def signals_deferred() -> Iterator[list[int]]:
    """Keep SIGINT and SIGTERM from interrupting the block; yield the list of signals received."""
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only it receives signals
        yield signals
        return
    handlers = {
        number: signal.signal(number, lambda number, _: signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def claimed_folder(folder: Path) -> Iterator[Claim]:
    """Claim a folder for the duration of the block."""
    claim = Claim(folder)
    try:
        yield claim
    finally:
        claim.release()


def make_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents, even while other processes create or remove some of them.

    Returns:
        The folders that were created by this call, outermost first.
    """
    created: list[Path] = []
    attempts = count(1)
    while True:
        try:
            missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
            for path in reversed(missing):
                with suppress(FileExistsError):
                    path.mkdir()
                    created.append(path)
            return created
        except OSError as error:
            if isinstance(error, FileNotFoundError) and next(attempts) < 20:
                continue  # another process has removed a parent
            remove_empty(created)
            raise


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those of the folders that are empty, the last one first."""
    for path in reversed(folders):
        with suppress(OSError):
            path.rmdir()


def lock_file(path: Path) -> tuple[int | None, bool]:
    """Create or open a file and lock it for this process alone.

    On a file system without locks, an existing file counts as locked.

    Returns:
        The file descriptor, or None if another process has the lock; and whether the file existed.
    """
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            existed = False
        except FileExistsError:
            try:
                file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
                existed = True
            except FileNotFoundError:
                continue  # another process has just released it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file, existed
        except OSError as error:
            if error.errno in NO_LOCKS and not existed:
                return file, existed
            if not isinstance(error, BlockingIOError) and error.errno not in NO_LOCKS:
                raise
            os.close(file)
            return None, existed
        os.close(file)


def matching_names(folder: Path, patterns: Sequence[str]) -> list[str]:
    """The names in a folder that match one of these patterns, sorted."""
    names = os.listdir(folder)
    return sorted(name for name in names if any(fnmatch(name, pattern) for pattern in patterns))


def list_names(names: Sequence[str]) -> str:
    """The first five names as text."""
    text = ", ".join(names[:5])
    return f"{text}, …" if len(names) > 5 else text


def unwritable_error(folder: Path, error: OSError, key: str = "hydra.run.dir") -> UserError:
    advice = f"Give another one with {key}=FOLDER."
    return UserError(f"The folder {folder} cannot be written ({error.strerror}). {advice}")


def is_follower_process() -> bool:
    """Whether this is a process of a distributed training, and not the first one.

    Lightning, torchrun and SLURM number processes in environment variables.
    """
    ranks = ("LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID")
    return any(int(os.environ.get(name) or 0) for name in ranks)
