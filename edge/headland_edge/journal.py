"""The journal: every advice given, with all it rests on, so that it can be answered for without network.

Written by a thread of its own (``headland_edge.database``): ``put`` only hands over. An advice is known by the hash of
field, date, release and records, so that one given again after a restart stands here once. Records are kept as they
were that morning, packed; the oldest advices leave when the space is used up.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from headland_edge.database import Database, Ticket, Writer, set_aside_if_damaged
from headland_edge.records import COLUMNS, Records

_SCHEMA = """
CREATE TABLE IF NOT EXISTS advices (
  n INTEGER PRIMARY KEY AUTOINCREMENT, advice_id TEXT NOT NULL UNIQUE, time_s REAL NOT NULL, field TEXT NOT NULL,
  date TEXT NOT NULL, entry TEXT NOT NULL, inputs BLOB NOT NULL);
"""
_LITTLE = np.dtype("<f8")
_LEVEL = 3
_MAX_INPUT_BYTES = 1_000_000
MIN_PREFIX = 4
"""Digits of an id that are enough to ask with."""


class UnknownAdviceError(LookupError):
    """No advice, or more than one, has this id; the message says what to do."""


@dataclass(frozen=True)
class Entry:
    """One advice with all it rests on.

    Args:
        advice_id: 32 hexadecimal digits.
        time_s: seconds since 1970 by the device's clock, which may be wrong.
        field: its name.
        date: the morning it was given for.
        advice: its plain form, or ``{"refused": ...}``.
        release: ``bundle_sha256``, ``counter``, ``as_of``, ``git_commit``, ``data_versions``, ``run_id``.
        records: as they were that morning.
    """

    advice_id: str
    time_s: float
    field: str
    date: date
    advice: dict[str, Any]
    release: dict[str, Any]
    records: Records

    def to_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        records = self.records
        return {
            "advice_id": self.advice_id,
            "time_s": self.time_s,
            "field": self.field,
            "date": self.date.isoformat(),
            "advice": self.advice,
            "fallbacks": self.advice.get("fallbacks", []),
            "release": self.release,
            "inputs": {
                "crop": records.crop,
                "sowing_date": records.sowing_date.isoformat(),
                "mornings": records.n_mornings,
                "columns": {
                    name: [None if value != value else value for value in records.column(name).tolist()]
                    for name in COLUMNS
                },
            },
        }


class Journal:
    """The journal of one device; close it, or use it as a context manager.

    Args:
        path: of the database.
        most_bytes: of advices and packed records; the oldest leave first.
    """

    def __init__(self, path: Path, most_bytes: int = 16_000_000) -> None:
        self._path, self._most_bytes = path, most_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self.set_aside = set_aside_if_damaged(path, _SCHEMA)
        self._writer = Writer(Database(path, _SCHEMA), path, "journal", self._make_room)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, entry: Entry) -> Ticket:
        """Hand over an advice; returns at once. Its records must not be changed any more."""
        return self._writer.hand_over(lambda database: _insert(database, entry))

    def close(self) -> None:
        """Write what was handed over, and end."""
        self._writer.close()

    def _make_room(self, database: sqlite3.Connection) -> None:
        size = "LENGTH(entry) + LENGTH(inputs)"
        (over,) = database.execute(f"SELECT COALESCE(SUM({size}), 0) - ? FROM advices", (self._most_bytes,)).fetchone()
        gone = []
        for n, length in database.execute(f"SELECT n, {size} FROM advices ORDER BY n") if over > 0 else ():
            gone.append((n,))
            over -= length
            if over <= 0:
                break
        database.executemany("DELETE FROM advices WHERE n = ?", gone)


def find(path: Path, advice_id: str) -> Entry:
    """The advice with an id, or with one that begins so; reads only, whoever writes meanwhile.

    Args:
        path: of the journal.
        advice_id: ``MIN_PREFIX`` digits or more.

    Raises:
        UnknownAdviceError: none or several begin so.
    """
    if len(advice_id) < MIN_PREFIX or not set(advice_id) <= set("0123456789abcdef"):
        raise UnknownAdviceError(f"{advice_id!r}: give at least {MIN_PREFIX} digits (0-9, a-f) of an advice's id")
    if not path.exists():
        raise UnknownAdviceError(f"{path}: no advice was given here yet")
    try:
        with Database(path, _SCHEMA) as database:
            rows = database.execute(
                "SELECT advice_id, time_s, field, date, entry, inputs FROM advices WHERE advice_id GLOB ? LIMIT 9",
                (f"{advice_id}*",),
            ).fetchall()
    except sqlite3.Error as error:
        raise UnknownAdviceError(f"{path}: cannot be read ({error})") from None
    if not rows:
        raise UnknownAdviceError(f"{advice_id}: no advice in {path} has this id; the oldest leave when space runs out")
    if len(rows) > 1:
        raise UnknownAdviceError(f"{advice_id}: begins {', '.join(row[0] for row in rows)}; give more digits")
    return _entry(*rows[0])


def latest(path: Path, count: int) -> list[dict[str, Any]]:
    """Id, field and date of the advices given last, newest first; empty if there is no journal to read."""
    if not path.exists():
        return []
    try:
        with Database(path, _SCHEMA) as database:
            rows = database.execute("SELECT advice_id, field, date FROM advices ORDER BY n DESC LIMIT ?", (count,))
            return [dict(zip(("advice_id", "field", "date"), row, strict=True)) for row in rows]
    except sqlite3.Error:
        return []


def advice_id(field: str, bundle_sha256: str, records: Records) -> str:
    """Hash of field, date, release and records: the same advice always has the same id, whatever the clock says."""
    head = [field, records.last_date.isoformat(), bundle_sha256, records.crop, records.sowing_date.isoformat()]
    told = json.dumps(head).encode() + b"\n" + _bytes_of(records)
    return hashlib.sha256(told).hexdigest()[:32]


def _bytes_of(records: Records) -> bytes:
    return np.ascontiguousarray(records.values, _LITTLE).tobytes()


def _insert(database: sqlite3.Connection, entry: Entry) -> bool:
    import zstandard

    told: dict[str, Any] = {"advice": entry.advice, "release": entry.release}
    told |= {"crop": entry.records.crop, "sowing_date": entry.records.sowing_date.isoformat()}
    done = database.execute(
        "INSERT OR IGNORE INTO advices (advice_id, time_s, field, date, entry, inputs) VALUES (?, ?, ?, ?, ?, ?)",
        (
            entry.advice_id,
            entry.time_s,
            entry.field,
            entry.date.isoformat(),
            json.dumps(told, sort_keys=True, allow_nan=False),
            zstandard.ZstdCompressor(level=_LEVEL).compress(_bytes_of(entry.records)),
        ),
    )
    return done.rowcount == 1


def _entry(advice_id: str, time_s: float, field: str, day: str, entry: str, inputs: bytes) -> Entry:
    import zstandard

    try:
        told = json.loads(entry)
        data = zstandard.ZstdDecompressor().decompress(inputs, max_output_size=_MAX_INPUT_BYTES)
        values = np.frombuffer(data, _LITTLE).astype(np.float64).reshape(-1, len(COLUMNS))
        records = Records(told["crop"], date.fromisoformat(told["sowing_date"]), values)
        return Entry(advice_id, time_s, field, date.fromisoformat(day), told["advice"], told["release"], records)
    except (ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
        raise UnknownAdviceError(f"{advice_id}: its entry is damaged ({error})") from None
