"""What the fleet has said, for good: one SQLite file, every commit flushed, each message once.

messages    id, device, kind, time by the device's clock, time received, body (JSON)
refused     how many were refused, by reason
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from headland_edge.messages import Message

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, device_id TEXT NOT NULL, kind TEXT NOT NULL,
  time_s REAL NOT NULL, received_s REAL NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_kind ON messages (kind, device_id, n, received_s, time_s);
CREATE TABLE IF NOT EXISTS refused (reason TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""


class StoreError(Exception):
    """The store cannot be used; the message names the file and what to do."""


class Store:
    """The fleet's messages; close it, or use it as a context manager.

    Args:
        path: of the database; made if need be.

    Raises:
        StoreError: the file is no database, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, timeout=30.0)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}. Restore it from a copy, or move it away to begin anew.") from None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def keep(self, messages: Iterable[Message], refused: Iterable[str] = (), *, received_s: float) -> int:
        """Keep messages and count refusals in one commit.

        Args:
            messages: each is kept once, however often it comes.
            refused: a reason for each message that was refused.
            received_s: when they came, seconds since 1970.

        Returns:
            How many messages were new. When this returns, all of them are on the disk.
        """
        with self._database:
            before = self._database.total_changes
            self._database.executemany(
                "INSERT OR IGNORE INTO messages (id, device_id, kind, time_s, received_s, body) VALUES (?,?,?,?,?,?)",
                [(m.id, m.device_id, m.kind, m.time_s, received_s, m.body_json.decode()) for m in messages],
            )
            new = self._database.total_changes - before
            self._database.executemany(
                "INSERT INTO refused VALUES (?, ?) ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
                sorted(Counter(refused).items()),
            )
        return new

    def messages(self, kind: str) -> Iterator[Message]:
        """All of a kind, in the order they were received."""
        found = self._database.execute(
            "SELECT device_id, kind, time_s, body FROM messages WHERE kind = ? ORDER BY n", (kind,)
        )
        for device_id, which, time_s, body in found:
            yield Message(device_id, which, time_s, json.loads(body))

    def received(self, kind: str) -> Iterator[tuple[float, Message]]:
        """All of a kind, each with when it was received, in that order."""
        found = self._database.execute(
            "SELECT received_s, device_id, kind, time_s, body FROM messages WHERE kind = ? ORDER BY n", (kind,)
        )
        for received_s, device_id, which, time_s, body in found:
            yield received_s, Message(device_id, which, time_s, json.loads(body))

    def latest_health(self) -> dict[str, dict[str, Any]]:
        """By device, the body of its latest health message.

        That is one of those received last, because a device's clock may be wrong; of several received at once, whose
        order on the way means nothing, the one its device says it wrote last.
        """
        found = self._database.execute(
            "SELECT device_id, body FROM messages JOIN (SELECT n AS latest, ROW_NUMBER() OVER "
            "(PARTITION BY device_id ORDER BY time_s DESC, n DESC) AS place FROM messages JOIN "
            "(SELECT device_id AS whose, MAX(n), received_s AS last_s FROM messages WHERE kind = 'health' "
            "GROUP BY device_id) ON device_id = whose AND received_s = last_s WHERE kind = 'health') "
            "ON n = latest WHERE place = 1 ORDER BY device_id"
        )
        return {device_id: json.loads(body) for device_id, body in found}

    def counts(self) -> dict[str, dict[str, int]]:
        """``kept`` by kind and ``refused`` by reason."""
        kept = self._database.execute("SELECT kind, COUNT(*) FROM messages GROUP BY kind ORDER BY kind")
        refused = self._database.execute("SELECT reason, count FROM refused ORDER BY reason")
        return {"kept": dict(kept.fetchall()), "refused": dict(refused.fetchall())}
