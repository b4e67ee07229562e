"""Messages of the logger "expkit": the command shows them on stderr, the library leaves that to the program that imports it."""

import io
import logging
import subprocess
import sys

import pytest

from expkit.errors import warn
from expkit.runs import messages

LOGGER = logging.getLogger("expkit")
ASKED = ("task=sample", "steps=2", "samples=1", "logger=none")
SAID = """\
sample: 1 picture of 28 × 28 from level 297 of 300, 2 network calls (calls × rows: 2 × 2; 4 rows)
  gamma 7: null + gamma (prompt − null)
  model digits · sampler strided
"""
LIBRARY = """
import logging, sys
from expkit.errors import warn
logger = logging.getLogger("expkit")
assert [type(handler) for handler in logger.handlers] == [logging.NullHandler] and not logging.root.handlers
assert logger.propagate and logger.level == logging.NOTSET
warn("silent")
logging.basicConfig(format="%(levelname)s %(module)s %(message)s")
warn("heard")
logger.setLevel(logging.CRITICAL)
warn("silenced")
assert "hydra" not in sys.modules
"""


def test_importing_the_library_configures_nothing_and_a_program_hears_what_it_wants():
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "WARNING <string> heard\n"), done.stderr


def test_a_command_leaves_the_logger_as_it_was(expkit):
    before = (*LOGGER.handlers,), LOGGER.level, LOGGER.propagate, LOGGER.disabled
    assert expkit(*ASKED, "prompt=3").err.startswith(SAID)
    assert before == ((*LOGGER.handlers,), LOGGER.level, LOGGER.propagate, LOGGER.disabled)


def test_warnings_and_errors_begin_with_the_name_and_other_messages_do_not(stderr):
    LOGGER.info("100% done, {as} %s is")
    warn("look")
    LOGGER.error("failed")
    LOGGER.debug("never")
    assert stderr() == "100% done, {as} %s is\nexpkit: look\nexpkit: failed\n"


def test_messages_go_to_the_stderr_of_the_moment_once_and_to_no_other_logger(monkeypatch, caplog):
    first, second = io.StringIO(), io.StringIO()
    with messages.shown_on_stderr():
        monkeypatch.setattr("sys.stderr", first)
        LOGGER.info("one")
        with messages.shown_on_stderr():
            monkeypatch.setattr("sys.stderr", second)
            LOGGER.info("two")
        LOGGER.info("three")
    LOGGER.info("nobody sees this")
    assert (first.getvalue(), second.getvalue()) == ("one\n", "two\nthree\n") and not caplog.records


def test_a_closed_stderr_ends_no_run(monkeypatch, tmp_path):
    with (tmp_path / "closed").open("w") as closed:
        pass
    monkeypatch.setattr("sys.stderr", closed)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with messages.shown_on_stderr():
        warn("lost")


@pytest.mark.parametrize("setting", ["none", "default", "disabled"])
def test_no_setting_of_hydras_logging_removes_or_doubles_a_line(setting, expkit):
    settings = (*ASKED, f"hydra/job_logging={setting}", f"hydra/hydra_logging={setting}")
    one, many = expkit(*settings, "prompt=3"), expkit("-m", *settings, "prompt=3,4")
    assert (one.code, many.code) == (0, 0) and one.err.startswith(SAID), one.err + many.err
    assert many.err.startswith("sweep: 2 cells, 0 of them there already, in outputs/sweeps/")
    for done in (one, many):  # the progress bar begins with the name of the task too
        assert done.err.count("sample: ") - done.err.count("step/s]") == 1, done.err
        assert done.err.count("model digits") == 1 and "model digits" not in done.out, done.err


def test_an_error_is_shown_where_hydra_has_disabled_loggers(expkit):
    done = expkit(*ASKED, "image=nothing.png", "task=sdedit", "hydra/job_logging=disabled")
    assert done.code == 2 and done.err.startswith("expkit: There is no picture 'nothing.png'.")


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_processes_of_other_launchers_show_their_messages(launcher, tmp_path):
    """Joblib's write to the stderr of the command, and submitit's into a file for each."""
    done = subprocess.run(
        [sys.executable, "-m", "expkit", "-m", *ASKED, "model=digits", "prompt=3,4", f"hydra/launcher={launcher}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    files = tmp_path.glob("outputs/sweeps/*/.submitit/*/*_log.err")
    said = done.stderr + "".join(path.read_text() for path in files)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("sweep: 2 cells, 0 of them there already, in outputs/sweeps/")
    assert said.count(SAID) == 2, said


def test_a_command_of_its_own_process_shows_an_error_and_nothing_else(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "expkit", "task=sampl"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("expkit: There is no task 'sampl'. Did you mean sample?")
    assert done.stderr.count("\n") == 1
