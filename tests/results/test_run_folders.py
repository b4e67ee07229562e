"""Folders: a process removes and overwrites only what it made itself, whatever is refused, interrupted or killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from expkit.core.solvers import DDPM
from expkit.errors import UserError
from expkit.results import claims
from expkit.results.claims import LOCK, Claim
from expkit.runs import job
from expkit.storage import weights_io

SMALL = ("model=digits", "task=sample", "logger=none", "samples=1", "steps=4")


@pytest.fixture
def small(expkit):
    """Runs a small command in an empty folder; what it is given stands last and so counts."""
    return lambda *arguments: expkit(
        *[one for one in arguments if one == "-m"], *SMALL, *[one for one in arguments if one != "-m"]
    )


def contents(folder: Path) -> dict[str, bytes | None]:
    """What lies in a folder: the bytes of files, None for folders."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


# ---- a run's folder


@pytest.mark.parametrize(
    "wrong",
    ["prompt=77", "task=inpaint,image=nothing.png", "gama=3", "model.weights=nothing", "task=evaluate"],
)
def test_a_folder_that_was_there_stays_where_the_command_is_refused(wrong, small, tmp_path):
    for name in ("empty", "used"):
        (tmp_path / name).mkdir()
    (tmp_path / "used/notes").write_text("mine")
    for place in ("empty", "used", "new", "used/new/newer"):
        before = contents(tmp_path)
        done = small(
            *wrong.split(","),
            *(["data=folder", "data.folder=none"] if "evaluate" in wrong else []),
            f"hydra.run.dir={place}",
        )
        assert done.code == 2 and "Traceback" not in done.err and contents(tmp_path) == before, done.err
    assert small("prompt=7", "hydra.run.dir=used").code == 0
    assert (tmp_path / "used/notes").read_text() == "mine" and (tmp_path / "used/numbers.json").is_file()


@pytest.mark.parametrize(
    "name",
    ["recipe.yaml", "numbers.json", "look.json", "picture.png", "pictures", "trajectory.gif", "tensorboard"],
)
def test_what_a_run_would_overwrite_is_left_and_the_run_refused(name, small, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).write_text("mine")
    done = small("prompt=7", "logger=tensorboard", "hydra.run.dir=theirs")
    assert done.code == 2 and f"already holds {name}, which a run would overwrite" in done.err
    assert contents(tmp_path / "theirs") == {name: b"mine"}


@pytest.mark.parametrize("name", ["checkpoints", "epochs", "losses.csv", "model.safetensors", "model"])
def test_what_a_training_would_overwrite_is_left(name, small, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).write_text("mine")
    done = small("task=train", "hydra.run.dir=theirs")
    assert (
        done.code == 2
        and f"already holds {name}" in done.err
        and contents(tmp_path / "theirs") == {name: b"mine"}
    )
    assert (
        small("prompt=7", "hydra.run.dir=theirs").code == 0
        and (tmp_path / "theirs" / name).read_text() == "mine"
    )


