"""Effect: from the fleet's messages to the field's data, each morning once.

The store is read as a whole each time and joined to the files that are there: killed anywhere, on an empty store, or
beside another version of the data, the next run ends with the same files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headland_edge.messages import Message

from tasks.durable import write_text
from tasks.field.excerpts import Excerpt, ExcerptError, parse
from tasks.field.partitions import RECORDS, remove_leftovers, tables, write
from tasks.fleet.ingest import MAX_QUARANTINED
from tasks.fleet.store import Store

_SHOWN_CHARS = 2000


@dataclass
class Collected:
    """What one run came to.

    Args:
        messages: record messages in the store.
        refused: of them, by reason.
        dropped: readings left out as faults, by column.
        changed: files that are others than before, below ``data/field``.
    """

    messages: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)


def collect(store: Store, folder: Path, quarantine: Path) -> Collected:
    """Bring the records of the store into the files below ``folder``; only one process may do so at a time.

    Args:
        store: the fleet's messages.
        folder: the field's data.
        quarantine: what was refused is set aside here with its reason, at most ``MAX_QUARANTINED`` files.

    Raises:
        FieldDataError: a file that is there cannot be used.
    """
    found = Collected()
    remove_leftovers(folder)
    for key, table in sorted(tables(_excerpts(store, found, quarantine)).items()):
        if write(folder, key, table):
            found.changed.append(f"{RECORDS}/{key[0]}/{key[1]}.parquet")
    return found


def _excerpts(store: Store, found: Collected, quarantine: Path) -> Iterator[Excerpt]:
    refused: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for received_s, message in store.received("record"):
        found.messages += 1
        try:
            excerpt = parse(message, received_s)
        except ExcerptError as error:
            refused[error.code] += 1
            if refused.total() <= MAX_QUARANTINED:
                _set_aside(quarantine, message, error)
            continue
        dropped.update(excerpt.dropped)
        yield excerpt
    found.refused, found.dropped = dict(sorted(refused.items())), dict(sorted(dropped.items()))


def _set_aside(quarantine: Path, message: Message, error: ExcerptError) -> None:
    """Once for each message, under its id."""
    path = quarantine / f"{message.id}.json"
    if not path.exists():
        shown = json.dumps(message.body)[:_SHOWN_CHARS]
        told = {"device_id": message.device_id, "code": error.code, "reason": str(error), "begins": shown}
        write_text(path, json.dumps(told, indent=1))
