"""Looks for updates, each in a process of its own: what they need (tuf, cryptography) never weighs on the service."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from headland_edge.home import Home, Settings
from headland_edge.update import last_outcome

LIMIT_S = 7200.0
"""A look that takes longer is ended; the next one goes on with what it fetched."""
_FIRST_S = 10.0
_END_S = 5.0


class Looks:
    """Starts a look every ``updates.every_s`` and sees it through; never two at once.

    Args:
        home: the device's folder.
        settings: of it.
        now_s: monotonic seconds.
        command: of a look.
    """

    def __init__(
        self,
        home: Home,
        settings: Settings,
        *,
        now_s: Callable[[], float] = time.monotonic,
        command: tuple[str, ...] = (sys.executable, "-m", "headland_edge", "update"),
    ) -> None:
        self._home, self._now_s = home, now_s
        self._command = [*command, "--home", str(home.root)]
        self._every_s = settings.updates.every_s
        self._wanted = bool(settings.updates.url or settings.updates.folder)
        self._next_s = now_s() + min(_FIRST_S, self._every_s)
        self._until_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def busy(self) -> bool:
        """Whether a look is under way."""
        return self._process is not None

    def soon(self) -> None:
        """Look at the next turn."""
        self._next_s = self._now_s()

    def turn(self) -> dict[str, Any] | None:
        """Start or end what is due; returns what a look came to when it just ended, as ``last_outcome``."""
        now_s = self._now_s()
        if self._process is not None:
            if self._process.poll() is None:
                if now_s > self._until_s:
                    self._process.kill()
                return None
            self._process = None
            return last_outcome(self._home)
        if self._wanted and now_s >= self._next_s:
            self._next_s, self._until_s = now_s + self._every_s, now_s + LIMIT_S
            try:
                self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            except OSError as error:  # no memory, no process: advice goes on, and the next look may be luckier
                print(f"no look for an update: {error.strerror}", file=sys.stderr, flush=True)
        return None

    def close(self) -> None:
        """End a look under way; the next one goes on with what it fetched."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
