"""A fleet whose devices are simulated at protocol level: they read what is signed and write health into a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from headland_edge.messages import Message
from headland_edge.uplink import FolderUplink

from tasks.fleet.assign import assigned
from tasks.fleet.folder import FleetFolder
from tasks.fleet.ingest import ingest_folder
from tasks.fleet.keys import Keyring, create
from tasks.fleet.publish import publish
from tasks.fleet.store import Store
from tests.toy import write_bundle


def make_bundle(path: Path, counter: int, as_of: int = 2009) -> Path:
    """A valid bundle whose one model is no net, another one for each counter."""
    return write_bundle(path, as_of, {"model": b"no net %d" % counter}, counter=counter)


def make_fleet(root: Path, counters: Iterable[int] = (1,), now_s: float = 0.0) -> tuple[FleetFolder, list[str]]:
    """A fleet with keys and published releases; returns it with their hashes."""
    fleet = FleetFolder(root)
    create(root, Keyring(fleet.keys), now_s)
    return fleet, [publish_release(fleet, counter, now_s=now_s) for counter in counters]


def publish_release(fleet: FleetFolder, counter: int, floor: int | None = None, now_s: float = 0.0) -> str:
    """Publish one more release; returns its hash."""
    path = make_bundle(fleet.root.parent / f"release-{counter}.tar", counter)
    return publish(fleet.root, path, Keyring(fleet.keys), floor=floor, now_s=now_s).sha256


def say(fleet: FleetFolder, device: str, release: str | None, state: str, time_s: float = 1.0) -> None:
    """One health message of one device, into the uplink's folder."""
    running = {"sha256": release, "counter": 1, "as_of": 2009, "state": state}
    failed = {"sha256": release, "counter": 1, "state": state, "reason": "golden outputs | differ\nby 2"}
    good = state in ("trial", "confirmed")
    body = {"release": running if good else None, "failed": None if good else failed}
    FolderUplink(fleet.uplink, device).send([Message(device, "health", time_s, body)])


def follow(fleet: FleetFolder, devices: Iterable[str], fate: Callable[[str], str | None], time_s: float = 1.0) -> None:
    """Every device reads what it should run and says how that went; None for one that stays silent."""
    signed = assigned(fleet.root)
    for device in devices:
        wish, state = signed.desired(device), fate(device)
        if wish and state:
            say(fleet, device, wish, state, time_s)


def take_in(fleet: FleetFolder, received_s: float = 1.0) -> None:
    """The uplink's folder into the store."""
    with Store(fleet.store) as store:
        ingest_folder(fleet.uplink, store, fleet.quarantine, received_s=received_s, devices=fleet.enrolled())
