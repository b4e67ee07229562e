"""Make a picture again from the recipe inside it: python -m expkit replay=FILE.png, or replay=FOLDER for all of a run's.

The whole batch that it was made in is sampled again, for a network's last bits depend on how many rows it is asked at once; so on the
same device the pictures are equal to the bit. Where they are not, what differs is said.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from expkit.errors import UserError
from expkit.images import image_io
from expkit.results.claims import ALWAYS, SAMPLED, hold_folder
from expkit.results.run_folder import Result
from expkit.runs.job import instantiate, resident, user_files
from expkit.runs.recipe import Recipe, current_facts
from expkit.storage import inputs

RECIPE = "recipe.yaml"


def replay_picture(place: str, arguments: Sequence[str]) -> int:
    """Exit code: 0 where the pictures are equal, 1 where they differ."""
    if arguments:
        raise UserError(
            f"replay={place} takes nothing else, and was given {' '.join(arguments)}: the recipe inside it says all."
        )
    path = Path(place)
    recipe, wanted = open_recipe(path)
    folder = Path("outputs/replay") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{uuid.uuid4().hex[:6]}"
    hold_folder(folder, (*ALWAYS, *SAMPLED))
    result = run_again(recipe, folder)
    apart = {name: largest_difference(Image.open(old), result.folder / name) for name, old in wanted.items()}
    result.numbers |= {
        "replayed": str(path),
        "largest_difference_in_grey_levels": {k: v for k, v in apart.items() if v is not None},
    }
    result.finish()
    print("\n".join(comparison_report(apart, recipe.facts, facts_of(recipe))), file=sys.stderr)
    print(result.folder)
    return int(any(apart.values()) or None in apart.values())


def open_recipe(path: Path) -> tuple[Recipe, dict[str, Path]]:
    """A recipe, and the pictures to compare with: {their names in a run's folder: where they are}."""
    if path.is_dir():
        if not (path / RECIPE).is_file():
            raise UserError(
                f"The folder {path} is no run of expkit's: it has no {RECIPE}. Give a run's folder, or one of its pictures."
            )
        found = sorted(path.glob("pictures/*.png")) or [path / "picture.png"]
        wanted = {str(file.relative_to(path)): file for file in found if file.is_file()}
        return Recipe.read((path / RECIPE).read_text(encoding="utf-8"), str(path)), wanted
    if not path.is_file():
        raise UserError(
            f"There is no file or folder {path} to make again: give a picture of expkit's, or the folder of a run."
        )
    text = image_io.recipe_of(path)
    return Recipe.read(text, str(path)), {image_io.name_of(path): path}


def facts_of(recipe: Recipe) -> Mapping[str, str]:
    return current_facts(resident.model(), user_files(inputs.input_hashes(recipe.config)))


def run_again(recipe: Recipe, folder: Path) -> Result:
    """The run, with all pictures of its batch, written into this folder."""
    from expkit.tasks.sampling import Part

    ran = recipe.ran
    task = resident.task({**recipe.config, "task": ran["task"]})
    result = Result(
        folder,
        replace(recipe, facts=facts_of(recipe)).text,
        instantiate({"_target_": "expkit.results.run_folder.NullLogger"}),
    )
    if ran["pictures"]:
        (write,) = task.together([Part(range(*ran["pictures"]), ran["cells"], ran["note"])], result.say)
        write(result)
    else:
        task(result)
    return result


def largest_difference(old: Image.Image, new: Path) -> int | None:
    """The largest difference in grey levels; None where they are not of one size, or there is no new one."""
    if not new.is_file():
        return None
    a, b = (np.asarray(image, dtype=np.int16) for image in (old, Image.open(new)))
    return int(np.abs(a - b).max()) if a.shape == b.shape else None


def comparison_report(
    apart: Mapping[str, int | None], then: Mapping[str, str], now: Mapping[str, str]
) -> list[str]:
    """What came of it, in sentences."""
    wrong = {name: by for name, by in apart.items() if by != 0}
    if not wrong:
        return [f"equal to the bit: {', '.join(apart)}"]
    lines = [
        f"{name} differs: " + ("it is of another size" if by is None else f"by up to {by} grey levels")
        for name, by in wrong.items()
    ]
    changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    other = [f"  {key}: {then.get(key, 'unknown')} then, {now.get(key, 'unknown')} now" for key in changed]
    return lines + (
        ["What is not as it was:", *other] if other else ["Versions, weights and device are as they were."]
    )
