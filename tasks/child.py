"""A command in a process group of its own, whose whole family can be found and ended.

``start`` launches the command behind a gate: the new process waits for one line before it becomes the command. The
caller writes down who it is (`tasks.running`) and only then calls ``Child.go``; if the caller dies in between, the gate
closes and the command never runs. So no command ever runs unrecorded.

``Child.lines`` yields what the family prints; ``end_family`` ends all of it, politely first. POSIX only.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

FAMILY_VARIABLE = "HEADLAND_FAMILY"
_GATE = 'read -r go && exec "$@"'
_SAME_MOMENT_S = 0.05
_GLANCE_S = 0.5
_LOOK_EVERY_S = 0.1
_FORCED_ROUNDS = 10


class OutOfTimeError(Exception):
    """The command was still running when its time was up."""


@dataclass(frozen=True)
class Family:
    """How to recognise a command's processes for certain, long after its parent is gone.

    ``created_s`` (seconds since the epoch, as psutil tells it) guards against another process with the same pid;
    ``token``, which every descendant inherits in its environment, finds those that left the group.
    """

    pid: int
    created_s: float
    token: str

    def members(self) -> list[psutil.Process]:
        """Live processes of this family; zombies are dead and don't count."""
        ours = self._leader_exists()
        return [process for process in psutil.process_iter() if _is_live(process) and self._has(process, ours)]

    def _leader_exists(self) -> bool:
        try:
            return abs(psutil.Process(self.pid).create_time() - self.created_s) < _SAME_MOMENT_S
        except psutil.Error:
            return False

    def _has(self, process: psutil.Process, group_is_ours: bool) -> bool:
        try:
            if group_is_ours and os.getpgid(process.pid) == self.pid:
                return True
            return process.environ().get(FAMILY_VARIABLE) == self.token
        except (psutil.Error, OSError):
            return False


def _is_live(process: psutil.Process) -> bool:
    try:
        return process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Child:
    """One started command. Not thread-safe; use it from the thread that started it."""

    def __init__(self, process: subprocess.Popen[bytes], token: str) -> None:
        self._process = process
        self.family = Family(process.pid, psutil.Process(process.pid).create_time(), token)

    def go(self) -> None:
        """Open the gate: the process becomes the command."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.close()

    def lines(self, timeout_s: float | None = None) -> Iterator[str]:
        """Yield each line of stdout and stderr until the command has ended.

        Raises:
            OutOfTimeError: after ``timeout_s`` seconds.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        rest = b""
        for chunk in self._chunks(deadline_s):
            # A carriage return redraws a progress bar: each drawing is a line here.
            *whole, rest = (rest + chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")).split(b"\n")
            yield from (line.decode(errors="replace").rstrip() for line in whole)
        if rest:
            yield rest.decode(errors="replace").rstrip()
        self._wait(deadline_s)

    def _wait(self, deadline_s: float | None) -> None:
        """Wait for a command that has closed its output but not ended; most do both within a millisecond."""
        left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        try:
            self._process.wait(left_s)
        except subprocess.TimeoutExpired:
            raise OutOfTimeError from None

    def _chunks(self, deadline_s: float | None) -> Iterator[bytes]:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                # Looked at before the pipe: what was written before the end is still read.
                ended = self._process.poll() is not None
                if selector.select(0 if ended else _GLANCE_S):
                    chunk = os.read(pipe, 65536)
                    if not chunk:
                        return
                    yield chunk
                elif ended:
                    # A process left behind holds the pipe open; the command itself is over.
                    return
                if deadline_s is not None and time.monotonic() > deadline_s:
                    raise OutOfTimeError

    def close(self, grace_s: float) -> int:
        """End whatever is left of the family, reap the command, return its exit code (negative: ended by a signal)."""
        code = self._process.poll()
        end_family(self.family, grace_s)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()
        return self._process.wait() if code is None else code


def start(command: Sequence[str], cwd: Path, env: Mapping[str, str], token: str) -> Child:
    """Start ``command`` behind its gate, in a session and process group of its own, stdout and stderr in one pipe."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", _GATE, "sh", *command],
        cwd=cwd,
        env={**env, FAMILY_VARIABLE: token},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return Child(process, token)


def end_family(family: Family, grace_s: float) -> None:
    """Ask every process of the family to end, wait ``grace_s`` seconds, then end those left by force.

    A second Ctrl-C while waiting cuts the grace short.
    """
    try:
        _signal(family.members(), signal.SIGTERM)
        _gone_within(family, grace_s)
    finally:
        # Repeated, because a process can start another one between the look and the signal.
        for _ in range(_FORCED_ROUNDS):
            _signal(family.members(), signal.SIGKILL)
            if _gone_within(family, 1.0):
                break


def _gone_within(family: Family, seconds: float) -> bool:
    deadline_s = time.monotonic() + seconds
    while family.members():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit instead of ending Python at once, so that cleaning up can happen.

    A handler that someone else has set (Prefect sets one) is left alone, and so are other threads.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    untouched = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in untouched:
        signal.signal(number, _raise_exit)
    try:
        yield
    finally:
        for number in untouched:
            signal.signal(number, signal.SIG_DFL)


def _raise_exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
