"""The stages of ``dvc.yaml``, seen and run from outside.

The graph belongs to DVC and is never repeated: ``Project`` asks DVC which stages there are, in which order, and which
of them have changed. ``run_stage`` executes one with ``dvc repro --single-item``, the very thing an engineer does by
hand, as a child process whose lines are streamed and whose whole family ends with the run.

    project = Project.find(Path.cwd())
    with exclusive_run(project.root):
        for stage in project.stages:
            if project.why_changed(stage.name):
                run_stage(project.root, stage.name, on_line=print)
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import signal
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.child import OutOfTimeError, signals_raise, start
from tasks.dvc_state import lock_file_kept
from tasks.running import AlreadyRunningError, recorded, refuse_over_orphan

TAIL_LINES = 15
GRACE_S = 5.0

_NO_ROOM = re.compile(r"No space left on device|\[Errno 28\]|ENOSPC|disk is full|[Dd]isk quota exceeded", re.ASCII)
_LOCKED = re.compile(r"Unable to acquire lock|is being blocked by")
_BLOCKER = re.compile(r"\(PID (\d+)\): (.+)")
_STAGE_EXIT = re.compile(r"exited with (-?\d+)")


class ProjectError(Exception):
    """The project can't be read: no ``dvc.yaml``, or DVC finds it wrong."""


class UnknownStageError(ProjectError):
    """A stage name that ``dvc.yaml`` does not have."""


