"""The outbox: what a device has to say, kept until somebody has it for good.

Written by a thread of its own (``headland_edge.database``): ``put`` only hands over, and its ticket tells when the
message lies on the disk. Messages carry the hash of what they say as their key: one that is put or sent twice stays
one message.

Priority is the order of ``messages.KINDS``: health goes first, records are dropped first when the space is used up.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from headland_edge.database import Database, NotKeptError, Ticket, Writer, set_aside_if_damaged
from headland_edge.messages import KINDS, Message, MessageError, decode, encode

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, priority INTEGER NOT NULL, line BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_priority ON messages (priority, n);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
OutboxError = NotKeptError


class Outbox:
    """The outbox of one device; close it, or use it as a context manager.

    Args:
        path: of the database.
        most_bytes: of message lines kept; what passes it is dropped, the least important and oldest first.
    """

    def __init__(self, path: Path, most_bytes: int = 4_000_000) -> None:
        self._most_bytes = most_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self.set_aside = set_aside_if_damaged(path, _SCHEMA)
        self._path = path
        self._writer = Writer(Database(path, _SCHEMA), path, "outbox", self._make_room)

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, message: Message, *, latest_only: bool = False) -> Ticket:
        """Hand over a message; returns at once.

        Args:
            message: to keep.
            latest_only: earlier ones of its kind that still wait say nothing any more, and leave.

        Raises:
            MessageError: nobody would take it.
        """
        line, message_id, priority = encode(message), message.id, KINDS.index(message.kind)

        def insert(database: sqlite3.Connection) -> bool:
            if latest_only:
                database.execute("DELETE FROM messages WHERE priority = ? AND id != ?", (priority, message_id))
            done = database.execute(
                "INSERT OR IGNORE INTO messages (id, priority, line) VALUES (?, ?, ?)", (message_id, priority, line)
            )
            return done.rowcount == 1

        return self._writer.hand_over(insert)

    def delivered(self, ids: Iterable[str]) -> Ticket:
        """Somebody has these for good; they leave the outbox."""
        gone = [(each,) for each in ids]

        def delete(database: sqlite3.Connection) -> bool:
            before = database.total_changes
            database.executemany("DELETE FROM messages WHERE id = ?", gone)
            return database.total_changes > before

        return self._writer.hand_over(delete)

    def pending(self, most_bytes: int = 1 << 30, without: Collection[str] = ()) -> list[Message]:
        """What has to be sent, the most important first, as much as fits; what is damaged is left out.

        Args:
            most_bytes: of lines.
            without: ids to pass over, as they are on their way.
        """
        found: list[Message] = []
        with self._opened() as database:
            for message_id, line in database.execute("SELECT id, line FROM messages ORDER BY priority, n"):
                if message_id in without:
                    continue
                most_bytes -= len(line)
                if most_bytes < 0:
                    break
                with suppress(MessageError):
                    found.append(decode(bytes(line)))
            database.rollback()
        return found

    def counts(self) -> dict[str, int]:
        """``waiting``, ``waiting_bytes``, and ``dropped`` for want of space since the outbox was made."""
        return counts_in(self._path)

    def close(self) -> None:
        """Write what was handed over, and end."""
        self._writer.close()

    def _opened(self) -> Database:
        return Database(self._path, _SCHEMA)

    def _make_room(self, database: sqlite3.Connection) -> None:
        (size,) = database.execute("SELECT COALESCE(SUM(LENGTH(line)), 0) FROM messages").fetchone()
        over, dropped = size - self._most_bytes, []
        if over > 0:
            for n, length in database.execute("SELECT n, LENGTH(line) FROM messages ORDER BY priority DESC, n"):
                dropped.append((n,))
                over -= length
                if over <= 0:
                    break
            database.executemany("DELETE FROM messages WHERE n = ?", dropped)
            database.execute(
                "INSERT INTO counts VALUES ('dropped', ?) ON CONFLICT (name) DO UPDATE SET value = value + ?",
                (len(dropped), len(dropped)),
            )


def counts_in(path: Path) -> dict[str, int]:
    """``Outbox.counts`` of the outbox at ``path``, whoever has it open. Raises sqlite3.Error."""
    with Database(path, _SCHEMA) as database:
        waiting, size = database.execute("SELECT COUNT(*), COALESCE(SUM(LENGTH(line)), 0) FROM messages").fetchone()
        dropped = database.execute("SELECT COALESCE(SUM(value), 0) FROM counts WHERE name = 'dropped'").fetchone()
    return {"waiting": waiting, "waiting_bytes": size, "dropped": dropped[0]}
