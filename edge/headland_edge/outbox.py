"""The outbox: what a device has to say, kept until somebody has it for good.

SQLite with a write-ahead log, flushed at every commit (``synchronous=FULL``). A commit takes longer than an advice, so
one writer thread commits in batches and ``put`` only hands over; its ticket tells when the message lies on the disk.
Messages carry the hash of what they say as their key: one that is put or sent twice stays one message.

Priority is the order of ``messages.KINDS``: health goes first, records are dropped first when the space is used up.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from headland_edge.messages import KINDS, Message, MessageError, decode, encode

_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, priority INTEGER NOT NULL, line BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_priority ON messages (priority, n);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_BATCH = 200
_WAIT_S = 5.0
_QUEUED = 10_000
Ticket = Future[bool]
"""True once the message lies on the disk, False if it was there already; an exception if it could not be kept."""


class OutboxError(Exception):
    """A message could not be kept: the disk, or too many at once."""


@dataclass(frozen=True)
class _Put:
    line: bytes
    message_id: str
    priority: int
    ticket: Ticket


@dataclass(frozen=True)
class _Delivered:
    ids: tuple[str, ...]
    ticket: Ticket


class Outbox:
    """The outbox of one device; close it, or use it as a context manager.

    Args:
        path: of the database.
        most_bytes: of message lines kept; what passes it is dropped, the least important and oldest first.
    """

    def __init__(self, path: Path, most_bytes: int = 4_000_000) -> None:
        self._path, self._most_bytes = path, most_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        self.set_aside = _set_aside_if_damaged(path)
        self._queue: queue.Queue[_Put | _Delivered | None] = queue.Queue(_QUEUED)
        self._closed = False
        self._writer = threading.Thread(target=self._write_all, name="outbox", daemon=True)
        self._writer.start()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, message: Message) -> Ticket:
        """Hand over a message; returns at once.

        Raises:
            MessageError: nobody would take it.
        """
        ticket: Ticket = Future()
        line = encode(message)
        self._hand_over(_Put(line, message.id, KINDS.index(message.kind), ticket))
        return ticket

    def delivered(self, ids: Iterable[str]) -> Ticket:
        """Somebody has these for good; they leave the outbox."""
        ticket: Ticket = Future()
        self._hand_over(_Delivered(tuple(ids), ticket))
        return ticket

    def pending(self, most_bytes: int = 1 << 30) -> list[Message]:
        """What has to be sent, the most important first, as much as fits; what is damaged is left out."""
        found: list[Message] = []
        with self._opened() as database:
            for (line,) in database.execute("SELECT line FROM messages ORDER BY priority, n"):
                most_bytes -= len(line)
                if most_bytes < 0:
                    break
                with suppress(MessageError):
                    found.append(decode(bytes(line)))
            database.rollback()
        return found

    def counts(self) -> dict[str, int]:
        """``waiting``, ``waiting_bytes``, and ``dropped`` for want of space since the outbox was made."""
        with self._opened() as database:
            waiting, size = database.execute("SELECT COUNT(*), COALESCE(SUM(LENGTH(line)), 0) FROM messages").fetchone()
            dropped = database.execute("SELECT COALESCE(SUM(value), 0) FROM counts WHERE name = 'dropped'").fetchone()
        return {"waiting": waiting, "waiting_bytes": size, "dropped": dropped[0]}

    def close(self) -> None:
        """Write what was handed over, and end."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._writer.join()

    def _hand_over(self, work: _Put | _Delivered) -> None:
        if self._closed:
            work.ticket.set_exception(OutboxError("the outbox is closed"))
            return
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            work.ticket.set_exception(OutboxError(f"{_QUEUED} messages wait for the disk; it takes none"))

    def _opened(self) -> _Database:
        return _Database(self._path)

    def _write_all(self) -> None:
        """The writer thread: whatever waits goes into one commit."""
        while True:
            work = self._queue.get()
            batch = [work]
            while len(batch) < _BATCH and batch[-1] is not None:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            wanted = [each for each in batch if each is not None]
            if wanted:
                self._commit(wanted)
            if batch[-1] is None:
                return

    def _commit(self, batch: list[_Put | _Delivered]) -> None:
        try:
            with self._opened() as database:
                results = [_apply(database, each) for each in batch]
                self._make_room(database)
                database.commit()
        except sqlite3.Error as error:
            for each in batch:
                each.ticket.set_exception(OutboxError(f"{self._path}: {error}"))
            return
        for each, result in zip(batch, results, strict=True):
            each.ticket.set_result(result)

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


class _Database:
    """A connection for one piece of work; SQLite's own context manager does not close it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        self._connection = sqlite3.connect(self._path, timeout=_WAIT_S)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error:
            self._connection.close()
            raise
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _apply(database: sqlite3.Connection, work: _Put | _Delivered) -> bool:
    if isinstance(work, _Put):
        done = database.execute(
            "INSERT OR IGNORE INTO messages (id, priority, line) VALUES (?, ?, ?)",
            (work.message_id, work.priority, work.line),
        )
        return done.rowcount == 1
    before = database.total_changes
    database.executemany("DELETE FROM messages WHERE id = ?", [(each,) for each in work.ids])
    return database.total_changes > before


def _set_aside_if_damaged(path: Path) -> Path | None:
    """Move a database that SQLite finds damaged out of the way; returns where to, None if it is whole."""
    if not path.exists():
        return None
    try:
        with _Database(path) as database:
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if found == "ok":
                return None
    except sqlite3.OperationalError:
        return None  # locked, full or read-only, not damaged
    except sqlite3.DatabaseError:
        pass
    n = 1
    while (aside := path.with_name(f"{path.name}.damaged{n}")).exists():
        n += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
