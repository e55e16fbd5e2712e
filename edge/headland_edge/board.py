"""What the device says now: the latest answer for every field, for whoever asks over HTTP or listens on MQTT."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

Said = dict[str, Any]


class Board:
    """Answers by field; one thread writes, any may read."""

    def __init__(self) -> None:
        self._said: dict[str, Said] = {}
        self._lock = threading.Lock()
        self.listeners: list[Callable[[str, Said], None]] = []
        """Called with every new answer, by the thread that gives it; they must not wait."""
        self.advised = self.refused = 0
        """Answers since the start of the process."""

    def say(self, field: str, said: Said) -> None:
        """Replace a field's answer."""
        with self._lock:
            self._said[field] = said
            if "refused" in said:
                self.refused += 1
            else:
                self.advised += 1
        for listener in self.listeners:
            listener(field, said)

    def all(self) -> dict[str, Said]:
        """Every field's latest answer."""
        with self._lock:
            return dict(self._said)
