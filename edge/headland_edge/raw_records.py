"""Raw records of the fields into the ring, each morning once, by a thread of its own.

One record of the ring is JSON: ``field``, ``crop``, ``sowing_date``, ``day`` (days after sowing) and ``values`` by
column, null where nothing was measured. What the ring holds already is read from it at the start, so that no state
has to be kept beside it.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterable
from typing import Any

from headland_edge.records import COLUMNS, Records
from headland_edge.ring import Ring

_QUEUED = 1000
_Season = tuple[str, str]


class RawRecords:
    """New mornings of every field, handed over to the ring; close it at the end."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._queue: queue.Queue[tuple[str, Records] | None] = queue.Queue(_QUEUED)
        self._next: dict[_Season, int] = {}
        self.lost = 0
        """Hand-overs that found the disk too slow or full."""
        self._thread = threading.Thread(target=self._write_all, name="raw-records", daemon=True)
        self._thread.start()

    def put(self, field: str, records: Records) -> None:
        """Hand over what is known of a field; returns at once."""
        try:
            self._queue.put_nowait((field, records))
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Write what was handed over, and end."""
        self._queue.put(None)
        self._thread.join()

    def _write_all(self) -> None:
        for plain in read(self._ring):
            key = (plain["field"], plain["sowing_date"])
            self._next[key] = max(self._next.get(key, 0), plain["day"] + 1)
        while (work := self._queue.get()) is not None:
            try:
                self._append(*work)
            except OSError:
                self.lost += 1

    def _append(self, field: str, records: Records) -> None:
        key = (field, records.sowing_date.isoformat())
        for day in range(self._next.get(key, 0), records.n_mornings):
            self._ring.append(_line(field, records, day))
            self._next[key] = day + 1
        self._ring.flush()


def read(ring: Ring) -> Iterable[dict[str, Any]]:
    """Raw records in plain form, the oldest first; what is not of this form is left out."""
    for record in ring.records():
        try:
            plain = json.loads(record)
        except ValueError:
            continue
        if isinstance(plain, dict) and isinstance(plain.get("field"), str) and type(plain.get("day")) is int:
            yield plain


def _line(field: str, records: Records, day: int) -> bytes:
    values = {
        name: None if value != value else value
        for name, value in zip(COLUMNS, records.values[day].tolist(), strict=True)
    }
    plain = {"field": field, "crop": records.crop, "sowing_date": records.sowing_date.isoformat(), "day": day}
    return json.dumps({**plain, "values": values}, separators=(",", ":")).encode()