def test_a_folder_behind_a_link_is_written_into_and_the_link_stays(small, tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    assert small("prompt=77", "hydra.run.dir=link").code == 2 and contents(tmp_path) == {
        "link": None,
        "target": None,
    }
    assert small("prompt=7", "hydra.run.dir=link").code == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target/picture.png").is_file()


@pytest.mark.parametrize(
    ("place", "said"),
    [("file", "file is a file, and a run needs a folder"), ("file/in", "cannot be written"), ("gone", "is a link to nothing"),
     ("a" * 300, "cannot be written"), ("/proc/x/y", "cannot be written")],
)  # fmt: skip
def test_what_can_be_no_folder_is_a_sentence(place, said, small, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "gone").symlink_to("nowhere")
    done = small("prompt=7", f"hydra.run.dir={place}")
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1
    assert (
        sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone"]
        and (tmp_path / "file").read_text() == "mine"
    )


@pytest.mark.parametrize("place", [".", "sub/..", "./a/../b"])
def test_a_folder_may_be_named_by_dots(place, small, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes").write_text("mine")
    before = contents(tmp_path)
    assert small("prompt=77", f"hydra.run.dir={place}").code == 2 and contents(tmp_path) == before
    done = small("prompt=7", f"hydra.run.dir={place}")
    assert (
        done.code == 0
        and (done.folder / "numbers.json").is_file()
        and (tmp_path / "sub").is_dir()
        and not (tmp_path / "a").exists()
    )


def test_a_part_of_another_run_is_no_folder_for_a_run(small, tmp_path):
    assert small("prompt=7", "hydra.run.dir=run").code == 0
    before = contents(tmp_path)
    for part in ("run/pictures", "run/checkpoints", "run/pictures/new"):
        done = small("prompt=7", f"hydra.run.dir={part}")
        assert done.code == 2 and "of the run" in done.err and contents(tmp_path) == before
    assert small("prompt=7", "hydra.run.dir=run/beside").code == 0


def test_an_interrupted_run_takes_its_own_recipe_away(small, tmp_path, monkeypatch):
    def interrupt(*given, **named):
        raise KeyboardInterrupt

    (tmp_path / "used").mkdir()
    (tmp_path / "used/notes").write_text("mine")
    with monkeypatch.context() as patched:
        patched.setattr(DDPM, "__call__", interrupt)
        done = small("prompt=7", "hydra.run.dir=used")
    assert (
        done.code == 130
        and "interrupted; nothing was finished yet." in done.err
        and contents(tmp_path / "used") == {"notes": b"mine"}
    )
    assert small("prompt=7", "hydra.run.dir=used").code == 0


def test_what_a_failed_run_has_written_is_kept_and_said(small, tmp_path, monkeypatch):
    def interrupt(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("expkit.results.run_folder.RunFolder.finish", interrupt)
    done = small("prompt=7", "hydra.run.dir=run")
    assert done.code == 130 and f"what was finished is kept in {tmp_path / 'run'}" in done.err
    assert {"picture.png", "pictures", "recipe.yaml"} == {path.name for path in (tmp_path / "run").iterdir()}


def test_a_defect_leaves_nothing_behind_and_is_a_traceback(small, tmp_path, monkeypatch):
    monkeypatch.setattr(DDPM, "__call__", lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        small("prompt=7", "hydra.run.dir=run")
    assert not contents(tmp_path) and not claims.HELD


def test_a_full_disk_leaves_nothing_behind(small, tmp_path, monkeypatch):
    def full(*given, **named):
        raise OSError(28, "No space left on device", "recipe.yaml")

    monkeypatch.setattr("expkit.results.run_folder.RunFolder.save_images", full)
    done = small("prompt=7", "hydra.run.dir=run")
    assert done.code == 2 and "no space left" in done.err and not contents(tmp_path)


def test_an_export_is_a_new_file(tmp_path):
    from expkit.storage.files import without_replacing
    from expkit.tasks.embed import check_export

    (tmp_path / "e.safetensors").write_text("mine")
    with pytest.raises(UserError, match="there already, and nothing is overwritten"):
        check_export(str(tmp_path / "e.safetensors"))
    with pytest.raises(FileExistsError):  # one that comes while it is written
        without_replacing(tmp_path / "e.safetensors", lambda part: part.write_text("ours"))
    without_replacing(tmp_path / "f.safetensors", lambda part: part.write_text("ours"))
    assert contents(tmp_path) == {"e.safetensors": b"mine", "f.safetensors": b"ours"}


def test_weights_are_written_whole_for_all_to_read_or_not_at_all(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    weights_io.write_weights(tmp_path / "w.safetensors", {"w": torch.ones(2)}, {"side": 8})
    tensors, facts = weights_io.read_weights(tmp_path / "w.safetensors", None, "task=train")
    assert tensors["w"].tolist() == [1, 1] and facts == {"side": 8}
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o644
    before = contents(tmp_path)
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*w\.safetensors'"):
        weights_io.write_weights(tmp_path / "w.safetensors", {"w": torch.zeros(2)}, {})
    assert contents(tmp_path) == before and list(before) == ["w.safetensors"]


# ---- claims


def test_one_process_claims_a_folder_and_gives_it_free(tmp_path):
    first = Claim(tmp_path / "a/b")
    with pytest.raises(UserError, match="is being written by another run"):
        Claim(tmp_path / "a/b")
    assert (tmp_path / "a/b" / LOCK).exists() and first.release() and not contents(tmp_path)
    with claims.claimed_folder(tmp_path / "a") as again:
        (again.folder / "numbers.json").write_text("{}")
    assert list(contents(tmp_path)) == ["a", "a/numbers.json"]


def test_the_claim_of_a_process_that_was_killed_is_taken_over_where_nothing_lies_beside_it(tmp_path):
    (tmp_path / LOCK).touch()
    assert Claim(tmp_path).release() and not contents(tmp_path)
    (tmp_path / LOCK).touch()
    (tmp_path / "recipe.yaml").write_text("of one that was killed")
    with pytest.raises(UserError, match=r"holds what a run that was killed has left: recipe\.yaml"):
        Claim(tmp_path)
    assert contents(tmp_path) == {LOCK: b"", "recipe.yaml": b"of one that was killed"}


def test_a_file_system_without_locks_takes_a_claim_that_is_there_for_held(tmp_path, monkeypatch):
    def unsupported(*given):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    first = Claim(tmp_path)
    with pytest.raises(UserError, match="is being written by another run"):
        Claim(tmp_path)
    assert first.release() and not contents(tmp_path)


def test_further_processes_of_a_training_share_the_folder_of_the_first(tmp_path):
    first, second = Claim(tmp_path / "run"), Claim(tmp_path / "run", exclusive=False)
    second.release()
    assert (tmp_path / "run" / LOCK).exists()
    (tmp_path / "run/numbers.json").write_text("{}")
    first.release()
    assert list(contents(tmp_path)) == ["run", "run/numbers.json"]


def test_folders_of_either_path_are_removed_where_the_claim_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("away/inner").mkdir(parents=True)
    Path("link").symlink_to("away/inner")
    Path("x").touch()
    with pytest.raises(UserError, match="cannot be written"):
        Claim(Path("link/../x/run"))  # away/x/run, or x/run in a file
    assert list(contents(tmp_path)) == ["away", "away/inner", "link", "x"]


def test_a_folder_that_others_remove_again_and_again_is_given_up(tmp_path, monkeypatch):
    tries = []

    def vanish(*given, **named):
        tries.append(given)
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "mkdir", vanish)
    with pytest.raises(FileNotFoundError):
        claims.make_folders(tmp_path / "a/b")
    assert len(tries) == 20


# ---- sweeps


def test_half_written_cells_of_other_processes_are_left_and_the_sweep_is_completed(small, tmp_path):
    command = ("-m", "prompt=3,8", "hydra.sweep.dir=swept")
    assert small(*command).code == 0
    whole, other = (
        next((tmp_path / "swept/cells").glob("[!.]*")),
        next((tmp_path / "swept/cells").glob("[!.]*[!.]*")),
    )
    half = whole.with_name(f".{whole.name}.killed.part")
    whole.rename(half)
    (half / "numbers.json").unlink()
    (tmp_path / "swept/finished.json").unlink()
    before = sorted(half.rglob("*"))
    done = small(*command)
    assert done.code == 0 and "1 of them there already" in done.err and sorted(half.rglob("*")) == before
    assert (whole / "numbers.json").is_file() and other.is_dir()


@pytest.mark.slow
def test_a_sweep_overwrites_nothing_of_others_and_goes_on_in_its_own_folder(small, tmp_path):
    command = ("-m", "prompt=3,8", "hydra.sweep.dir=theirs")
    for name in (
        "index.html",
        "sheet.png",
        "sheet_02.png",
        "table.csv",
        "table.parquet",
        "tensorboard",
        "search.png",
        "finished.json",
    ):
        shutil.rmtree(tmp_path / "theirs", ignore_errors=True)
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / name).write_text("mine")
        done = small(*command)
        assert (
            done.code == 2
            and f"already holds {name}, which a sweep would overwrite" in done.err
            and "samples" not in done.err
        )
        assert [(path.name, path.read_text()) for path in (tmp_path / "theirs").iterdir()] == [(name, "mine")]
    (tmp_path / "theirs/finished.json").rename(tmp_path / "theirs/notes")
    assert small(*command).code == 0 and (tmp_path / "theirs/notes").read_text() == "mine"
    more = small("-m", "prompt=3,8,1", "hydra.sweep.dir=theirs")
    assert more.code == 0 and "3 cells, 2 of them there already" in more.err


def test_what_has_the_name_of_a_cell_is_left_and_refused_before_anything_is_made(small, tmp_path):
    command = ("-m", "prompt=3,8", "hydra.sweep.dir=swept")
    assert small(*command).code == 0
    cell = next((tmp_path / "swept/cells").glob("[!.]*"))
    shutil.rmtree(cell)
    cell.mkdir()
    (cell / "notes").write_text("mine")
    (tmp_path / "swept/finished.json").unlink()
    done = small(*command)
    assert done.code == 2 and "is no finished run, and a cell of this sweep needs its name" in done.err
    assert [path.name for path in cell.iterdir()] == ["notes"]


def test_the_columns_of_a_sweep_are_one_file_and_other_events_beside_it_stay(small, tmp_path):
    first = small("logger=tensorboard", "-m", "prompt=3,8", "hydra.sweep.dir=swept")
    (tmp_path / "swept/tensorboard/events.out.tfevents.1.mine").write_text("mine")
    again = small("logger=tensorboard", "-m", "prompt=3,8,1", "hydra.sweep.dir=swept")
    assert (first.code, again.code) == (0, 0), again.err
    events = {path.name: path.stat().st_size for path in (tmp_path / "swept/tensorboard").iterdir()}
    assert len(events) == 2 and events["events.out.tfevents.1.mine"] == 4


# ---- processes


def started(*arguments: str) -> subprocess.Popen:
    """The command as a process of its own; its errors go through a pipe."""
    told, quiet = [sys.executable, "-m", "expkit", *arguments], os.environ | {"TQDM_DISABLE": "1"}
    return subprocess.Popen(
        told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=quiet, preexec_fn=heard
    )


def heard() -> None:
    """Ctrl-C is heard, though whoever started the tests has it ignored, as a shell does for what runs in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def interruptible():
    before = signal.getsignal(signal.SIGINT)
    heard()
    yield
    signal.signal(signal.SIGINT, before)


def wait_for(there, process: subprocess.Popen) -> None:
    while not there():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "ended by SIGTERM"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_ends_a_run_and_removes_what_it_has_made(number, code, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = started(
        "model=digits", "sampler=ddpm", "samples=16", "prompt=7", "logger=none", "hydra.run.dir=run"
    )
    wait_for((tmp_path / "run" / LOCK).exists, run)
    run.send_signal(number)
    said = run.communicate()[1]
    assert (
        run.returncode == code
        and said.splitlines()[-1] == f"expkit: {word}; nothing was finished yet."
        and not contents(tmp_path)
    )


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "ended by SIGTERM"), (signal.SIGINT, 130, "interrupted")],
)
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=1,2", "hydra.sweep.dir=swept")])
def test_an_error_that_a_signal_became_is_the_signal(
    sweep, number, code, word, small, interruptible, tmp_path, monkeypatch
):
    """As torch and numpy make of Ctrl-C while they are imported."""

    def importing(*_, **__):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise ImportError("initialization of _C raised unreported exception") from None

    monkeypatch.setattr(job.ModelCache, "__call__", importing)
    done = small("prompt=7", "hydra.run.dir=run", *sweep)
    left = "0 of 2 cells are there. The same command goes on." if sweep else "nothing was finished yet."
    assert (done.code, done.err.splitlines()[-1]) == (code, f"expkit: {word}; {left}")
    assert "Traceback" not in done.err and not [*tmp_path.rglob("error*")]


def test_the_same_command_says_what_a_killed_run_has_left(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = started(
        "model=digits", "sampler=ddpm", "samples=16", "prompt=7", "logger=none", "hydra.run.dir=run"
    )
    wait_for((tmp_path / "run" / LOCK).exists, run)
    second = small("prompt=7", "hydra.run.dir=run")
    assert second.code == 2 and "is being written by another run" in second.err
    wait_for((tmp_path / "run/recipe.yaml").exists, run)
    run.kill()
    run.communicate()
    before = contents(tmp_path)
    again = small("prompt=7", "hydra.run.dir=run")
    assert (
        again.code == 2
        and "holds what a run that was killed has left: recipe.yaml" in again.err
        and contents(tmp_path) == before
    )


@pytest.mark.slow
def test_twenty_other_commands_leave_the_folder_of_a_run_as_it_is_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("model=digits", "task=sample", "sampler=ddpm", "samples=8", "prompt=7", "logger=none")
    others = [
        command,
        (*command[:-2], "prompt=77"),
        (*command, "gama=3"),
        ("model=digits", "task=hybrid"),
        ("task=train",),
    ]
    signals = [None, signal.SIGKILL, signal.SIGINT, signal.SIGTERM]
    first = started(*command, "hydra.run.dir=run")
    wait_for((tmp_path / "run" / LOCK).exists, first)
    ends = []
    for number in range(20):
        other = started(*others[number % 5], "hydra.run.dir=run")
        if (how := signals[number % 4]) is not None:
            time.sleep(0.15 * (number // 4))
            other.send_signal(how)
        ends.append((how, other, other.communicate()[1]))
        assert first.poll() is None, "the run was over too early: give it more samples"
    assert not [said for how, _, said in ends if how is None and "Traceback" in said]
    assert all(other.returncode == 2 for how, other, _ in ends if how is None)
    assert sum("is being written by another run" in said for _, _, said in ends) >= 4
    said = first.communicate()[1]
    assert first.returncode == 0, said
    alone = started(*command, "hydra.run.dir=alone")
    assert alone.communicate() and alone.returncode == 0
    ours, theirs = contents(tmp_path / "run"), contents(tmp_path / "alone")
    numbers = [json.loads(files.pop("numbers.json")) for files in (ours, theirs)]
    assert (
        ours == theirs and list(ours) and sorted(path.name for path in tmp_path.iterdir()) == ["alone", "run"]
    )
    untimed = [{key: value for key, value in one.items() if not key.startswith("seconds")} for one in numbers]
    assert untimed[0] == untimed[1]


# ---- Weights & Biases


@pytest.fixture
def wandb_at_hand(monkeypatch, tmp_path):
    """W&B as on a machine on which nobody has ever used it, and as if it had not been used in this process."""
    import wandb

    wandb.teardown()  # first: it removes the variable by which its service is found, which must not come back at the end
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = tmp_path.parent / f"{tmp_path.name}_home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    yield wandb
    wandb.teardown()


def records(folder: Path) -> dict:
    """The project, name, group, entity and saved files of an offline run, as W&B itself reads its records."""
    (run,) = folder.glob("wandb/offline-run-*")
    read = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    lines = subprocess.run(read, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [json.loads(line) for line in lines]
    (known,) = [record["run"] for record in found if record["type"] == "run"]
    files = {
        file["path"] for record in found if record["type"] == "files" for file in record["files"]["files"]
    }
    said = {"project": "project", "name": "display_name", "group": "run_group", "entity": "entity"}
    return {"files": files, **{key: known.get(name) for key, name in said.items()}}


@pytest.mark.parametrize(
    ("variables", "arguments", "known"),
    [
        ({"WANDB_MODE": "offline"}, [], {"project": "expkit", "name": "run"}),
        ({}, ["logger.mode=offline", "logger.project=mine"], {"project": "mine", "name": "run"}),
        ({"WANDB_MODE": "disabled", "WANDB_PROJECT": "theirs"}, ["logger.mode=offline", "logger.project=mine"], {"project": "mine"}),
        ({"WANDB_MODE": "offline", "WANDB_PROJECT": "theirs", "WANDB_NAME": "other", "WANDB_ENTITY": "we", "WANDB_RUN_GROUP": "all"}, [],
         {"project": "theirs", "name": "other", "entity": "we", "group": "all"}),
    ],
)  # fmt: skip
def test_variables_of_wandb_hold_and_what_the_command_says_wins(
    variables, arguments, known, small, wandb_at_hand, monkeypatch, tmp_path
):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    done = small("prompt=7", "logger=wandb", "hydra.run.dir=run", *arguments)
    assert done.code == 0, done.err
    assert {key: records(tmp_path / "run")[key] for key in known} == known


def test_wandb_writes_where_its_own_variable_says(small, wandb_at_hand, monkeypatch, tmp_path):
    (tmp_path / "theirs").mkdir()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "theirs"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert small("prompt=7", "logger=wandb", "hydra.run.dir=run").code == 0
    assert "recipe.yaml" in records(tmp_path / "theirs")["files"] and not (tmp_path / "run/wandb").exists()


def test_what_was_said_by_wandb_disabled_holds(small, wandb_at_hand, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert small("prompt=7", "logger=wandb", "hydra.run.dir=run").code == 0
    assert (
        not [path for path in tmp_path.rglob("*") if "wandb" in path.name]
        and (tmp_path / "run/picture.png").is_file()
    )
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/settings").write_text("[default]\nmode = offline\nproject = file\n")
    monkeypatch.delenv("WANDB_MODE")
    wandb_at_hand.teardown()
    assert (
        small("prompt=7", "logger=wandb", "hydra.run.dir=other").code == 0
        and records(tmp_path / "other")["project"] == "file"
    )


def test_cells_have_a_run_each_of_real_files_and_can_be_moved(small, wandb_at_hand, tmp_path):
    done = small("-m", "prompt=3,8", "logger=wandb", "logger.mode=offline", "hydra.sweep.dir=swept")
    assert done.code == 0, done.err
    (tmp_path / "swept").rename(tmp_path / "moved")
    cells = [path for path in (tmp_path / "moved/cells").iterdir() if path.is_dir()]
    assert len(cells) == 2 and not [path for path in (tmp_path / "moved").rglob("*") if path.is_symlink()]
    for cell in cells:
        (recipe,) = cell.glob("wandb/offline-run-*/files/recipe.yaml")
        assert (
            recipe.read_text() == (cell / "recipe.yaml").read_text()
            and "recipe.yaml" in records(cell)["files"]
        )
        assert list(cell.glob("wandb/offline-run-*/files/media/images/*.png"))


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=1,2"]])
def test_who_is_not_logged_in_is_told_before_anything_is_made(
    sweep, small, wandb_at_hand, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "expkit.tasks.sampling.Sampling.__call__", lambda *given: pytest.fail("it was sampled")
    )
    done = small("prompt=7", "logger=wandb", "hydra.run.dir=run", "hydra.sweep.dir=swept", *sweep)
    assert done.code == 2 and "Log in with `wandb login`" in done.err
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("swept/cells/*.txt"))
