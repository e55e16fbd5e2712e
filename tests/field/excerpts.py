"""Record messages as devices send them, and their way into a store."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headland_edge.messages import Message
from headland_edge.records import COLUMNS

from tasks.fleet.store import Store

NOW_S = 1_262_304_000.0  # 1 January 2010
DEPLETION = "depletion_frac"


def body(mornings: int = 5, **changes: Any) -> dict[str, Any]:
    """What an excerpt says; every column tells its morning."""
    first_day = changes.get("first_day", 0)
    start = first_day if isinstance(first_day, int) else 0
    plain = {
        "field": "north",
        "crop": "maize",
        "sowing_date": "2009-04-30",
        "first_day": 0,
        "columns": {name: [1.0 + min(start + i, 40) / 100 for i in range(mornings)] for name in COLUMNS},
        "why": ["random"],
        "score": 0.5,
        "harvest_t_ha": 9.5,
    }
    return {**plain, **changes}


def record(device: str = "field-1", time_s: float = 1.0, **changes: Any) -> Message:
    """A message with it."""
    return Message(device, "record", time_s, body(**changes))


def fill(path: Path, messages: Iterable[Message], received_s: float = NOW_S) -> None:
    """Put messages into a store."""
    with Store(path) as store:
        store.keep(messages, received_s=received_s)
