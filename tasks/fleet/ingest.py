"""Effect: messages from the field into the store, each once, whatever arrives.

``judge`` opens a batch and looks at every line by itself, wherever the batch came from. ``keep`` commits the good ones
of some batches and the counts of the bad ones together, and what was bad is set aside with its reason. Only then
whoever carried the batches may answer and remove them: ``ingest_folder`` here, ``tasks.fleet.mqtt_ingest`` for a
broker. Killed anywhere in between, the next run finds the batch again, and what it holds is in the store already.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
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


@dataclass(frozen=True)
class Refusal:
    """A line, or a batch as a whole, that was not taken.

    Args:
        source: batch, and number of the line.
        code: one word for counting.
        reason: for a person.
        line: what it said, nothing for a whole batch.
    """

    source: str
    code: str
    reason: str
    line: bytes = b""


@dataclass(frozen=True)
class Judged:
    """A batch after looking at it.

    Args:
        name: of the batch.
        messages: to be kept.
        refused: not to be kept.
        unpacked_bytes: of all its lines.
        whole: whether it could be opened, so that it gets an answer.
    """

    name: str
    messages: tuple[Message, ...] = ()
    refused: tuple[Refusal, ...] = ()
    unpacked_bytes: int = 0
    whole: bool = True

    @property
    def ids(self) -> list[str]:
        """What its receipt says."""
        return [message.id for message in self.messages]


def judge(name: str, data: bytes, devices: Collection[str] | None = None) -> Judged:
    """Open a batch and look at each line; never raises for what it holds.

    Args:
        name: as ``headland_edge.uplink.pack`` gives it.
        data: the batch, packed.
        devices: known ones; None takes any.
    """
    try:
        owner = _known_owner(name, devices)
        lines = unpack(name, data)
    except UplinkError as error:
        return refused_whole(name, error)
    good: list[Message] = []
    bad: list[Refusal] = []
    for number, line in enumerate(lines, start=1):
        try:
            good.append(taken(line, owner))
        except MessageError as error:
            bad.append(Refusal(f"{name}.{number}", error.code, str(error), line))
    return Judged(name, tuple(good), tuple(bad), sum(map(len, lines)))


def refused_whole(name: str, error: UplinkError) -> Judged:
    """The judgement of a batch that was not opened."""
    return Judged(name, refused=(Refusal(name, error.code, str(error)),), whole=False)


def keep(batches: Sequence[Judged], store: Store, quarantine: Path, *, received_s: float, found: Ingested) -> None:
    """Keep what was good and count what was not, in one commit. After it, batches may be answered.

    Args:
        batches: judged.
        store: where messages are kept.
        quarantine: folder for what was refused, at most ``MAX_QUARANTINED`` files.
        received_s: now, seconds since 1970.
        found: added to.
    """
    good = [message for batch in batches for message in batch.messages]
    bad = [refusal for batch in batches for refusal in batch.refused]
    for refusal in bad:
        _set_aside(quarantine, refusal)
    new = store.keep(good, [refusal.code for refusal in bad], received_s=received_s)
    found.batches += len(batches)
    found.new, found.repeated = found.new + new, found.repeated + len(good) - new
    for refusal in bad:
        found.refused[refusal.code] = found.refused.get(refusal.code, 0) + 1


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
        batch = _judge_file(path, devices)
        keep([batch], store, quarantine, received_s=received_s, found=found)
        if batch.whole:
            write_ack(folder, path.name, batch.ids)
        if path.is_file() or path.is_symlink():
            path.unlink()
    return found


def _judge_file(path: Path, devices: Collection[str] | None) -> Judged:
    """Links and whatever is no plain file are refused unread."""
    try:
        _known_owner(path.name, devices)
        if path.is_symlink() or not path.is_file():
            raise UplinkError("name", "not a plain file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UplinkError("oversized", f"{path.stat().st_size} bytes, at most {MAX_FILE_BYTES} are taken")
    except UplinkError as error:
        return refused_whole(path.name, error)
    return judge(path.name, path.read_bytes(), devices)


def _known_owner(name: str, devices: Collection[str] | None) -> str:
    owner = owner_of(name)
    if devices is not None and owner not in devices:
        raise UplinkError("unknown-device", f"{owner} is no device of this fleet")
    return owner


def _set_aside(quarantine: Path, refusal: Refusal) -> None:
    """Write down what was refused, as long as there is room; it stays counted in the store in any case."""
    quarantine.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in quarantine.iterdir())
    if number < MAX_QUARANTINED:
        shown = refusal.line[:_SHOWN_BYTES].decode(errors="replace")
        told = {"from": refusal.source[:200], "code": refusal.code, "reason": refusal.reason, "begins": shown}
        write_text(quarantine / f"{number:06d}.json", json.dumps(told, indent=1))
