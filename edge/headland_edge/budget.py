"""A day's bytes, booked on disk before they are spent, so that no crash and no power cut lets a device spend more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from headland_edge.durable import write_bytes


class Budget:
    """How many bytes a day may still be read, kept in a file.

    Args:
        file: where the day's sum stands.
        daily_bytes: at most as many a day.
        now_s: the system clock.
        floor_s: the time it is at least; a clock before it is wrong, and days count from the machine's start.
    """

    def __init__(
        self, file: Path, daily_bytes: int, now_s: Callable[[], float] = time.time, floor_s: float = 0.0
    ) -> None:
        self._file = file
        self._daily = daily_bytes
        self._now_s = now_s
        self._floor_s = floor_s

    @property
    def left(self) -> int:
        """Bytes that may still be read today."""
        return max(0, self._daily - self._spent())

    def book(self, count: int) -> None:
        """Add ``count`` (negative: give back) to today's bytes, on disk when this returns."""
        spent = max(0, self._spent() + count)
        write_bytes(self._file, json.dumps({"day": self._day(), "bytes": spent}).encode())

    def _spent(self) -> int:
        try:
            with self._file.open("rb") as file:
                plain = json.loads(file.read(1000))
            spent = plain["bytes"] if plain["day"] == self._day() else 0
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError):
            return self._daily if self._rewritten() else 0
        return spent if type(spent) is int and spent >= 0 else self._daily

    def _rewritten(self) -> bool:
        """A damaged file counts as a spent day, once: from tomorrow on it is a good one."""
        write_bytes(self._file, json.dumps({"day": self._day(), "bytes": self._daily}).encode())
        return True

    def _day(self) -> str:
        now_s = self._now_s()
        if now_s >= self._floor_s:
            return f"day-{int(now_s // 86400)}"
        return f"{_boot_id()}-{int(time.monotonic() // 86400)}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "boot"
