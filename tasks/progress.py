"""How far a loop is: one live line with the time left on a terminal, a heartbeat now and then in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

T = TypeVar("T")
_HEARTBEAT_S = 10.0


def track(
    iterable: Iterable[T],
    total: int,
    label: str,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[T]:
    """Give the items of ``iterable`` and tell on stderr how many of ``total`` are done.

    Args:
        iterable: what to loop over.
        total: how many items it has.
        label: what they are.
        stream: where to tell it instead of stderr.
        clock: seconds, for the heartbeat and the time left in a log.
    """
    out = stream if stream is not None else sys.stderr
    if out.isatty() and os.environ.get("TERM") != "dumb":
        return _live(iterable, total, label, out)
    return _log(iterable, total, label, out, clock)


def _live(iterable: Iterable[T], total: int, label: str, out: TextIO) -> Iterator[T]:
    # Imported here: a stage in a log never needs it.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=out)) as progress:
        task = progress.add_task(label, total=total)
        for item in iterable:
            yield item
            progress.advance(task)


def _log(iterable: Iterable[T], total: int, label: str, out: TextIO, clock: Callable[[], float]) -> Iterator[T]:
    start = told = clock()
    _tell(out, f"{label}: 0 of {total}")
    done = 0
    for item in iterable:
        yield item
        done += 1
        now = clock()
        if now - told >= _HEARTBEAT_S and done < total:
            told = now
            left = (now - start) / done * (total - done)
            _tell(out, f"{label}: {done} of {total} ({100 * done // total} %), about {_duration(left)} left")
    _tell(out, f"{label}: {done} of {total}, done in {_duration(clock() - start)}")


def _tell(out: TextIO, line: str) -> None:
    print(line, file=out, flush=True)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )
