"""A fleet whose devices are simulated at protocol level: they read what is signed and write health into a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from headland_edge import bundle
from headland_edge.features import FEATURES, FEATURES_VERSION
from headland_edge.messages import Message
from headland_edge.rules import FourStageRule
from headland_edge.uplink import FolderUplink

from tasks.fleet.assign import assigned
from tasks.fleet.folder import FleetFolder
from tasks.fleet.ingest import ingest_folder
from tasks.fleet.keys import Keyring, create
from tasks.fleet.publish import publish
from tasks.fleet.store import Store


def make_bundle(path: Path, counter: int, as_of: int = 2009) -> Path:
    """A valid bundle whose one model is no net."""
    rule = FourStageRule((0.5, 0.5, 0.5, 0.5), (30, 60, 90, 120), 25.0, 5.0).to_dict()
    model = {
        "file": "model",
        "crops": ["maize"],
        "window_days": 64,
        "target": {"name": "depletion_frac", "unit": "1", "offset": 0.0, "scale": 1.0},
        "golden": {"inputs": "model", "outputs": "model", "tolerance": 0.1},
        "kind": "int8",
    }
    manifest = {
        "schema_version": 1,
        "release": {"counter": counter, "as_of": as_of},
        "hardware": {"min_ram_mb": 64, "arch": ["x86_64"]},
        "features_version": FEATURES_VERSION,
        "inputs": [{"name": f.name, "unit": f.unit, "scale": f.scale} for f in FEATURES],
        "models": {"irrigation": model},
        "policy": {"maize": {"rule": rule, "sensor_rule": rule}},
        "budgets": {"latency_p99_ms": 2.0, "peak_rss_mb": 80.0},
        "lineage": {"git_commit": "abc", "data": {"weather": "1f"}},
    }
    bundle.write_bundle(path, manifest, {"model": b"no net %d" % counter})
    return path


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
