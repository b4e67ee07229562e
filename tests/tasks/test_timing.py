"""What is said of the time a run will take: unknown at first, then what earlier runs have shown; a bad cache is no reason to fail."""

import pytest

from expkit.tasks import timing


def test_a_network_is_known_once_it_has_run():
    assert timing.known_speed("a") is None and "after this run" in timing.describe_duration("a", 10)
    timing.record_speed("a", 20.0, 100)
    assert (
        timing.known_speed("a") == pytest.approx(0.2) and timing.describe_duration("a", 100) == "about 20 s"
    )
    timing.record_speed("a", 40.0, 100)
    assert timing.known_speed("a") == pytest.approx(0.3) and timing.known_speed("b") is None
    assert (
        timing.describe_duration("a", 1000) == "about 5 min"
        and timing.describe_duration("a", 100_000) == "about 8.3 h"
    )


@pytest.mark.parametrize("content", ["", "[1]", '{"a": "b"}', "{"])
def test_a_damaged_cache_knows_nothing_and_is_written_anew(content, cache):
    (cache / "speed.json").write_text(content)
    assert timing.known_speed("a") is None
    timing.record_speed("a", 1.0, 1)
    assert timing.known_speed("a") == 1.0


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EXPKIT_CACHE", str(tmp_path / "file" / "below"))
    timing.record_speed("a", 1.0, 1)
    assert timing.known_speed("a") is None


def test_a_write_that_fails_leaves_nothing_behind(cache, monkeypatch):
    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    timing.record_speed("a", 1.0, 1)
    assert not list(cache.iterdir())
