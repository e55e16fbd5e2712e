"""Effect: messages from the field into the store, each once, whatever arrives.

A batch is read and every line judged by itself: the good ones are kept and the bad ones counted in one commit, and what
was bad is set aside with its reason. Only then the receipt is written and the batch removed. Killed anywhere in
between, the next run finds the batch again, and what it holds is in the store already.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from headland_edge.messages import Message, MessageError
from headland_edge.uplink import MAX_FILE_BYTES, OUTGOING, UplinkError, owner_of, taken, unpack, write_ack

from tasks.durable import write_text
from tasks.fleet.store import Store

MAX_QUARANTINED = 1000
_SHOWN_BYTES = 2000


@dataclass
class Ingested:
    """What one run came to.

    Args:
        batches: read.
        new: messages kept.
        repeated: messages that were in the store already.
        refused: by reason.
    """

    batches: int = 0
    new: int = 0
    repeated: int = 0
    refused: dict[str, int] = field(default_factory=dict)


def ingest_folder(
    folder: Path, store: Store, quarantine: Path, *, received_s: float, devices: Collection[str] | None = None
) -> Ingested:
    """Take in every batch of a folder.

    Args:
        folder: with ``outgoing`` as devices write it; gets ``acks``.
        store: where messages are kept.
        quarantine: folder for what was refused, at most ``MAX_QUARANTINED`` files.
        received_s: now, seconds since 1970.
        devices: known ones; None takes any.
    """
    found = Ingested()
    outgoing = folder / OUTGOING
    for path in sorted(outgoing.iterdir()) if outgoing.is_dir() else ():
        if path.name.startswith(".") or path.is_dir():
            continue
        _take_batch(folder, path, store, quarantine, received_s, devices, found)
    return found


def _take_batch(
    folder: Path,
    path: Path,
    store: Store,
    quarantine: Path,
    received_s: float,
    devices: Collection[str] | None,
    found: Ingested,
) -> None:
    found.batches += 1
    try:
        owner, lines = _opened(path, devices)
    except UplinkError as error:
        store.keep((), (error.code,), received_s=received_s)
        _count(found, error.code)
        _set_aside(quarantine, path.name, error.code, str(error), b"")
        if path.is_file() or path.is_symlink():
            path.unlink()
        return
    good: list[Message] = []
    bad: list[str] = []
    for number, line in enumerate(lines, start=1):
        try:
            good.append(taken(line, owner))
        except MessageError as error:
            bad.append(error.code)
            _count(found, error.code)
            _set_aside(quarantine, f"{path.name}.{number}", error.code, str(error), line)
    new = store.keep(good, bad, received_s=received_s)
    found.new, found.repeated = found.new + new, found.repeated + len(good) - new
    write_ack(folder, path.name, [message.id for message in good])
    path.unlink()


def _opened(path: Path, devices: Collection[str] | None) -> tuple[str, list[bytes]]:
    """A batch's owner and lines; links and whatever is no plain file are refused unread."""
    owner = owner_of(path.name)
    if path.is_symlink() or not path.is_file():
        raise UplinkError("name", "not a plain file")
    if devices is not None and owner not in devices:
        raise UplinkError("unknown-device", f"{owner} is no device of this fleet")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UplinkError("oversized", f"{path.stat().st_size} bytes, at most {MAX_FILE_BYTES} are taken")
    return owner, unpack(path.name, path.read_bytes())


def _count(found: Ingested, reason: str) -> None:
    found.refused[reason] = found.refused.get(reason, 0) + 1


def _set_aside(quarantine: Path, name: str, code: str, reason: str, line: bytes) -> None:
    """Write down what was refused, as long as there is room; it stays counted in the store in any case."""
    quarantine.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in quarantine.iterdir())
    if number < MAX_QUARANTINED:
        shown = line[:_SHOWN_BYTES].decode(errors="replace")
        told = {"from": name[:200], "code": code, "reason": reason, "begins": shown}
        write_text(quarantine / f"{number:06d}.json", json.dumps(told, indent=1))
