"""An SQLite file that a device writes for good without ever waiting for it.

Write-ahead log, flushed at every commit (``synchronous=FULL``). A commit takes longer than an advice, so one thread
commits in batches whatever was handed over, and a ticket tells when it lies on the disk. A file that SQLite finds
damaged is moved out of the way, and a new one begins.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

_BATCH = 200
_WAIT_S = 5.0
_QUEUED = 10_000

Ticket = Future[bool]
"""True once the work lies on the disk, False if there was nothing to do; an exception if it could not be kept."""
Work = Callable[[sqlite3.Connection], bool]


class NotKeptError(Exception):
    """Something could not be kept: the disk, or too much at once."""


class Database:
    """A connection for one piece of work; SQLite's own context manager does not close it.

    Args:
        path: of the file.
        schema: statements that make what is missing.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self._path, self._schema = path, schema

    def __enter__(self) -> sqlite3.Connection:
        self._connection = sqlite3.connect(self._path, timeout=_WAIT_S)
        try:
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("PRAGMA cache_size=-256")
            self._connection.executescript(self._schema)
        except sqlite3.Error:
            self._connection.close()
            raise
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


class Writer:
    """The thread that writes; ``close`` writes what was handed over, and ends.

    Args:
        database: where to.
        path: of it, for messages.
        name: of the thread.
        tidy: done at the end of every batch, in the same commit.
    """

    def __init__(self, database: Database, path: Path, name: str, tidy: Callable[[sqlite3.Connection], None]) -> None:
        self._database, self._path, self._name, self._tidy = database, path, name, tidy
        self._queue: queue.Queue[tuple[Work, Ticket] | None] = queue.Queue(_QUEUED)
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name=name, daemon=True)
        self._thread.start()

    def hand_over(self, work: Work) -> Ticket:
        """Have ``work`` done in the next commit; returns at once. Raises nothing: the ticket tells."""
        ticket: Ticket = Future()
        if self._closed:
            ticket.set_exception(NotKeptError(f"the {self._name} is closed"))
            return ticket
        try:
            self._queue.put_nowait((work, ticket))
        except queue.Full:
            ticket.set_exception(NotKeptError(f"{_QUEUED} writes wait for the disk; it takes none"))
        return ticket

    def close(self) -> None:
        """Write what was handed over, and end."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()

    def _write_all(self) -> None:
        """Whatever waits goes into one commit."""
        while True:
            batch = [self._queue.get()]
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

    def _commit(self, batch: list[tuple[Work, Ticket]]) -> None:
        try:
            with self._database as connection:
                results = [work(connection) for work, _ in batch]
                self._tidy(connection)
                connection.commit()
        except Exception as error:  # whatever it is, the thread must live on: the next batch may be kept
            for _, ticket in batch:
                ticket.set_exception(NotKeptError(f"{self._path}: {error}"))
            return
        for (_, ticket), result in zip(batch, results, strict=True):
            ticket.set_result(result)


def set_aside_if_damaged(path: Path, schema: str) -> Path | None:
    """Move a database that SQLite finds damaged out of the way; returns where to, None if it is whole."""
    if not path.exists():
        return None
    try:
        with Database(path, schema) as database:
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
