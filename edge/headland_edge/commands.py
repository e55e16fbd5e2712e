"""What a technician does with a device's folder: make it, look into it, carry things to and from it.

Each command prints JSON and returns an exit code (see ``headland_edge.cli``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import sys
import tomllib
from pathlib import Path
from typing import Any

from headland_edge.bundle import BundleError
from headland_edge.home import Home, Settings, SettingsError, make, parse, to_toml

DONE, FAILED, BAD_BUNDLE = 0, 1, 7
_ASK_S = 3.0
_BATCH_BYTES = 1024 * 1024


def init(options: argparse.Namespace) -> int:
    """Make a device's folder, or change its settings; pin roots; put in a first release by hand."""
    home = Home(options.home)
    settings = _settings(home, options)
    make(options.home, settings)
    pinned = _pin_roots(home, options)
    installed = _install(home, options.bundle) if options.bundle else None
    _print({"home": str(home.root), "device_id": settings.device_id, "pinned": pinned, "installed": installed})
    return DONE


def run(options: argparse.Namespace) -> int:
    """The service; ends with SIGTERM."""
    from headland_edge.service import serve

    return serve(options.home)


def update(options: argparse.Namespace) -> int:
    """Look once for an update. A service that runs takes over what was installed."""
    from headland_edge.update import last_outcome
    from headland_edge.update import update as look

    home = Home(options.home)
    if options.forgive:
        from headland_edge.slots import Slots, slots_locked

        with slots_locked(home):
            Slots(home.slots).forgive()
    outcome = look(home, stick=options.stick)
    _print(last_outcome(home) or {"state": outcome.state, "code": outcome.code, "text": outcome.text})
    return outcome.exit_code


def status(options: argparse.Namespace) -> int:
    """What runs, what failed, what waits; from the disk, and from the service if it answers."""
    from headland_edge.journal import latest
    from headland_edge.release import told
    from headland_edge.slots import Slots
    from headland_edge.update import last_outcome

    home = Home(options.home)
    settings = home.settings()
    slots = Slots(home.slots)
    running = slots.running()
    release = None
    if running is not None:
        state = "trial" if slots.on_trial else "confirmed"
        release = {"sha256": running.sha256, "counter": running.counter, "slot": running.slot, "state": state}
    port = settings.local.http_port
    service = _asked(f"http://127.0.0.1:{port}/health") if port else None
    _print(
        {
            "device_id": settings.device_id,
            "service": "answers" if service else "does not answer" if port else "has no port to ask",
            "release": release,
            "floor": slots.floor,
            "failed": told(home).get("failed"),
            "update": last_outcome(home),
            "outbox": _outbox_counts(home),
            "advised": (service or {}).get("advised"),
            "latest": latest(home.journal, options.latest),
            "rejected": sorted(path.name for path in home.rejected.glob("*.reason.txt")),
        }
    )
    return DONE


def trace(options: argparse.Namespace) -> int:
    """All an advice rests on, from the journal; its records as CSV if wanted, so that it can be repeated."""
    from headland_edge.journal import UnknownAdviceError, find
    from headland_edge.records import write_csv

    try:
        found = find(Home(options.home).journal, options.id)
    except UnknownAdviceError as error:
        return _failed(str(error))
    if options.records:
        write_csv(options.records, found.records)
    _print(found.to_dict())
    return DONE


def export(options: argparse.Namespace) -> int:
    """What waits in the outbox, to a stick; raw records only if asked for and allowed."""
    from headland_edge.outbox import Outbox
    from headland_edge.uplink import FolderUplink

    home, settings = Home(options.home), Home(options.home).settings()
    if options.raw and not settings.uplink.keep_raw:
        return _failed("raw records may not leave this device: uplink.keep_raw is false in device.toml")
    stick, sent = FolderUplink(options.folder, settings.device_id), 0
    taken = set(stick.under_way())
    with Outbox(home.outbox) as outbox:
        while batch := outbox.pending(_BATCH_BYTES, without=taken):
            stick.send(batch)
            taken |= {message.id for message in batch}
            sent += len(batch)
    raw = _export_raw(home, settings, options.folder) if options.raw else None
    _print({"folder": str(options.folder), "messages": sent, "raw_records": raw})
    return DONE


