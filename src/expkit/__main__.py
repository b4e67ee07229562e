"""python -m expkit: a Hydra app. Config in, a run's folder out. Nothing but Hydra is imported until a job runs."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from itertools import product
from pathlib import Path

from expkit import command
from expkit.errors import Refusal

SAID = ("prompt", "far", "middle", "near", "grey", "colour", "moving", "still", "first", "second", "upright", "turned")
AXES = (*SAID, "negative", "gamma", "image", "i_start", "seed")


def main() -> None:
    """The console script. Exit codes: 0 done, 2 refused with a sentence, 130 interrupted."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(command.manual())
        return
    for flag in {"-m", "--multirun"} & set(arguments):  # Hydra takes it before the overrides only
        sys.argv[1:] = [flag, *[a for a in arguments if a != flag]]
    full, failed = os.environ.get("HYDRA_FULL_ERROR"), []
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us whole; what a person sees of them is decided below
    try:
        command.check_additions(arguments)
        app(failed)()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        failed.append(error)
    for error in failed:
        said = str(error) if isinstance(error, Refusal) else command.sentence(error, arguments)
        if said is None or (full and not follows()):  # who follows was started with what is set above
            raise error
        if not follows():
            print(f"expkit: {said}", file=sys.stderr)
    sys.exit(2 if failed else 0)


def app(failed: list[Exception]):
    """The Hydra app; a job's error is kept in `failed`, so that the other jobs of a sweep go on."""
    import hydra
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("short_id", lambda: uuid.uuid4().hex[:6], use_cache=True, replace=True)
    OmegaConf.register_new_resolver("either", lambda value, other: other if value is None else value, replace=True)
    OmegaConf.register_new_resolver("said", said, replace=True)
    OmegaConf.register_new_resolver("example", example, replace=True)
    OmegaConf.register_new_resolver("prompt_of", prompt_of, replace=True)
    OmegaConf.register_new_resolver("says", says, replace=True)
    OmegaConf.register_new_resolver("model_named", model_named, replace=True)
    OmegaConf.register_new_resolver("range", lambda first, end: OmegaConf.create([*range(first, end)]), replace=True)
    OmegaConf.register_new_resolver("chosen", lambda group, *, _root_: _root_[group], replace=True)

    @hydra.main(config_path=str(command.configuration()), config_name="config", version_base="1.3")
    def job(config) -> None:
        from hydra.core.hydra_config import HydraConfig

        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            run(config, folder)
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


def said(*, _parent_, _root_):
    """What a part of an estimate says: the key of its own name if there is one (far, near, …), else `prompt`."""
    name = _parent_._key()
    key = name if name in _root_ else "prompt"
    if _root_[key] is None:
        raise Refusal(f"This model has no prompt of its own for {key!r}: say one with {key}=….")
    return _root_[key]


def example(key: str, *, _root_):
    """What the model shows where nothing is said, if it has something: model.examples."""
    from omegaconf import OmegaConf

    return OmegaConf.select(_root_, f"model.examples.{key}")


def says(text: str, *, _root_) -> str:
    """A caption of the source write-up in words that the model knows: model.says translates it where there is a need."""
    return (_root_.model.get("says") or {}).get(text, text)


def prompt_of(part: str, *, _root_):
    """What a part of an estimate says, if it says one thing; "" if it is made of parts itself."""
    from omegaconf import OmegaConf

    return OmegaConf.select(_root_, f"{part}.prompt", default="")


def model_named(*, _root_) -> str:
    """The chosen model, and its weights where they are said by another name."""
    from hydra.core.hydra_config import HydraConfig

    model, weights = HydraConfig.get().runtime.choices.model, _root_.model.get("weights")
    return f"{model}, weights {weights}" if isinstance(weights, str) and weights != model else model


def run(config, folder: Path) -> None:
    """One job: the task is built from the configuration, writes into its folder, and the folder's path is the last line printed."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    command.check_values(OmegaConf.to_container(config, resolve=True))
    recipe = OmegaConf.to_yaml(config, resolve=True)
    batched(config)
    from expkit.result import Result, provenance

    task, leads = built(instantiate, config.task), not follows()
    result = Result(folder, provenance(sys.argv[1:]) + recipe, built(instantiate, config.logger)["mirror"], leads)
    task(result)
    result.finish()
    if leads:
        print(result.folder)


def follows() -> bool:
    """Whether this is one of several processes of a training and not the first: Lightning, torchrun and SLURM number them."""
    return any(int(os.environ.get(name) or 0) for name in ("LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID"))


def built(instantiate, node):
    """The objects of a node. A refusal inside is passed on as it is, not wrapped in Hydra's."""
    from hydra.errors import InstantiationException

    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, Refusal | OSError | KeyboardInterrupt):
            raise error.__cause__ from None
        raise


def batched(config) -> None:
    """Lists among the keys that the task uses become a batch: every combination is a wish, and every wish has its samples.

    Afterwards each such key has one value a picture, and `cells` what distinguishes the wishes.
    """
    from omegaconf import ListConfig, OmegaConf

    if "note" in config.task:
        config.task.note = config.task.note  # as it reads before the lists become long
    used = [key for key in AXES if isinstance(config[key], ListConfig) and uses(config, key)]
    cells = [dict(zip(used, values, strict=True)) for values in product(*[config[key] for key in used])]
    samples = config.task.get("samples") or 1
    for key in used:
        config[key] = [cell[key] for cell in cells for _ in range(samples)]
    OmegaConf.update(config, "cells", cells, merge=False)


def uses(config, key: str) -> bool:
    """Whether a key has a say in what is sampled: whether a mark put in its place turns up there."""
    from omegaconf import OmegaConf

    probe = config.copy()
    probe[key] = f"<{key}>"
    parts = [probe.task.get(part) for part in ("estimate", "pin")]
    return key == "seed" or any(f"<{key}>" in OmegaConf.to_yaml(part, resolve=True) for part in parts if part is not None)


if __name__ == "__main__":
    main()
