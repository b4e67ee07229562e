"""What a result is made from: a sweep is answered from disk only where all of it is as it was, and shown commands make the same again."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml
from PIL import Image

from expkit.config import checks
from expkit.config.command_line import CommandLine, shell_command, without_hydra
from expkit.errors import UserError
from expkit.runs.job import ModelCache, config_hash
from expkit.runs.recipe import describe_device
from expkit.storage import inputs
from expkit.storage.files import short_hash
from expkit.sweep import names
from tests.sweep.test_sweeper import table

slow = partial(pytest.param, marks=pytest.mark.slow)
QUICK = ("model=digits", "logger=none", "samples=1", "steps=3")


@pytest.fixture
def swept(expkit):
    def run(*arguments: str):
        done = expkit("-m", *QUICK, *arguments)
        assert done.code == 0, done.err
        return done

    return run


def cells(done) -> set[str]:
    return {row["cell"] for row in table(done.folder)}


def experiment(folder: str, prompt: object, name: str = "sw") -> None:
    place = Path(folder, "experiment", f"{name}.yaml")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"# @package _global_\n# made for a test\nprompt: {prompt}\n")


def picture(path: str | Path, level: int) -> Path:
    Image.new("L", (28, 28), level).save(path, format="BMP")  # of one size whatever the level
    return Path(path)


def as_if_never_touched(path: Path, write) -> None:
    """Another content of the same size under the same time, as cp -p and touch -r leave it."""
    was = path.stat()
    write()
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)


# ---- a finished sweep


def test_a_finished_sweep_is_answered_at_once_and_again_where_a_variable_is_another(swept, monkeypatch):
    command = ("prompt=${oc.env:P}", "gamma=1,5")
    monkeypatch.setenv("P", "3")
    first = swept(*command)
    known, again = cells(first), swept(*command)
    assert again.folder == first.folder and not again.err
    monkeypatch.setenv("P", "8")
    other = swept(*command)
    assert (
        other.folder == first.folder
        and "2 cells, 0 of them there already" in other.err
        and not known & cells(other)
    )
    assert {row["command"].partition(" ")[0] for row in table(other.folder)} == {"P=8"}, (
        "the sheet shows the cells of the last command"
    )
    monkeypatch.setenv("P", "3")
    assert "2 of them there already" in swept(*command).err


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("prompt=猫", ["猫"]),
        ("prompt=猫,un café à Zürich , a dog", ["猫", "un café à Zürich", "a dog"]),
        ('prompt="猫, собака",🦊', ["猫, собака", "🦊"]),
        ("prompt=[猫,a dog]", [["猫", "a dog"]]),
        ("prompt=choice(été,3)", ["été", 3]),
        ("prompt=été: la mer", ["été: la mer"]),
        ("hydra.run.dir=dépôt/a b", ["dépôt/a b"]),
        ("prompt='ß'", ["ß"]),
        ("prompt=a dog,3", ["a dog", 3]),
    ],
)
def test_letters_of_any_script_need_no_quotes(typed, values):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (told,) = CommandLine.of([typed]).overrides
    read = OverridesParser.create().parse_override(told)
    plain = lambda value: [*map(plain, value)] if isinstance(value, list) else getattr(value, "text", value)
    assert plain([*read.sweep_iterator()] if read.is_sweep_override() else [read.value()]) == values


@pytest.mark.parametrize(
    "typed", ["prompt=l'été", "prompt={a:é}", "prompt=${oc.env:É}", "prompt=a\\,é", "prompt=a dog", "~prompt"]
)
def test_what_has_quotes_braces_or_escapes_of_its_own_stays_as_it_is(typed):
    assert CommandLine.of([typed]).overrides == (typed,)


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:P,3}",
        *map(slow, ['"${oc.decode:${oc.env:P}}"', '"${oc.env:${oc.env:NAME}}"', "[${oc.env:P},2]"]),
    ],
)
def test_a_variable_counts_wherever_it_stands(value, swept, monkeypatch):
    monkeypatch.setenv("NAME", "P")
    monkeypatch.setenv("P", "4")
    assert swept(f"prompt={value}", "seed=1,2").err and not swept(f"prompt={value}", "seed=1,2").err
    monkeypatch.setenv("P", "5")
    assert "0 of them there already" in swept(f"prompt={value}", "seed=1,2").err


def test_a_variable_in_yaml_counts_and_one_that_was_not_set(swept, monkeypatch):
    experiment("mine", "${oc.env:P,3}")
    monkeypatch.delenv("P", raising=False)
    command = ("--config-dir", "mine", "experiment=sw", "seed=1,2")
    assert swept(*command).err and not swept(*command).err
    monkeypatch.setenv("P", "7")
    assert "0 of them there already" in swept(*command).err


@pytest.mark.parametrize(
    "form",
    [
        "--config-dir {}",
        "hydra.searchpath=[file://{}]",
        *map(slow, ["--config-dir={}", "-cd {}", "hydra.searchpath=[{}]"]),
    ],
)
def test_a_folder_of_yaml_counts_by_its_name_and_by_what_is_in_it(form, swept):
    experiment("A", 3)
    experiment("B", 8)
    command = lambda folder: (*form.format(folder).split(), "experiment=sw", "gamma=1,5")
    first, other = swept(*command("A")), swept(*command("B"))
    assert (
        "0 of them there already" in other.err
        and cells(first) & cells(other) == set()
        and first.folder != other.folder
    )
    assert not swept(*command("A")).err
    file = Path("A/experiment/sw.yaml")
    as_if_never_touched(file, lambda: experiment("A", 4))
    assert "0 of them there already" in swept(*command("A")).err
    assert not swept(*command("B")).err


def test_another_first_file_of_yaml_counts(swept):
    Path("mine").mkdir()
    Path("mine/first_file.yaml").write_text("defaults: [config, _self_]\nprompt: 4\n")
    command = ("--config-dir=mine", "--config-name=first_file", "seed=1,2")
    first = swept(*command)
    assert (
        "--config-name=first_file --config-dir=mine" in table(first.folder)[0]["command"]
        and not swept(*command).err
    )
    Path("mine/first_file.yaml").write_text("defaults: [config, _self_]\nprompt: 5\n")
    assert "0 of them there already" in swept(*command).err


@pytest.mark.parametrize(
    "name", ["~/p.png", *map(slow, ["p.png", "file://{home}/p.png", "file://{home}/p%2Epng"])]
)
def test_a_picture_counts_by_what_is_in_it_however_it_is_named(name, swept, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    picture("p.png", 90)
    command = ("task=sdedit", "i_start=1", f'image="{name.format(home=tmp_path)}"', "seed=1,2")
    assert swept(*command).err and not swept(*command).err
    as_if_never_touched(Path("p.png"), lambda: picture("p.png", 160))
    assert "0 of them there already" in swept(*command).err
    picture("p.png", 90)
    assert "2 of them there already" in swept(*command).err, "the first picture's cells are there still"


def test_another_home_counts_where_it_is_named(swept, tmp_path, monkeypatch):
    for name, level in (("one", 90), ("two", 160)):
        (tmp_path / name).mkdir()
        picture(tmp_path / name / "p.png", level)
    command = ("task=sdedit", "i_start=1", 'image="~/p.png"', "seed=1,2")
    monkeypatch.setenv("HOME", str(tmp_path / "one"))
    assert swept(*command).err
    monkeypatch.setenv("HOME", str(tmp_path / "two"))
    assert "0 of them there already" in swept(*command).err


def test_a_file_that_takes_the_name_of_a_picture_that_ships_counts(swept):
    command = ("task=sdedit", "i_start=1", "image=[smiley,cat]", "seed=1,2")
    assert swept(*command).err and not swept(*command).err
    picture("smiley", 90)
    assert "0 of them there already" in swept(*command).err


def test_cells_that_were_removed_or_damaged_are_made_again_and_what_is_left_of_them_stays(swept):
    command = ("prompt=1,2,3,4",)
    done = swept(*command)
    pixels = lambda: {
        name: Image.open(done.folder / "cells" / name / "pictures/000.png").tobytes() for name in cells(done)
    }
    known = pixels()
    one, two, three, four = (done.folder / "cells" / name for name in sorted(known))
    shutil.rmtree(one)
    (two / "numbers.json").unlink()
    (three / "pictures/000.png").write_bytes(b"nothing")
    (four / "notes.txt").write_text("mine")
    (two / "notes.txt").write_text("mine")
    again = swept(*command)
    assert "1 of them there already" in again.err and pixels() == known
    assert (four / "notes.txt").is_file() and (two.with_name(f"{two.name}.damaged1") / "notes.txt").is_file()
    assert not swept(*command).err


def test_a_moved_sweep_is_whole(swept):
    done = swept("prompt=1,2", "hydra.sweep.dir=here")
    shutil.copytree(done.folder, "there")  # with times of its own
    assert not swept("prompt=1,2", "hydra.sweep.dir=there").err


def test_checking_a_finished_sweep_imports_nothing_and_costs_less_than_three_pages_of_help(swept, tmp_path):
    told = ["-m", *QUICK, "gamma=1,5", "seed=1,2"]
    swept(*told[len(QUICK) + 1 :])
    time.sleep(2.1)  # until nothing has been written just before

    def took(arguments: list[str]) -> tuple[float, set]:
        code = (
            f"import sys, time; sys.argv = ['expkit', *{arguments!r}]; began = time.process_time(); import expkit.__main__ as m\n"
            "try: m.main()\nexcept SystemExit: pass\n"
            "print(time.process_time() - began, *{'hydra', 'yaml', 'torch', 'omegaconf'} & set(sys.modules))"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        seconds, *imported = ran.stdout.splitlines()[-1].split()
        return float(seconds), set(imported)

    checked, helped = [took(told) for _ in range(5)], [took(["--help"]) for _ in range(5)]
    assert not set().union(*(imported for _, imported in checked))
    assert min(seconds for seconds, _ in checked) < 3 * min(seconds for seconds, _ in helped)


# ---- what is read


def test_a_folder_counts_by_the_names_and_contents_below_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "D/a/deep").mkdir(parents=True)
    picture("D/a/deep/1.png", 1)
    (tmp_path / "D/a/round").symlink_to(tmp_path / "D")
    (tmp_path / "D/a/broken").symlink_to("nothing")
    (tmp_path / "elsewhere").mkdir()
    picture("elsewhere/2.png", 2)
    (tmp_path / "D/b").symlink_to(tmp_path / "elsewhere")
    config = {"data": {"folder": "D"}, "model": {"parts": [{"weights": "~/w"}]}, "logger": "D", "prompt": "D"}
    seen = [config_hash(config)]
    for change in (
        lambda: picture("D/a/deep/3.png", 3),
        lambda: os.rename("D/a/deep/3.png", "D/a/deep/4.png"),
        lambda: picture("elsewhere/2.png", 5),
        lambda: os.unlink("D/a/broken"),
        lambda: shutil.rmtree("elsewhere"),
    ):
        change()
        seen.append(config_hash(config))
    assert len(set(seen)) == len(seen)
    shutil.copytree("D/a/deep", "copy")
    (tmp_path / "D/.hidden").write_text("no matter")
    assert config_hash(config) == seen[-1]


def test_what_is_read_where_nothing_is_named_counts(tmp_path, monkeypatch):
    train = {"task": {"data": {"pictures": {"_target_": "expkit.data.mnist", "folder": None}}}}
    seen = []
    for name in ("one", "two"):
        (tmp_path / name / "mnist").mkdir(parents=True)
        (tmp_path / name / "mnist" / "raw").write_text(name)
        monkeypatch.setenv("EXPKIT_DATA", str(tmp_path / name))
        seen.append(config_hash(train))
    assert seen[0] != seen[1] and config_hash({**train, "task": {}}) not in seen
    assert inputs.config_names(
        {"model": {"judges": {"first": {"_target_": "expkit.metrics.first_digit_judge"}}}}
    ) == ["judge_first"]
    assert set(
        inputs.input_hashes({"image": "cat", "model": {"weights": "digits"}, "store": "x", "negative": "cat"})
    ) == {"cat", "digits"}


def test_an_old_address_is_the_same_as_the_present_one():
    tasks = [{"task": {"pictures": [{"_target_": address}]}} for address in (
        "expkit.training.data.mnist", "expkit.data.datasets.mnist", "expkit.data.mnist", "expkit.data.kmnist",
    )]  # fmt: skip
    assert len({config_hash(task) for task in tasks[:3]}) == 1 != len({config_hash(task) for task in tasks})
    assert [inputs.config_names(task) for task in tasks[:3]] == [["mnist at hand"]] * 3


def test_what_ships_counts_by_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "WEIGHTS", tmp_path)
    seen = []
    for sha in ("1", "2"):
        (tmp_path / "digits.json").write_text(sha)
        seen.append(config_hash({"model": {"weights": "digits"}}))
    assert seen[0] != seen[1]


def test_the_newest_weights_are_those_of_when_it_was_made(expkit, tmp_path):
    def trained(name: str, weights: str) -> None:
        Path("outputs/train", name).mkdir(parents=True)
        shutil.copyfile(inputs.WEIGHTS / f"{weights}.safetensors", f"outputs/train/{name}/model.safetensors")

    command = (
        "model=trained",
        "model.precision=float32",
        "logger=none",
        "samples=1",
        "steps=3",
        "prompt=3",
        "seed=1,2",
    )
    trained("first", "digits")
    first = expkit("-m", *command)
    assert first.code == 0, first.err
    row = table(first.folder)[0]
    assert (
        row["command"].endswith(" model.weights=outputs/train/first/model.safetensors")
        and not expkit("-m", *command).err
    )
    time.sleep(0.02)
    trained("second", "class_conditional")
    alone = pasted(row["command"], tmp_path)
    assert alone.returncode == 0, alone.stderr
    file = Path(alone.stdout.splitlines()[-1], "pictures/000.png")
    assert (
        Image.open(file).tobytes() == Image.open(first.folder / row["folder"] / "pictures/000.png").tobytes()
    )
    assert expkit(f"replay={first.folder / row['folder']}").code == 0
    assert "0 of them there already" in expkit("-m", *command).err


def test_large_files_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "WHOLE", 1000)
    file = tmp_path / "large"
    file.write_bytes(bytes(1_000_003))
    first = inputs.path_digest(file)
    os.utime(file, ns=(1, 1))
    assert inputs.path_digest(file) != first


# ---- commands that are shown

WEIRD = [
    "a, b",
    "it's [x]",
    'say "hi"',
    "costs $5!",
    "café 猫",
    "two\nlines",
    "back\\slash",
    "a: b # c",
    "tab\there",
]


@pytest.mark.parametrize("value", WEIRD)
def test_a_shell_reads_what_is_shown_as_it_was_typed(value):
    arguments = [f"negative={value}", "gamma=1"]
    told = shell_command(arguments, {"P": value})
    assert "\n" not in told and told.startswith("P=")
    read = subprocess.run(
        ["bash", "-c", 'python() { printf "%s\\0" "$P" "$@"; }; ' + told],
        capture_output=True,
        text=True,
        check=True,
    )
    assert read.stdout.split("\0")[:-1] == [value, "-m", "expkit", *arguments]


def pasted(command: str, folder: Path) -> subprocess.CompletedProcess:
    """A shown command in a shell, with this Python."""
    path = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (folder / "bin/python").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "WORD"}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=folder, env=environment | path
    )


def test_the_commands_that_table_page_and_recipe_show_make_the_same(swept, tmp_path, monkeypatch):
    experiment("my own", "${oc.env:WORD}")
    monkeypatch.setenv("WORD", "8")
    done = swept(
        "-cd", "my own", "experiment=sw", "model.precision=float32", "gamma=1,5", "negative='',\"3\""
    )
    row = next(row for row in table(done.folder) if row["gamma"] == "5")
    recipe = (done.folder / row["folder"] / "recipe.yaml").read_text().splitlines()[0]
    assert recipe == f"# {row['command']}" and row["command"].startswith(
        "WORD=8 python -m expkit '--config-dir=my own' "
    )
    alone = pasted(row["command"], tmp_path)
    assert alone.returncode == 0, alone.stderr
    made = Path(alone.stdout.splitlines()[-1]) / "pictures/000.png"
    assert (
        Image.open(made).tobytes()
        == Image.open(done.folder / row["picture"].replace("picture.png", "pictures/000.png")).tobytes()
    )
    whole = re.search(
        r'"command": ?"(WORD=8 python -m expkit -m .*?[^\\])"', (done.folder / "index.html").read_text()
    )[1]
    again = pasted(whole.encode().decode("unicode_escape"), tmp_path)
    assert again.returncode == 0 and Path(tmp_path, again.stdout.splitlines()[-1]) == done.folder.resolve(), (
        again.stderr
    )
    assert "sweep:" not in again.stderr, "it is the command that is finished"


def test_a_cell_of_an_experiment_that_sweeps_by_itself_is_one_run(expkit, tmp_path):
    experiment("mine", "3\nhydra: {mode: MULTIRUN, sweeper: {params: {gamma: '1,5'}}}")
    done = expkit("-cd", "mine", "experiment=sw", *QUICK)
    assert done.code == 0, done.err
    row = table(done.folder)[1]
    assert row["gamma"] == "5" and row["command"].count("hydra.mode=RUN") == 1
    alone = pasted(row["command"], tmp_path)
    assert alone.returncode == 0 and "/sample/" in alone.stdout and "sweep:" not in alone.stderr, alone.stderr
    told = expkit("-m", "-cd", "mine", "experiment=sw", "gamma=1", *QUICK)
    assert told.code == 0 and len(table(told.folder)) == 1, "what is told replaces what the experiment sweeps"


def test_a_prompt_of_two_lines_is_made_again_from_its_recipe(expkit):
    done = expkit("task=sample", *QUICK, 'negative="3"', 'prompt="three\n"')
    assert done.code == 0, done.err
    text = (done.folder / "recipe.yaml").read_text()
    assert text.splitlines()[0].endswith("""$'prompt="three\\012"'""") and isinstance(
        yaml.safe_load(text), dict
    )
    again = expkit(f"replay={done.folder}")
    assert again.code == 0 and "equal to the bit" in again.err


# ---- the command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--config-dir", "nowhere"],
            "--config-dir expects a folder of YAML files, and 'nowhere' is not there",
        ),
        (["-m", "--cfg", "job"], "--multirun and --cfg do not go together"),
        (["--cfg", "nonsense"], "invalid choice: 'nonsense'"),
        (["--resolve"], "add --cfg job"),
        (["--package", "model"], "add --cfg job"),
        (["--shell-completion"], "needs one of install=SHELL"),
        (["--gamma=7"], "Keys are set without dashes: gamma=7"),
        (["--multi-run"], "Did you mean --multirun?"),
        ([""], "which has no key"),
        (["=3"], "which has no key"),
    ],
)
def test_options_that_do_not_fit_are_sentences(arguments, said):
    with pytest.raises(UserError, match=re.escape(said)):
        CommandLine.of(arguments)


def test_options_and_keys_may_stand_in_any_order():
    line = CommandLine.of(["gamma=1", "-m", "-cn", "other", "seed=2", "--multirun", "~a.b"])
    assert line.typed == ["--multirun", "--config-name=other", "gamma=1", "seed=2", "~a.b"] and line.many


@pytest.mark.parametrize(
    "prompt", ["a dog's house", "an old man (1900)", 'a "cat", "b', 'a, "b', "it's [x}", "back\\slash, (x"]
)
def test_what_is_suggested_for_a_text_that_cannot_be_read_can_be_pasted(prompt, expkit):
    said = expkit("task=sample", f"prompt={prompt}").err
    suggested = shlex.split(
        said.partition("quotes inside quotes: " if "cannot be read" in said else "for one text ")[2]
    )
    assert len(suggested) == 1, said
    assert f"does not know the prompt {prompt!r}" in expkit("task=sample", *suggested).err


MINE = {
    "broken": ("a: [1, 2\nb: : :\n", "broken.yaml, line 2, cannot be read as YAML"),
    "tab": ("\tprompt: 3\n", "tab.yaml, line 1, cannot be read as YAML"),
    "stray": ("# @package _global_\nprompt: ${nope.x}\n", "prompt stands for ${nope.x}, which is not there"),
    "unset": (
        "# @package _global_\nprompt: ${oc.env:NOPE}\n",
        "The environment variable NOPE, which prompt stands for, is not set",
    ),
    "unknown": (
        "# @package _global_\nprompt: ${oc.nope:3}\n",
        "prompt: Unsupported interpolation type oc.nope",
    ),
    "itself": ("# @package _global_\nprompt: ${prompt}\n", "prompt: Recursive interpolation detected"),
    "lost": ("# @package _global_\ndefaults:\n  - override /task: nope\n", "There is no task 'nope'"),
}


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("many", [(), ("-m",)])
def test_yaml_that_cannot_be_used_is_a_sentence(name, many, expkit):
    text, said = MINE[name]
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment", f"{name}.yaml").write_text(text)
    done = expkit(*many, "-cd", "mine", f"experiment={name}", "model=digits", "logger=none")
    assert done.code == 2 and said in done.err, done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["~logger"],
            "every run has logger, which cannot be removed. Leave it out for what it is by itself, or choose nothing",
        ),
        (["~seed"], "or give another value: seed=VALUE"),
        (["~model"], "or choose another: model=ddpm or"),
        (["~nonsens"], "there is no key 'nonsens'"),
        (["~task.estimate"], "The key task.estimate is missing"),
        (["~model.denoiser"], "Leave out ~model.denoiser"),
        (["+seed=1"], "the key seed is there already"),
        (["+trainer.epochs=2"], "keys of parts are set without the plus: trainer.epochs=2"),
        (["gamma"], "'gamma' is no KEY=VALUE. Did you mean gamma=…?"),
        (["gamma=[1,2"], "A list that begins with [ is not closed: 'gamma=[1,2]'"),
        (["gamma=1,,5"], "A list is gamma=[A,B]"),
        (["gamma=range(1,3)"], "stands for several values: -m sweeps them"),
        (["prompt=${nope}"], "prompt=${nope}: there is no key 'nope'"),
        (["prompt=${oc.env:NOPE}"], "The environment variable NOPE, which prompt stands for, is not set"),
        (["prompt=${oc.env:P"], "is not closed"),
        (["pro mpt=3"], "'pro mpt' is no key"),
        (["--config-name=nope"], "There is no nope.yaml in"),
        (["hydra.searchpath=[file://nowhere]"], "There is no folder nowhere to seek YAML in"),
        (["task=hybrid", "sigma=1e300"], "sigma is a number from 0 to 1000"),
        ([f"hydra.run.dir={'x' * 300}"], "cannot be written (File name too long)"),
        ([f"model.weights={'x' * 300}"], "model.weights=… names a file or folder of"),
        ([f"replay={'x' * 300}"], "replay=… names a file or folder of 300 letters"),
    ],
)
def test_what_cannot_be_composed_or_found_is_said(arguments, said, expkit):
    done = (
        expkit("model=digits", "logger=none", "samples=1", "steps=3", *arguments)
        if "replay" not in arguments[0]
        else expkit(*arguments)
    )
    assert done.code == 2 and said in done.err, done.err


def test_a_size_that_no_machine_has_is_not_called_a_lack_of_memory():
    error = RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 64000000000000000 bytes."
    )
    assert "number is too large (sigma=1e9)" in checks.error_message(error, ["sigma=1e9", "steps=3"])
    assert "Try fewer samples" in checks.error_message(
        RuntimeError("can't allocate memory: you tried to allocate 1000 bytes"), ["samples=3"]
    )


def test_a_stray_underscore_does_not_hide_the_error_that_is_reported():
    message = checks.error_message(OverflowError("overflow"), ["x=12_", "steps=12_000"])
    assert message.endswith("(steps=12_000). Give a smaller one.")


# ---- what is recorded of a run


def test_a_device_is_described_by_its_own_name(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device=None: f"the GPU {device}")
    assert describe_device("cuda:1") == "cuda:1, the GPU cuda:1"
    assert describe_device("mps") == "mps"
    assert describe_device("cpu") == "cpu, 1 threads"


def test_a_task_without_a_model_has_not_the_model_of_an_earlier_one():
    denoiser = {"_target_": "builtins.object"}
    sampling, training = {"_target_": "builtins.dict", "model": denoiser}, {"_target_": "builtins.dict"}
    cache, model = ModelCache(), {"denoiser": denoiser}
    first = cache.task({"task": sampling, "model": model})["model"]
    assert cache.model() is first
    cache.task({"task": training, "model": model})
    assert cache.model() is None
    assert cache.task({"task": sampling, "model": model})["model"] is cache.model() is first


def test_names_of_folders_are_what_they_always_were():
    assert short_hash(repr(("gamma=1",))) == "e657cda883d1"
    assert config_hash({"task": {"steps": 3}, "prompt": 3}) == "b87e77706ffb"
    sweep = CommandLine.of(["-m", "task=sample", "prompt=3,8"])
    assert names.sweep_folder(sweep) == Path("outputs/sweeps/sample-prompt-7b812200")


def test_hydra_s_own_arguments_are_left_out_however_they_begin():
    own = ["hydra.verbose=true", "hydra/launcher=rows", "+hydra.job.env_set.A=1", "~hydra.callbacks"]
    assert without_hydra([*own, "gamma=1", "~task.note"]) == ["gamma=1", "~task.note"]
