"""python -m expkit: a Hydra app. Config in, a run's folder out. Nothing but Hydra is imported until a job runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from expkit import command
from expkit.arguments import CommandLine


def main() -> None:
    """The console script. Exit codes: 0 done, 1 made again but not the same, 2 refused with a sentence, 130 interrupted."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(command.manual())
        return
    full, failed = os.environ.get("HYDRA_FULL_ERROR"), []
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us whole; what a person sees of them is decided below
    code = 0
    try:
        code = chosen(arguments, failed)()
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as left:  # Hydra's own, which has said why
        sys.exit(2 if left.code == 1 else left.code)
    except Exception as error:
        failed.append(error)
    for error in failed:
        said = command.sentence(error, arguments)
        if said is None or (full and not follows()):  # who follows was started with what is set above
            raise error
        if not follows():
            print(f"expkit: {said}", file=sys.stderr)
    sys.exit(2 if failed else code or 0)


def chosen(arguments: list[str], failed: list[Exception]) -> Callable[[], int | None]:
    """What a command asks for: a run or a sweep, by Hydra, or one of the few things that have words of their own."""
    for argument in arguments:
        word, _, value = argument.partition("=")
        if word in OWN and (value or word != "replay"):
            return OWN[word](value, [other for other in arguments if other is not argument])
    line = CommandLine.of(arguments)
    command.check_overrides(line.overrides)
    placed = []
    if line.many:
        from expkit.sweep import names

        folder = names.folder(line)
        if names.finished(folder, line):
            return lambda: print(folder)
        placed = names.placed(folder, line)
    sys.argv[1:] = [*line.typed, *placed]
    return app(failed)


def replay(file: str, rest: list[str]) -> Callable[[], int]:
    from expkit.replay import replay

    return lambda: replay(file, rest)


def dashboard(_: str, rest: list[str]) -> Callable[[], int]:
    from expkit.sweep.dashboard import serve

    return lambda: serve(rest)


def page(_: str, rest: list[str]) -> Callable[[], int]:
    from expkit.sweep.app import serve

    return lambda: serve(rest)


OWN = {"replay": replay, "dashboard": dashboard, "app": page}  # words that Hydra never hears of


def app(failed: list[Exception]):
    """The Hydra app; a job's error is kept in `failed`."""
    import warnings

    import hydra

    from expkit import resolvers

    resolvers.READ.clear()
    warnings.filterwarnings("error", message=r"provider=hydra\.searchpath.* is not available")  # as which it is told

    @hydra.main(config_path=str(command.configuration()), config_name="config", version_base="1.3")
    def job(config) -> None:
        from hydra.core.hydra_config import HydraConfig

        from expkit.job import Composed, Job, overrides_of, run

        known = HydraConfig.get()
        whole = HydraConfig.instance().cfg
        folder, one = Path(known.runtime.output_dir), Job(Composed(config, whole), overrides_of(whole)[1])
        if known.mode.name == "MULTIRUN":  # another launcher's: one cell of a sweep
            from expkit.sweep.cells import alone

            return alone(one, folder)
        try:
            result = run(one, folder, leads=not follows())
            if result.leads:
                print(result.folder)
        except Exception as error:
            failed.append(error)
            swept(folder)
        except KeyboardInterrupt:
            kept = "nothing was finished yet." if swept(folder) else f"what was finished is kept in {folder}"
            print(f"expkit: interrupted; {kept}", file=sys.stderr)
            raise

    return job


def swept(folder: Path) -> bool:
    """Remove a run's folder if it holds nothing but a recipe."""
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {"recipe.yaml"}:
        return False
    shutil.rmtree(folder)
    return True


def follows() -> bool:
    """Whether this is one of several processes of a training and not the first: Lightning, torchrun and SLURM number them."""
    return any(int(os.environ.get(name) or 0) for name in ("LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID"))


if __name__ == "__main__":
    main()