class StageFailedError(Exception):
    """A stage ended without success. Its inputs and all finished stages are untouched."""

    def __init__(self, message: str, stage: str = "", stage_exit: int = 0, tail: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.stage = stage
        self.stage_exit = stage_exit
        self.tail = tail


class DiskFullError(StageFailedError):
    """A stage found no room on the disk."""


class StageTimedOutError(StageFailedError):
    """A stage was ended because it took longer than it may."""


@dataclass(frozen=True)
class Stage:
    """One stage: its name as DVC says it (``train@irrigation``), its command, its outputs (absolute paths)."""

    name: str
    command: str
    outputs: tuple[Path, ...]


class Project:
    """A DVC project, opened once and asked often: about 10 ms per question."""

    def __init__(self, root: Path) -> None:
        """Open the project in ``root``. Raises ProjectError if there is none or its graph is wrong."""
        os.environ.setdefault("DVC_NO_ANALYTICS", "true")
        from dvc.repo import Repo  # type: ignore[import-untyped]  # ships no types

        self.root = root.resolve()
        with _dvc_errors(self.root):
            self._repo = Repo(str(self.root))
            self.stages = tuple(_in_order(self._repo, self.root))

    @classmethod
    def find(cls, start_dir: Path) -> Project:
        """Open the project that ``start_dir`` lies in. Raises ProjectError if it lies in none."""
        return cls(find_root(start_dir))

    def why_changed(self, name: str) -> tuple[str, ...]:
        """Why ``name`` would run now (``params.yaml modified``, ...); empty if nothing has changed.

        Ask again when the stage's turn comes: an earlier stage may have rewritten its inputs, or not.

        Raises:
            AlreadyRunningError: someone else is just running this stage or one beside it.
        """
        with _dvc_errors(self.root):
            status: dict[str, list[Any]] = self._repo.status(targets=[f"{self.root / 'dvc.yaml'}:{name}"])
        return tuple(reason for entries in status.values() for entry in entries for reason in _in_words(entry))

    def changed(self) -> dict[str, tuple[str, ...]]:
        """All changed stages in order, with the reasons."""
        found = {stage.name: self.why_changed(stage.name) for stage in self.stages}
        return {name: why for name, why in found.items() if why}

    def select(self, wanted: Iterable[str]) -> frozenset[str]:
        """Stage names meant by ``wanted``: a full name, or ``train`` for every ``train@...``.

        Raises:
            UnknownStageError: naming the nearest existing stage.
        """
        names = [stage.name for stage in self.stages]
        chosen: set[str] = set()
        for word in wanted:
            meant = [name for name in names if name == word or name.partition("@")[0] == word]
            if not meant:
                raise UnknownStageError(_unknown(word, names))
            chosen.update(meant)
        return frozenset(chosen)

    def needed_for(self, wanted: Iterable[str]) -> tuple[Stage, ...]:
        """Stages meant by ``wanted`` and all they are made from, in order; all stages if ``wanted`` is empty.

        Raises:
            UnknownStageError: naming the nearest existing stage.
        """
        from networkx import descendants  # type: ignore[import-untyped]  # ships no types

        chosen = self.select(wanted)
        if not chosen:
            return self.stages
        graph = self._repo.index.graph
        needed = {
            name
            for stage in graph
            if getattr(stage, "name", None) in chosen
            for name in (stage.name, *(getattr(other, "name", None) for other in descendants(graph, stage)))
        }
        return tuple(stage for stage in self.stages if stage.name in needed)

    def find_output(self, name: str, pattern: str) -> Path | None:
        """The file that stage ``name`` made and ``pattern`` fits, itself an output or inside one; None if none is."""
        outputs = next((stage.outputs for stage in self.stages if stage.name == name), ())
        files = [file for out in outputs for file in ([out] if out.is_file() else sorted(out.glob(pattern)))]
        return next((file for file in files if file.match(pattern)), None)


def find_root(start_dir: Path) -> Path:
    """The nearest folder at or above ``start_dir`` that holds ``dvc.yaml``. Raises ProjectError if there is none."""
    for folder in (start_dir.resolve(), *start_dir.resolve().parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise ProjectError(f"No dvc.yaml in {start_dir.resolve()} or above it. Go to the project's folder and try again.")


def _unknown(word: str, names: list[str]) -> str:
    near = difflib.get_close_matches(word, [*names, *{name.partition("@")[0] for name in names}], n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(names)}."
    return f"No stage is called '{word}' in dvc.yaml. {hint}"


def _in_order(repo: Any, root: Path) -> Iterator[Stage]:
    """Dependencies first; among equals the order of dvc.yaml."""
    from networkx import lexicographical_topological_sort

    graph = repo.index.graph
    place = {stage: position for position, stage in enumerate(repo.index.stages)}
    for stage in lexicographical_topological_sort(graph.reverse(), key=place.__getitem__):
        if stage.cmd and stage.path_in_repo == "dvc.yaml":
            command = stage.cmd if isinstance(stage.cmd, str) else " && ".join(stage.cmd)
            yield Stage(stage.name, command, tuple(root / out.fs_path for out in stage.outs))


def _in_words(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
        return
    for changes in entry.values():
        for path, change in changes.items():
            if isinstance(change, dict):
                yield from (f"{key} in {path} {how}" for key, how in change.items())
            else:
                yield f"{path} {change}"


@contextmanager
def _dvc_errors(root: Path) -> Iterator[None]:
    """Turn DVC's errors into ours."""
    from dvc.exceptions import DvcException  # type: ignore[import-untyped]  # ships no types
    from dvc.lock import LockError  # type: ignore[import-untyped]  # ships no types

    try:
        yield
    except LockError as error:
        raise AlreadyRunningError(_locked(root, str(error))) from error
    except DvcException as error:
        raise ProjectError(f"DVC can't read the project in {root}: {error}") from error


def _locked(root: Path, text: str) -> str:
    """Name the process that keeps DVC from working."""
    named = _BLOCKER.search(text)
    pid, command = named.groups() if named else (_lock_holder(root), "dvc")
    return (
        f"DVC is already at work in this project (pid {pid}: {command.strip()}). "
        "Wait until it has ended, or stop it, then run this again."
    )


def _lock_holder(root: Path) -> str:
    try:
        return (root / ".dvc" / "tmp" / "lock").read_text().strip() or "unknown"
    except OSError:
        return "unknown"


def run_stage(
    root: Path,
    name: str,
    on_line: Callable[[str], None],
    *,
    force: bool = False,
    timeout_s: float | None = None,
    grace_s: float = GRACE_S,
) -> float:
    """Run one stage with DVC in a process group of its own; returns the seconds it took.

    However this call ends, by success, failure, time-out, Ctrl-C, SIGTERM or an error in ``on_line``, no process of
    the stage is left: first SIGTERM, after ``grace_s`` seconds SIGKILL.

    Raises:
        StageFailedError: the stage failed (DiskFullError, StageTimedOutError: for that reason).
        AlreadyRunningError: DVC is at work on the same files elsewhere.
        OrphanAliveError: a stage of a killed run is still working.
    """
    refuse_over_orphan(root)
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", *(["--force"] if force else []), name]
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    began_s = time.monotonic()
    with lock_file_kept(root, name), signals_raise():
        code = _execute(root, name, command, _remembering(tail, on_line), timeout_s, grace_s)
    seconds = time.monotonic() - began_s
    if code != 0:
        raise _failure(root, name, code, tuple(tail), seconds)
    return seconds


def _remembering(tail: deque[str], on_line: Callable[[str], None]) -> Callable[[str], None]:
    def remember(line: str) -> None:
        if line:
            tail.append(line)
            on_line(line)

    return remember


def _execute(
    root: Path, name: str, command: list[str], on_line: Callable[[str], None], timeout_s: float | None, grace_s: float
) -> int:
    child = start(command, root, child_environment(), uuid.uuid4().hex)
    try:
        # The record stays until the last process is gone.
        with recorded(root, name, " ".join(command), child.family):
            try:
                child.go()
                for line in child.lines(timeout_s):
                    on_line(line)
            except OutOfTimeError:
                raise StageTimedOutError(_overdue(name, timeout_s), name) from None
            finally:
                code = child.close(grace_s)
    except BaseException:
        child.close(0.0)
        raise
    return code


def child_environment() -> dict[str, str]:
    """The child's environment: ours, with this interpreter first, because stages are started as ``python -m ...``."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "true", "PYTHONUNBUFFERED": "1"}


def _overdue(name: str, timeout_s: float | None) -> str:
    return (
        f"Stage '{name}' was ended: it took longer than the {timeout_s:.0f} s it may. "
        "A process of it may have hung; run again to resume, or allow more time."
    )


def _failure(root: Path, name: str, code: int, tail: tuple[str, ...], seconds: float) -> Exception:
    text = "\n".join(tail)
    if _LOCKED.search(text):
        return AlreadyRunningError(_locked(root, text))
    own = _STAGE_EXIT.search(text)
    exit_code = int(own.group(1)) if own else code
    last = "\n".join(f"  | {line}" for line in tail)
    if _NO_ROOM.search(text):
        free_mb = shutil.disk_usage(root).free / 1e6
        return DiskFullError(
            f"Stage '{name}' found no room on the disk ({free_mb:.1f} MB free in {root}).\n{last}\n"
            "Make room, then run again: finished stages are kept, this one starts afresh.",
            *(name, exit_code, tail),
        )
    return StageFailedError(
        f"Stage '{name}' failed after {seconds:.0f} s ({_ending(exit_code)}). Its last lines:\n{last}\n"
        f"Mend the cause, then run again: finished stages are kept. This stage alone: dvc repro -s {name}",
        *(name, exit_code, tail),
    )


def _ending(code: int) -> str:
    number = -code if code < 0 else code - 128
    try:
        signal_name = signal.Signals(number).name
    except ValueError:
        return f"exit code {code}"
    memory = ", perhaps for lack of memory" if number == signal.SIGKILL else ""
    return f"ended by {signal_name}{memory}"
