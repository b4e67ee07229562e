"""Repeat a run from its recipe: python -m expkit replay=FILE.png, or replay=FOLDER.

FOLDER repeats all pictures of a run. The whole batch of the run is sampled again, because the last
bits of a network's output depend on the number of rows in a forward pass. So the pictures are equal
to the bit on the same device. If they are not, the differences are reported.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from expkit.errors import UserError
from expkit.images import image_io
from expkit.results.claims import ALWAYS, RECIPE, SAMPLED, hold_folder
from expkit.results.run_folder import RunFolder
from expkit.runs.job import instantiate, resident, user_files
from expkit.runs.recipe import Recipe, current_facts
from expkit.storage import inputs

LOGGER = logging.getLogger("expkit")


def replay_picture(place: str, arguments: Sequence[str]) -> int:
    """Repeat the run of a picture or folder, and compare the pictures.

    Args:
        place: The picture or folder.
        arguments: Further arguments of the command, which are not allowed.

    Returns:
        The exit code: 0 if the pictures are equal, 1 if they differ.
    """
    if arguments:
        raise UserError(
            f"replay={place} takes nothing else, and was given {' '.join(arguments)}: "
            "the recipe inside it says all."
        )
    path = Path(place)
    recipe, old_pictures = open_recipe(path)
    folder_name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{uuid.uuid4().hex[:6]}"
    folder = Path("outputs/replay") / folder_name
    hold_folder(folder, (*ALWAYS, *SAMPLED))
    result = run_again(recipe, folder)
    differences = {}
    for name, old in old_pictures.items():
        differences[name] = find_difference(Image.open(old), result.folder / name)
    comparable = {name: value for name, value in differences.items() if isinstance(value, int)}
    result.numbers |= {
        "replayed": str(path),
        "largest_difference_in_grey_levels": comparable,
    }
    result.finish()
    report = comparison_report(differences, recipe.facts, facts_of(recipe))
    LOGGER.info("\n".join(report))
    print(result.folder)
    return int(any(differences.values()))


def open_recipe(path: Path) -> tuple[Recipe, dict[str, Path]]:
    """Read the recipe of a picture or folder.

    Returns:
        The recipe, and the pictures to compare with: {name in the run's folder: path}.

    Raises:
        UserError: There is no file or folder, or it has no recipe.
    """
    if path.is_dir():
        if not (path / RECIPE).is_file():
            raise UserError(
                f"The folder {path} is no run of expkit's: it has no {RECIPE}. "
                "Give a run's folder, or one of its pictures."
            )
        files = sorted(path.glob("pictures/*.png")) or [path / "picture.png"]
        pictures = {str(file.relative_to(path)): file for file in files if file.is_file()}
        return Recipe.read((path / RECIPE).read_text(encoding="utf-8"), str(path)), pictures
    if not path.is_file():
        raise UserError(
            f"There is no file or folder {path} to make again: "
            "give a picture of expkit's, or the folder of a run."
        )
    text = image_io.recipe_of(path)
    return Recipe.read(text, str(path)), {image_io.name_of(path): path}


def facts_of(recipe: Recipe) -> Mapping[str, str]:
    """The present facts of a recipe: versions, weights, device and hashes of input files."""
    return current_facts(resident.model(), user_files(inputs.input_hashes(recipe.config)))


def run_again(recipe: Recipe, folder: Path) -> RunFolder:
    """Repeat a run with all pictures of its batch, and write it to a folder."""
    from expkit.tasks.sampling import RunRows

    ran = recipe.ran
    task = resident.task({**recipe.config, "task": ran["task"]})
    result = RunFolder(
        folder,
        replace(recipe, facts=facts_of(recipe)).text,
        instantiate({"_target_": "expkit.results.NullLogger"}),
    )
    if ran["pictures"]:
        part = RunRows(range(*ran["pictures"]), ran["cells"], ran["note"])
        (write,) = task.sample_batch([part], result.say)
        write(result)
    else:
        task(result)
    return result


def find_difference(old: Image.Image, new: Path) -> int | str:
    """The largest difference in grey levels, or a text that says why there is none."""
    if not new.is_file():
        return "it was not made again"
    old_pixels = np.asarray(old, dtype=np.int16)
    new_pixels = np.asarray(Image.open(new), dtype=np.int16)
    if old_pixels.shape != new_pixels.shape:
        return "it is of another size"
    return int(np.abs(old_pixels - new_pixels).max())


def comparison_report(
    apart: Mapping[str, int | str], then: Mapping[str, str], now: Mapping[str, str]
) -> list[str]:
    """The result of the comparison as lines of text.

    Args:
        apart: {name of a picture: what `find_difference` returns}.
        then: The facts in the recipe.
        now: The present facts.
    """
    wrong = {name: difference for name, difference in apart.items() if difference != 0}
    if not wrong:
        return [f"equal to the bit: {', '.join(apart)}"]
    lines = []
    for name, difference in wrong.items():
        is_number = isinstance(difference, int)
        reason = f"by up to {difference} grey levels" if is_number else difference
        lines.append(f"{name} differs: {reason}")
    changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if not changed:
        return [*lines, "Versions, weights and device are as they were."]
    lines.append("What is not as it was:")
    for name in changed:
        before, after = then.get(name, "unknown"), now.get(name, "unknown")
        lines.append(f"  {name}: {before} then, {after} now")
    return lines