def take(options: argparse.Namespace) -> int:
    """What a stick brings: the cloud's receipts, and an update if one lies there."""
    from headland_edge.outbox import Outbox
    from headland_edge.update import STICK_FOLDER
    from headland_edge.update import update as look
    from headland_edge.uplink import FolderUplink

    home, settings = Home(options.home), Home(options.home).settings()
    if not options.folder.is_dir():
        return _failed(f"{options.folder}: no such folder; is the stick in?")
    stick = FolderUplink(options.folder, settings.device_id)
    ids = stick.acknowledged()
    if ids:
        with Outbox(home.outbox) as outbox:
            outbox.delivered(ids).result()
    stick.forget()
    found: dict[str, Any] = {"receipts": len(ids), "update": None}
    code = DONE
    if any((options.folder / name).is_dir() for name in (STICK_FOLDER, "media-assignments")):
        outcome = look(home, stick=options.folder)
        found["update"] = {"state": outcome.state, "code": outcome.code, "text": outcome.text}
        code = outcome.exit_code
    _print(found)
    return code


def _settings(home: Home, options: argparse.Namespace) -> Settings:
    """Settings that are there, changed by the options. Raises SettingsError."""
    plain: dict[str, Any] = tomllib.loads(to_toml(home.settings())) if home.settings_file.exists() else {}
    named = {
        "device_id": options.device_id,
        "crop": options.crop,
        "updates.url": options.url,
        "updates.folder": options.folder,
    }
    changes = {key: value for key, value in named.items() if value is not None}
    for pair in options.set:
        key, equals, text = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set {pair}: write KEY=VALUE, as uplink.daily_bytes=100000")
        changes[key] = _value(text)
    for key, value in changes.items():
        group, dot, name = key.partition(".")
        if dot and not isinstance(plain.setdefault(group, {}), dict):
            raise SettingsError(f"{key}: {group} has no keys below it")
        if dot:
            plain[group][name] = value
        else:
            plain[key] = value
    return parse(plain)


def _value(text: str) -> Any:
    """A value as in TOML; what is none is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _pin_roots(home: Home, options: argparse.Namespace) -> list[str]:
    roots = {"releases": options.root_releases, "assignments": options.root_assignments}
    wanted = {family: file for family, file in roots.items() if file}
    if wanted:
        from headland_edge.trust import TrustError, pin

        for family, file in wanted.items():
            try:
                pin(home.updates, family, file.read_bytes())
            except TrustError as error:
                raise BundleError(f"{file}: {error}") from None
    return sorted(wanted)


def _install(home: Home, path: Path) -> dict[str, Any]:
    """A first release by hand: tried on this device, and confirmed, since there is none to return to."""
    from headland_edge.accept import Device, accept
    from headland_edge.slots import SlotError, Slots, slots_locked

    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    running = Slots(home.slots).running()
    if running is not None and running.sha256 != sha256:
        raise SlotError(f"release {running.counter} runs here already; further ones come signed (headland-edge update)")
    if running is None:
        accepted = accept(data, sha256, Device.here(Slots(home.slots).floor))
        with slots_locked(home):
            slots = Slots(home.slots)
            slots.begin_trial(slots.install(data, sha256, accepted.bundle.manifest.release.counter))
            slots.confirm()
        running = slots.running()
        assert running is not None  # it was just written and read again
    return {"sha256": sha256, "counter": running.counter}


def _export_raw(home: Home, settings: Settings, folder: Path) -> int:
    """Raw records as packed JSON lines, only the columns that may leave the device; returns how many."""
    import zstandard

    from headland_edge.durable import write_bytes
    from headland_edge.raw_records import read
    from headland_edge.ring import Ring

    allowed, lines = settings.uplink.fields, []
    for plain in read(Ring(home.ring, settings.uplink.ring_bytes)):
        values = {name: value for name, value in plain["values"].items() if not allowed or name in allowed}
        lines.append(json.dumps({**plain, "values": values}).encode() + b"\n")
    data = zstandard.ZstdCompressor().compress(b"".join(lines))
    name = f"{settings.device_id}-{hashlib.sha256(data).hexdigest()[:16]}.jsonl.zst"
    write_bytes(folder / "raw" / name, data)
    return len(lines)


def _outbox_counts(home: Home) -> dict[str, int] | None:
    from headland_edge.outbox import counts_in

    if not home.outbox.exists():
        return None
    try:
        return counts_in(home.outbox)
    except sqlite3.Error:
        return None


def _asked(url: str) -> dict[str, Any] | None:
    import urllib.error
    import urllib.request  # not above: it brings TLS along, and `run` has to stay small

    try:
        with urllib.request.urlopen(url, timeout=_ASK_S) as answer:
            plain: dict[str, Any] = json.loads(answer.read())
            return plain
    except (urllib.error.URLError, OSError, ValueError):
        return None


def _failed(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return FAILED


def _print(plain: dict[str, Any]) -> None:
    print(json.dumps(plain, indent=2, allow_nan=False))
