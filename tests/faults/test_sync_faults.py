"""A sync killed with SIGKILL at every step that changes a file, at random moments, and while DVC keeps the version."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from headland_edge.messages import Message
from headland_edge.uplink import FolderUplink

from tasks.dvc_state import mend_after_crash
from tasks.field.collect import collect
from tasks.field.partitions import files, read
from tasks.field.schema import FOLDER
from tasks.field.version import add_version, kept_version, read_card, version_of, write_card
from tasks.fleet.folder import FleetFolder
from tasks.fleet.ingest import ingest_folder
from tasks.fleet.store import Store
from tests.field.excerpts import NOW_S, record
from tests.toy import dvc, make_toy, python_environment

pytestmark = pytest.mark.slow

DEVICES = ("field-1", "field-2")


def messages() -> list[Message]:
    """Two devices, two seasons, one message that is refused."""
    good = [
        record(device, time_s=float(first), first_day=first, mornings=10, sowing_date=f"{year}-04-30")
        for device in DEVICES
        for year in (2008, 2009)
        for first in (0, 8)
    ]
    return [*good, record("field-1", crop="rye")]


def send(project: Path) -> None:
    """As devices do, a batch for each of them."""
    for device in DEVICES:
        FolderUplink(FleetFolder.of(project).uplink, device).send([m for m in messages() if m.device_id == device])


def sync(project: Path) -> None:
    """What the flow does, without Prefect and DVC."""
    fleet = FleetFolder.of(project)
    with Store(fleet.store) as store:
        ingest_folder(fleet.uplink, store, fleet.quarantine, received_s=NOW_S)
        collected = collect(store, project / FOLDER, fleet.refused_records)
    write_card(project / FOLDER, collected.refused, collected.dropped)


def data(project: Path) -> dict[str, bytes]:
    """All of the field's data."""
    folder = project / FOLDER
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_is_lost_or_doubled(project: Path) -> None:
    """Every message that a device may forget is in the store; every file is whole; receipts tell no more than that."""
    fleet = FleetFolder.of(project)
    for path in files(project / FOLDER):
        read(path)
    with Store(fleet.store) as store:
        kept = [message.id for message in store.messages("record")]
    assert len(kept) == len(set(kept))
    for device in DEVICES:
        assert FolderUplink(fleet.uplink, device).acknowledged() <= set(kept)


class Killer:
    """Runs syncs in processes of their own and kills each at one of its changes.

    They are forked from a process that has imported everything and used nothing: polars does not survive a fork.
    """

    def __init__(self) -> None:
        words = [sys.executable, "-c", "from tests.faults.test_sync_faults import wait_for_orders; wait_for_orders()"]
        self._process = subprocess.Popen(
            words, env=python_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, project: Path, left: int) -> tuple[int, int]:
        """Kill a sync at change number ``left``; its end, and the changes it came to if it was not killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{left} {project}\n")
        self._process.stdin.flush()
        end, changes = self._process.stdout.readline().split()
        return int(end), int(changes)

    def close(self) -> None:
        self._process.communicate("")


def wait_for_orders() -> None:
    for line in sys.stdin:
        left, project = line.split(maxsplit=1)
        print(*_interrupted(Path(project.strip()), int(left)), flush=True)


def _interrupted(project: Path, left: int) -> tuple[int, int]:
    incoming, outgoing = os.pipe()
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            reads = event == "open" and "r" in str(arguments[1])
            changes = event in ("open", "os.rename", "os.remove", "os.mkdir", "sqlite3.connect") and not reads
            if changes and any(str(project) in str(each) for each in arguments):
                seen += 1
                if seen == left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            sync(project)
            os.write(outgoing, str(seen).encode())
        finally:
            os._exit(0)
    os.close(outgoing)
    with os.fdopen(incoming) as said:
        changes = int(said.read() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), changes


@pytest.fixture
def killer() -> Iterator[Killer]:
    made = Killer()
    yield made
    made.close()


@pytest.mark.usefixtures("quick_disk")
def test_killed_at_every_change_the_next_sync_ends_with_the_same_files(tmp_path: Path, killer: Killer) -> None:
    start, work = tmp_path / "start" / "project", tmp_path / "work" / "project"
    send(start)
    shutil.copytree(start, work)
    end, changes = killer.run(work, 0)
    wanted = data(work)
    assert (end, sorted(wanted)) == (0, ["card.json", "records/maize/2008.parquet", "records/maize/2009.parquet"])
    assert read_card(work / FOLDER)["rows"] == 2 * 2 * 18
    assert changes > 15
    for number in range(1, changes + 1):
        shutil.rmtree(work)
        shutil.copytree(start, work)
        end, _ = killer.run(work, number)
        assert end == -signal.SIGKILL
        nothing_is_lost_or_doubled(work)
        sync(work)
        assert data(work) == wanted
        nothing_is_lost_or_doubled(work)


LOOP = """
import sys
from pathlib import Path
from tests.faults.test_sync_faults import sync
import polars, pandera.polars
print("ready", flush=True)
sync(Path(sys.argv[1]))
"""


def test_killed_at_random_moments_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """Real processes, and devices that go on sending meanwhile."""
    project, whole, rng = tmp_path / "project", tmp_path / "whole", random.Random(5)
    for number in range(4):
        device, many = f"field-{number % 2 + 1}", range(number * 100, number * 100 + 100)
        batch = [record(device, time_s=float(each), field=f"f-{each % 20}", first_day=each % 30) for each in many]
        for each in (project, whole):
            FolderUplink(FleetFolder.of(each).uplink, device).send(batch)
        command = [sys.executable, "-c", LOOP, str(project)]
        process = subprocess.Popen(command, env=python_environment(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.random() * 0.3)
        process.kill()
        process.communicate()
        if FleetFolder.of(project).store.exists():
            nothing_is_lost_or_doubled(project)
    sync(project)
    sync(whole)
    nothing_is_lost_or_doubled(project)
    assert data(project) == data(whole)


KEEP = """
import sys
from pathlib import Path
from tasks.field.version import add_version
root = Path(sys.argv[1])
print("ready", flush=True)
add_version(root, root / "data/field")
"""


def test_killed_while_dvc_keeps_the_version_the_next_sync_keeps_it(tmp_path: Path) -> None:
    project = make_toy(tmp_path / "project")
    send(project)
    sync(project)
    for wait_s in (0.3, 1.5):
        (project / FOLDER / "records.dvc").unlink(missing_ok=True)
        command = [sys.executable, "-c", KEEP, str(project)]
        process = subprocess.Popen(
            command, env=python_environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(wait_s)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    mend_after_crash(project)
    sync(project)
    add_version(project, project / FOLDER)
    assert kept_version(project / FOLDER) == version_of(project / FOLDER) != ""
    assert "up to date" in dvc(project, "status", "data/field/records.dvc").stdout
