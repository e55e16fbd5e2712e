from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from headland_edge.messages import KINDS, Message, MessageError
from headland_edge.outbox import Outbox, OutboxError

from tests.toy import python_environment


def message(number: int, kind: str = "record", size: int = 0) -> Message:
    return Message("field-1", kind, float(number), {"number": number, "filling": "x" * size})


def test_what_was_put_is_pending_until_it_is_delivered(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox:
        assert outbox.put(message(1)).result(10) is True
        assert outbox.put(message(2)).result(10) is True
        assert outbox.pending() == [message(1), message(2)]
        assert outbox.delivered([message(1).id]).result(10) is True
        assert outbox.pending() == [message(2)]
    with Outbox(tmp_path / "outbox.db") as outbox:
        assert outbox.pending() == [message(2)]


def test_the_same_message_twice_is_one(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox:
        assert [outbox.put(message(1)).result(10) for _ in range(3)] == [True, False, False]
        assert outbox.counts()["waiting"] == 1


def test_the_more_important_goes_first_and_only_as_much_as_fits(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox:
        for number, kind in enumerate(reversed(KINDS)):
            outbox.put(message(number, kind)).result(10)
        assert [each.kind for each in outbox.pending()] == list(KINDS)
        assert [each.kind for each in outbox.pending(most_bytes=350)] == list(KINDS)[:2]


def test_the_least_important_and_oldest_are_dropped_and_counted(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db", most_bytes=5000) as outbox:
        outbox.put(message(0, "health", 500)).result(10)
        for number in range(1, 21):
            outbox.put(message(number, "record", 500)).result(10)
        kept, counts = outbox.pending(), outbox.counts()
    assert kept[0].kind == "health"
    numbers = [each.body["number"] for each in kept[1:]]
    assert numbers == list(range(21 - len(numbers), 21))
    assert counts["waiting_bytes"] <= 5000
    assert counts["dropped"] == 20 - len(numbers) > 0


def test_a_message_nobody_would_take_is_refused_at_once(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox, pytest.raises(MessageError, match="finite"):
        outbox.put(Message("field-1", "record", 1.0, {"depletion": float("nan")}))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "no database"])
def test_a_damaged_database_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path) as outbox:
        for number in range(200):
            outbox.put(message(number, size=200))
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[4096:12288] = bytes(byte ^ 0x5A for byte in data[4096:12288])
    path.write_bytes({"flipped": data, "truncated": data[:6000], "no database": b"x" * 9000}[damage])
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with Outbox(path) as outbox:
        assert outbox.set_aside is not None
        assert outbox.set_aside.exists()
        assert outbox.put(message(1)).result(10) is True
        assert outbox.pending() == [message(1)]


def test_a_disk_that_takes_nothing_is_told_by_the_ticket_and_the_device_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with Outbox(path) as outbox:
        outbox.put(message(1)).result(10)
        path.rename(tmp_path / "away")
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.mkdir()
        with pytest.raises(OutboxError, match=r"outbox\.db"):
            outbox.put(message(2)).result(30)
        path.rmdir()
        (tmp_path / "away").rename(path)
        assert outbox.put(message(3)).result(10) is True
        assert outbox.pending() == [message(1), message(3)]


def test_putting_does_not_wait_for_a_commit(tmp_path: Path) -> None:
    """While another process holds the database, a commit has to wait; handing over does not."""
    import sqlite3

    path = tmp_path / "outbox.db"
    with Outbox(path) as outbox:
        outbox.put(message(0)).result(10)
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        tickets = [outbox.put(message(number)) for number in range(1, 50)]
        assert not any(ticket.done() for ticket in tickets)
        other.rollback()
        other.close()
        assert all(ticket.result(30) for ticket in tickets)


def test_many_threads_put_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.db") as outbox:

        def talk(first: int) -> None:
            for number in range(first, first + 100):
                outbox.put(message(number))

        threads = [threading.Thread(target=talk, args=(100 * each,)) for each in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Outbox(tmp_path / "outbox.db") as outbox:
        assert sorted(each.body["number"] for each in outbox.pending()) == list(range(500))


TALKER = """
import sys
from pathlib import Path
from headland_edge.messages import Message
from headland_edge.outbox import Outbox
outbox, number = Outbox(Path(sys.argv[1])), int(sys.argv[2])
while True:
    tickets = []
    for _ in range(20):
        tickets.append((number, outbox.put(Message("field-1", "record", float(number), {"number": number}))))
        number += 1
    for each, ticket in tickets:
        ticket.result()
        print(each, flush=True)
"""


@pytest.mark.slow
def test_kill_9_never_loses_what_was_acknowledged(tmp_path: Path) -> None:
    path, acknowledged, first = tmp_path / "outbox.db", set(), 0
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", TALKER, str(path), str(first)], env=python_environment(), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        said = process.stdout.readline()
        time.sleep(0.02 * (first % 7))
        process.kill()
        said += process.stdout.read()
        process.wait()
        process.stdout.close()
        # A line cut off by the kill says nothing.
        acknowledged |= {int(line) for line in said.decode().split("\n")[:-1]}
        first = max(acknowledged) + 1000
    with Outbox(path, most_bytes=1 << 30) as outbox:
        assert outbox.set_aside is None
        kept = [each.body["number"] for each in outbox.pending()]
    assert len(kept) == len(set(kept))
    assert acknowledged <= set(kept)
    assert len(acknowledged) > 200
