"""python -m expkit: a Hydra app. A configuration comes in, the folder of a run comes out.

Until a job runs, nothing slow except Hydra is imported.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from expkit.config import checks, schema
from expkit.config.command_line import CommandLine
from expkit.results import claims
from expkit.results.claims import is_follower_process
from expkit.runs import interrupts, messages
from expkit.storage import process

if TYPE_CHECKING:
    from omegaconf import DictConfig

FULL = "HYDRA_FULL_ERROR"
LOGGER = logging.getLogger("expkit")


@messages.shown_on_stderr()
def main() -> None:
    """The console script.

    Exit codes: 0 success, 1 a replayed picture differs, 2 an error (with a message),
    130 interrupted by Ctrl-C, 143 terminated by SIGTERM.
    """
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        return print_page(checks.help_page())
    use_cpu_well()
    code = 0
    errors: list[Exception] = []
    with interrupts.interruptible(), whole_errors() as full:
        try:
            code = select_command(arguments, errors)()
            for error in errors:
                interrupts.raise_if_interrupted(error)
        except KeyboardInterrupt as interrupt:
            sys.exit(report_interrupt(str(interrupt), claims.release_claims()))
        except SystemExit as hydra_exit:  # Hydra has already printed the reason
            sys.exit(2 if hydra_exit.code == 1 else hydra_exit.code)
        except claims.NotClaimed as not_claimed:
            errors.append(not_claimed.error)
        except Exception as error:
            if interrupts.RECEIVED_SIGNALS:
                sys.exit(report_interrupt("", claims.release_claims()))
            errors.append(error)
        finally:
            claims.release_claims()
    for error in errors:
        message = checks.error_message(error, arguments)
        # a follower process gets HYDRA_FULL_ERROR from the first process, not from the user
        if message is None or (full and not is_follower_process()):
            raise error
        if not is_follower_process():
            show_error(message)
    sys.exit(2 if errors else code or 0)


def use_cpu_well() -> None:
    """Set what must be set once in a process, and before torch is loaded."""
    process.keep_freed_memory()
    process.wait_without_spinning()


def show_error(text: str) -> None:
    """Show an error, even if the command's settings of Hydra have disabled loggers."""
    with messages.shown_on_stderr():
        LOGGER.error(text)


@contextmanager
def whole_errors() -> Iterator[bool]:
    """Let Hydra raise errors unchanged, because `main` decides what the user sees.

    Yields whether the user has set HYDRA_FULL_ERROR to see tracebacks.
    """
    before = os.environ.get(FULL)
    os.environ[FULL] = "1"
    try:
        yield bool(before)
    finally:
        os.environ.pop(FULL) if before is None else os.environ.update({FULL: before})


def print_page(page: str) -> None:
    """Print a page; it is no error if the reader, such as head, stops before its end."""
    try:
        print(page, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def select_command(arguments: list[str], failed: list[Exception]) -> Callable[[], int | None]:
    """The function that executes a command: a command of `OWN`, or a run or sweep with Hydra.

    Args:
        arguments: The arguments of the command line.
        failed: The list to which the function appends the error of a job.
    """
    for argument in arguments:
        word, _, value = argument.partition("=")
        if word in OWN and (value or word != "replay"):
            return OWN[word](value, [other for other in arguments if other is not argument])
    line = CommandLine.of(arguments)
    checks.check_overrides(line.overrides)
    checks.check_values(line)
    folder_override = []
    if line.many:
        from expkit.sweep import names

        folder = names.sweep_folder(line)
        if names.is_finished(folder, line):
            return lambda: print(folder)
        folder_override = names.folder_override(folder, line)
    sys.argv[1:] = [*line.typed, *folder_override]
    return hydra_app(failed)


def replay(file: str, rest: list[str]) -> Callable[[], int]:
    from expkit.runs.replay import replay_picture

    return lambda: replay_picture(file, rest)


def dashboard(_: str, rest: list[str]) -> Callable[[], int]:
    from expkit.app.dashboard import serve_dashboard

    return lambda: serve_dashboard(rest)


def page(_: str, rest: list[str]) -> Callable[[], int]:
    from expkit.app.serve import serve_page

    return lambda: serve_page(rest)


OWN = {"replay": replay, "dashboard": dashboard, "app": page}  # commands that do not use Hydra


def hydra_app(failed: list[Exception]):
    """The Hydra app; the error of a job is appended to `failed`."""
    import warnings

    import hydra

    from expkit.runs import resolvers

    resolvers.READ.clear()
    # make this warning an error, so that the user gets a message about it
    warnings.filterwarnings("error", message=r"provider=hydra\.searchpath.* is not available")

    @hydra.main(config_path=str(schema.config_folder()), config_name="config", version_base="1.3")
    def job(config) -> None:
        use_cpu_well()  # a launcher may have started another process for it
        with messages.shown_on_stderr():
            run_configuration(config, failed)

    return job


def run_configuration(config, failed: list[Exception]) -> None:
    """Run a configuration that Hydra has composed; an error is appended to `failed`."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from expkit.runs.job import ComposedConfig, Job, overrides_of, run_job

    hydra_config = HydraConfig.get()
    # Hydra declares the class that describes it; what it holds is a DictConfig of that class.
    config_with_hydra = cast("DictConfig", HydraConfig.instance().cfg)
    folder = Path(hydra_config.runtime.output_dir)
    run = Job(ComposedConfig(config, config_with_hydra), overrides_of(config_with_hydra).task)
    if hydra_config.mode == RunMode.MULTIRUN:  # a run of a sweep, started by another launcher
        from expkit.sweep.cells import run_cell

        return run_cell(run, folder)
    try:
        choices = hydra_config.runtime.choices
        names = claims.written_names(choices["task"], choices["logger"])
        claims.hold_folder(folder, names, not is_follower_process())
        result = run_job(run, folder, is_main_process=not is_follower_process())
        if result.is_main_process:
            print(result.folder)
    except Exception as error:
        failed.append(error)


def report_interrupt(said: str, kept: list[Path]) -> int:
    """Print a message about an interrupted command.

    Args:
        said: The message of the interrupted code, if it had one.
        kept: The folders in which parts of a run are left.

    Returns:
        The exit code.
    """
    is_terminated = signal.SIGTERM in interrupts.RECEIVED_SIGNALS
    result = f"what was finished is kept in {kept[0]}" if kept else "nothing was finished yet."
    if not is_follower_process():
        event = "ended by SIGTERM" if is_terminated else "interrupted"
        show_error(f"{event}; {said or result}")
    return 143 if is_terminated else 130


if __name__ == "__main__":
    main()
