"""One run at a time, and no run over the leftovers of a killed one.

Two files under ``.headland/``:

- ``run.lock``: held (flock) while a run lasts; the kernel frees it however the run ends. It names its holder.
- ``running.json``: the stage command being executed now. After a kill -9 of the run it stays, and if that command is
  still alive it is an orphan: it would write into the same outputs, so the next run refuses and names it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.child import Family
from tasks.durable import write_json

STATE_DIR = ".headland"


class RunRefusedError(Exception):
    """Nothing was started, because something else is at work in this project."""


class AlreadyRunningError(RunRefusedError):
    """Another run, or DVC started by hand, is using this project."""


class OrphanAliveError(RunRefusedError):
    """A stage command of an earlier, killed run is still working."""

    def __init__(self, message: str, pid: int = 0, stage: str = "") -> None:
        super().__init__(message)
        self.pid = pid
        self.stage = stage


@dataclass(frozen=True)
class Running:
    """The content of ``running.json``."""

    stage: str
    command: str
    started: str
    runner_pid: int
    family: Family


def _record_path(root: Path) -> Path:
    return root / STATE_DIR / "running.json"


@contextmanager
def recorded(root: Path, stage: str, command: str, family: Family) -> Iterator[None]:
    """Keep ``running.json`` while the stage command runs; it is on the disk before the body starts."""
    running = Running(stage, command, datetime.now(UTC).isoformat(timespec="seconds"), os.getpid(), family)
    write_json(_record_path(root), asdict(running))
    try:
        yield
    finally:
        _record_path(root).unlink(missing_ok=True)


def read_record(root: Path) -> Running | None:
    """What ``running.json`` says; None when there is none or it is not ours to understand."""
    try:
        raw = json.loads(_record_path(root).read_text())
        return Running(**{**raw, "family": Family(**raw["family"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def refuse_over_orphan(root: Path) -> None:
    """Raise OrphanAliveError if a stage command of an earlier run still works; a stale record is ignored."""
    running = read_record(root)
    living = running.family.members() if running else []
    if running is None or not living:
        return
    pids = " ".join(str(process.pid) for process in living)
    raise OrphanAliveError(
        f"Stage '{running.stage}' of a run that is gone (pid {running.runner_pid}) is still working.\n"
        f"  command: {running.command}\n  started: {running.started}\n  processes: {pids}\n"
        f"Nothing was started. Wait until it has ended, or end it with `kill {pids}`, then run this again.",
        running.family.pid,
        running.stage,
    )


@contextmanager
def exclusive_run(root: Path) -> Iterator[None]:
    """Hold this project for one run.

    Raises:
        AlreadyRunningError: another run holds it; the message names its pid and command.
        OrphanAliveError: a stage of a killed run is still working.
    """
    path = root / STATE_DIR / "run.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(_holder(path)) from None
        file.truncate(0)
        file.write(f"{os.getpid()} {shlex.join(sys.argv)}\n")
        file.flush()
        refuse_over_orphan(root)
        yield


def _holder(path: Path) -> str:
    pid, _, command = path.read_text().strip().partition(" ")
    who = f"pid {pid}: {command}" if pid else "it has not written its name yet"
    return f"Another run is at work in this project ({who}). Nothing was started. Wait until it has ended, or stop it."
