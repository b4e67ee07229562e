"""python -m expkit: a Hydra app. Config in, a run's folder out. Nothing but Hydra is imported until a job runs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from expkit.config import checks, schema
from expkit.config.command_line import CommandLine
from expkit.results import claims
from expkit.results.claims import is_follower_process
from expkit.runs import interrupts

FULL = "HYDRA_FULL_ERROR"


def main() -> None:
    """The console script.

    Exit codes: 0 done, 1 made again but not the same, 2 refused with a sentence, 130 interrupted by Ctrl-C, 143 ended by SIGTERM.
    """
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        return print_page(checks.help_page())
    code, failed = 0, []
    with interrupts.interruptible(), whole_errors() as full:
        try:
            code = select_command(arguments, failed)()
            for error in failed:
                interrupts.raise_if_interrupted(error)
        except KeyboardInterrupt as interrupt:
            sys.exit(report_interrupt(str(interrupt), claims.release_claims()))
        except SystemExit as left:  # Hydra's own, which has said why
            sys.exit(2 if left.code == 1 else left.code)
        except claims.NotClaimed as refused:
            failed.append(refused.error)
        except Exception as error:
            if interrupts.CAME:
                sys.exit(report_interrupt("", claims.release_claims()))
            failed.append(error)
        finally:
            claims.release_claims()
    for error in failed:
        said = checks.error_message(error, arguments)
        if said is None or (
            full and not is_follower_process()
        ):  # who follows was started by one of us, which asked for them itself
            raise error
        if not is_follower_process():
            print(f"expkit: {said}", file=sys.stderr)
    sys.exit(2 if failed else code or 0)


@contextmanager
def whole_errors() -> Iterator[bool]:
    """Hydra's errors come to us whole: what a person sees of them is decided here. The value: whether the person asked to see all."""
    before = os.environ.get(FULL)
    os.environ[FULL] = "1"
    try:
        yield bool(before)
    finally:
        os.environ.pop(FULL) if before is None else os.environ.update({FULL: before})


def print_page(page: str) -> None:
    """Print a page; a reader that goes away before its end, such as head, is no fault."""
    try:
        print(page, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def select_command(arguments: list[str], failed: list[Exception]) -> Callable[[], int | None]:
    """What a command asks for: a run or a sweep, by Hydra, or one of the few things that have words of their own."""
    for argument in arguments:
        word, _, value = argument.partition("=")
        if word in OWN and (value or word != "replay"):
            return OWN[word](value, [other for other in arguments if other is not argument])
    line = CommandLine.of(arguments)
    checks.check_overrides(line.overrides)
    checks.check_values(line)
    placed = []
    if line.many:
        from expkit.sweep import names

        folder = names.sweep_folder(line)
        if names.is_finished(folder, line):
            return lambda: print(folder)
        placed = names.folder_override(folder, line)
    sys.argv[1:] = [*line.typed, *placed]
    return hydra_app(failed)


def replay(file: str, rest: list[str]) -> Callable[[], int]:
    from expkit.runs.replay import replay_picture

    return lambda: replay_picture(file, rest)


def dashboard(_: str, rest: list[str]) -> Callable[[], int]:
    from expkit.app.dashboard import serve

    return lambda: serve(rest)


def page(_: str, rest: list[str]) -> Callable[[], int]:
    from expkit.app.serve import serve

    return lambda: serve(rest)


OWN = {"replay": replay, "dashboard": dashboard, "app": page}  # words that Hydra never hears of


def hydra_app(failed: list[Exception]):
    """The Hydra app; a job's error is kept in `failed`."""
    import warnings

    import hydra

    from expkit.runs import resolvers

    resolvers.READ.clear()
    warnings.filterwarnings(
        "error", message=r"provider=hydra\.searchpath.* is not available"
    )  # as which it is told

    @hydra.main(config_path=str(schema.config_folder()), config_name="config", version_base="1.3")
    def job(config) -> None:
        from hydra.core.hydra_config import HydraConfig

        from expkit.runs.job import ComposedConfig, Job, overrides_of, run_job

        known = HydraConfig.get()
        whole = HydraConfig.instance().cfg
        folder, one = (
            Path(known.runtime.output_dir),
            Job(ComposedConfig(config, whole), overrides_of(whole)[1]),
        )
        if known.mode.name == "MULTIRUN":  # another launcher's: one cell of a sweep
            from expkit.sweep.cells import run_cell

            return run_cell(one, folder)
        try:
            claims.hold_folder(
                folder,
                claims.written_names(known.runtime.choices.task, known.runtime.choices.logger),
                not is_follower_process(),
            )
            result = run_job(one, folder, leads=not is_follower_process())
            if result.leads:
                print(result.folder)
        except Exception as error:
            failed.append(error)

    return job


def report_interrupt(said: str, kept: list[Path]) -> int:
    """Say what is left of a command that was interrupted, if nobody has said more; the exit code."""
    ended, left = (
        signal.SIGTERM in interrupts.CAME,
        f"what was finished is kept in {kept[0]}" if kept else "nothing was finished yet.",
    )
    if not is_follower_process():
        print(f"expkit: {'ended by SIGTERM' if ended else 'interrupted'}; {said or left}", file=sys.stderr)
    return 143 if ended else 130


if __name__ == "__main__":
    main()
