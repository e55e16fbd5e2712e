"""A loop tells how far it is: heartbeats in a log, one live line on a terminal."""

from __future__ import annotations

import io
import os
import pty
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.progress import track


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def told(steps: list[float]) -> tuple[list[str], list[float]]:
    """Lines written while items take ``steps`` seconds each, and when each was written."""
    clock, times = Clock(), []

    class Log(io.StringIO):
        def flush(self) -> None:
            times.append(clock.now)

    log = Log()
    for step in track(steps, total=len(steps), label="fields", stream=log, clock=clock):
        clock.now += step
    return log.getvalue().splitlines(), times


def test_first_and_last_are_always_told() -> None:
    lines, _ = told([0.1, 0.1, 0.1])
    assert lines == ["fields: 0 of 3", "fields: 3 of 3, done in 0 s"]
    assert told([])[0] == ["fields: 0 of 0", "fields: 0 of 0, done in 0 s"]


def test_a_heartbeat_tells_count_share_and_time_left() -> None:
    lines, _ = told([6.0, 6.0, 6.0, 100.0])
    assert lines[1] == "fields: 2 of 4 (50 %), about 12 s left"
    assert lines[-1] == "fields: 4 of 4, done in 1 min 58 s"


@given(st.lists(st.floats(0.0, 30.0), max_size=40))
def test_heartbeats_are_ten_seconds_apart(steps: list[float]) -> None:
    lines, times = told(steps)
    assert all(later - earlier >= 10.0 for earlier, later in pairwise(times[:-1]))
    assert len(lines) == len(times)
    assert len(lines) >= 2


def test_a_loop_that_fails_does_not_say_it_is_done() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError

    log = io.StringIO()
    with pytest.raises(RuntimeError):
        list(track(items(), total=2, label="fields", stream=log))
    assert log.getvalue().splitlines() == ["fields: 0 of 2"]


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_a_terminal_gets_one_live_line_and_a_dumb_one_plain_lines(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("COLUMNS", "100")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        assert list(track(range(7), total=7, label="fields", stream=terminal)) == list(range(7))
        terminal.write("END")
        terminal.flush()
        written = b""
        while not written.endswith(b"END"):
            written += os.read(ours, 1 << 16)
    os.close(ours)
    assert (b"7/7" in written and b"100%" in written) == (kind == "xterm")
    assert (b"7 of 7" in written) == (kind == "dumb")
