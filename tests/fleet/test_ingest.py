from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from headland_edge.messages import Message, encode
from headland_edge.outbox import Outbox
from headland_edge.uplink import FolderUplink, pack

from tasks.fleet.ingest import MAX_QUARANTINED, Ingested, ingest_folder
from tasks.fleet.store import Store, StoreError
from tests.toy import python_environment


def message(number: int, device: str = "field-1", kind: str = "record") -> Message:
    return Message(device, kind, float(number), {"number": number})


def drop(folder: Path, lines: list[bytes], device: str = "field-1") -> Path:
    """A batch with any lines, named rightly, as somebody who holds a device can write it."""
    import hashlib

    import zstandard

    text = b"".join(line + b"\n" for line in lines)
    path = folder / "outgoing" / f"{device}-{hashlib.sha256(text).hexdigest()[:16]}.jsonl.zst"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.compress(text))
    return path


def take(folder: Path, **more: object) -> Ingested:
    with Store(folder / "fleet.db") as store:
        return ingest_folder(folder, store, folder / "quarantine", received_s=1.0, **more)  # type: ignore[arg-type]


def numbers(folder: Path, kind: str = "record") -> list[int]:
    with Store(folder / "fleet.db") as store:
        return [each.body["number"] for each in store.messages(kind)]


def test_from_the_outbox_into_the_store_and_the_outbox_is_empty(tmp_path: Path) -> None:
    uplink = FolderUplink(tmp_path, "field-1")
    with Outbox(tmp_path / "outbox.db") as outbox:
        for number in range(20):
            outbox.put(message(number)).result(10)
        uplink.send(outbox.pending())
        assert take(tmp_path).new == 20
        outbox.delivered(uplink.acknowledged()).result(10)
        assert outbox.pending() == []
    assert numbers(tmp_path) == list(range(20))


def test_replayed_reordered_and_duplicated_batches_change_nothing(tmp_path: Path) -> None:
    lines = [encode(message(number)) for number in range(10)]
    drop(tmp_path, lines)
    assert take(tmp_path).new == 10
    drop(tmp_path, lines)
    drop(tmp_path, lines[::-1] + lines[:3])
    found = take(tmp_path)
    assert (found.new, found.repeated) == (0, 23)
    assert numbers(tmp_path) == list(range(10))


def test_hostile_lines_are_refused_counted_and_set_aside_and_the_good_ones_kept(tmp_path: Path) -> None:
    good = encode(message(1))
    changed = json.loads(good)
    changed["body"] = {"number": 2}
    lines = [
        good,
        encode(message(2, "field-2")),
        json.dumps(changed).encode(),
        b'{"a":' * 5000,
        b"\xff\xfe",
        b"[1,2]",
        good.replace(b'"number":1', b'"number":NaN'),
        b'"' + b"x" * 70_000 + b'"',
        good.replace(b"field-1", b"../../x"),
    ]
    drop(tmp_path, lines)
    found = take(tmp_path)
    assert found.new == 1
    assert found.refused == {"not-yours": 1, "forged": 1, "malformed": 4, "not-finite": 1, "oversized": 1}
    with Store(tmp_path / "fleet.db") as store:
        assert store.counts()["refused"] == found.refused
    told = [json.loads(file.read_text()) for file in sorted((tmp_path / "quarantine").iterdir())]
    assert [each["code"] for each in told][:2] == ["not-yours", "forged"]
    assert all(each["reason"] for each in told)


def test_unknown_devices_names_links_and_damaged_batches_are_refused_whole(tmp_path: Path) -> None:
    drop(tmp_path, [encode(message(1, "stranger"))], device="stranger")
    cut = drop(tmp_path, [encode(message(2))])
    cut.write_bytes(cut.read_bytes()[:-5])
    (tmp_path / "outgoing" / "no batch").write_bytes(b"x")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outgoing" / "field-1-0123456789abcdef.jsonl.zst").symlink_to(tmp_path / "secret")
    found = take(tmp_path, devices={"field-1"})
    assert found.new == 0
    assert found.refused == {"unknown-device": 1, "damaged": 1, "name": 2}
    assert (tmp_path / "secret").read_text() == "secret"
    assert list((tmp_path / "outgoing").iterdir()) == []


def test_the_quarantine_is_bounded_and_the_count_goes_on(tmp_path: Path) -> None:
    drop(tmp_path, [b"x%d" % number for number in range(MAX_QUARANTINED + 50)])
    assert take(tmp_path).refused == {"malformed": MAX_QUARANTINED + 50}
    assert len(list((tmp_path / "quarantine").iterdir())) == MAX_QUARANTINED


def test_health_is_the_one_received_last_and_of_those_that_came_together_the_one_written_last(tmp_path: Path) -> None:
    with Store(tmp_path / "fleet.db") as store:
        for number, device, received_s in ((9, "field-1", 1.0), (1, "field-1", 2.0), (5, "field-2", 1.0)):
            store.keep([message(number, device, "health")], received_s=received_s)
        assert store.latest_health() == {"field-1": {"number": 1}, "field-2": {"number": 5}}
        store.keep([message(4, "field-1", "health"), message(3, "field-1", "health")], received_s=3.0)
        store.keep([message(8, "field-1", "record")], received_s=4.0)
        assert store.latest_health()["field-1"] == {"number": 4}


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "fleet.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"fleet\.db"):
        Store(tmp_path / "fleet.db")


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from tasks.fleet.ingest import ingest_folder
from tasks.fleet.store import Store
import zstandard
root, left = Path(sys.argv[1]), int(sys.argv[2])
seen = 0
def watch(event, arguments):
    global seen
    if event in ("open", "os.rename", "os.remove", "os.mkdir") and any(str(root) in str(each) for each in arguments):
        seen += 1
        if seen == left:
            os.kill(os.getpid(), signal.SIGKILL)
with Store(root / "fleet.db") as store:
    sys.addaudithook(watch)
    ingest_folder(root, store, root / "quarantine", received_s=1.0)
print(seen)
"""


@pytest.mark.slow
def test_kill_9_at_every_step_keeps_each_message_once_and_the_device_hears_of_all(tmp_path: Path) -> None:
    start = tmp_path / "start"
    uplink_batches = [[message(number) for number in range(first, first + 5)] for first in (0, 5)]
    for batch in uplink_batches:
        FolderUplink(start, "field-1").send(batch)
    drop(start, [encode(message(20)), b"bad"])

    def killed(root: Path, step: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED_AT, str(root), str(step)]
        return subprocess.run(command, env=python_environment(), capture_output=True, text=True, check=False)

    shutil.copytree(start, tmp_path / "whole")
    done = killed(tmp_path / "whole", 0)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps > 8
    for step in range(1, steps + 1):
        root = tmp_path / f"step{step}"
        shutil.copytree(start, root)
        assert killed(root, step).returncode == -signal.SIGKILL
        take(root)
        assert sorted(numbers(root)) == [*range(10), 20]
        wanted = {each.id for batch in uplink_batches for each in batch}
        assert wanted <= FolderUplink(root, "field-1").acknowledged()
        with sqlite3.connect(root / "fleet.db") as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        shutil.rmtree(root)


def test_packing_too_much_is_refused() -> None:
    from headland_edge.uplink import UplinkError

    batch = [Message("field-1", "record", float(number), {"x": "y" * 60_000}) for number in range(200)]
    with pytest.raises(UplinkError, match="bytes"):
        pack(batch, "field-1")
