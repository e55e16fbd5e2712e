"""One record message of a device, checked: whatever a device may send, only mornings that can be true come through.

Mornings without a single reading are mornings too: sensors are out for weeks, and what is missing has to be known. A
single reading out of range is a sensor's fault and left out, as on the device. A column that is mostly out of range
with changing values is taken for a wrong unit, and the whole excerpt refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from headland_edge.messages import DEVICE_ID, Message
from headland_edge.records import COLUMN_INFO, COLUMNS, CROPS, MAX_MORNINGS

from tasks.field.schema import MOST_HARVEST_T_HA, SITE, WHY

MOST_EXCERPT_MORNINGS = 35
FIRST_YEAR = 1950
_AHEAD_DAYS = 1  # somewhere on earth it is tomorrow already
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOST_COUNTER = 2**53


class ExcerptError(ValueError):
    """No excerpt; ``code`` is one word for counting, the text says what is wrong."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Excerpt:
    """Some mornings of one field.

    Args:
        crop: what grows there.
        season: year of sowing.
        rows: of the table, without what no sensor was read for.
        dropped: readings left out as faults, by column.
    """

    crop: str
    season: int
    rows: list[dict[str, Any]]
    dropped: Mapping[str, int] = field(default_factory=dict)


def parse(message: Message, received_s: float) -> Excerpt:
    """Take an excerpt from a message of kind ``record``.

    Args:
        message: of a known device; its body may hold anything.
        received_s: when it came, seconds since 1970: what lies ahead of it is no record.

    Raises:
        ExcerptError: the body is no excerpt.
    """
    body = message.body
    name, crop = body.get("field"), body.get("crop")
    if not isinstance(name, str) or not DEVICE_ID.fullmatch(name):
        raise ExcerptError("field", "field: not 1 to 63 lower-case letters, digits and hyphens")
    if not isinstance(crop, str) or crop not in CROPS:
        raise ExcerptError("crop", f"crop: not one of {', '.join(CROPS)}")
    sown = _date(body.get("sowing_date"))
    first = _whole(body.get("first_day"), "first_day", MAX_MORNINGS - 1)
    columns, mornings = _columns(body.get("columns"))
    if first + mornings > MAX_MORNINGS:
        raise ExcerptError("length", f"ends {first + mornings} days after sowing, more than {MAX_MORNINGS - 1}")
    today = datetime.fromtimestamp(received_s, UTC).date()
    if sown + timedelta(days=first + mornings - 1 - _AHEAD_DAYS) > today:
        raise ExcerptError("future", f"ends {sown + timedelta(days=first + mornings - 1)}, received {today}")
    told = {"why": _why(body.get("why")), "harvest_t_ha": _harvest(body.get("harvest_t_ha"))}
    counter = body.get("release_counter")
    told["release_counter"] = None if counter is None else _whole(counter, "release_counter", _MOST_COUNTER)
    kept, dropped = _in_range(columns)
    keys = {"crop": crop, "site": SITE, "season": sown.year, "field_id": f"{message.device_id}/{name}"}
    rows = [
        {
            **keys,
            "days_after_sowing": first + i,
            "date": sown + timedelta(days=first + i),
            "sowing_date": sown,
            **{column: kept[column][i] if column in kept else None for column in COLUMNS},
            **told,
        }
        for i in range(mornings)
    ]
    return Excerpt(crop, sown.year, rows, dropped)


def _date(value: object) -> date:
    try:
        found = date.fromisoformat(value) if isinstance(value, str) and _DATE.fullmatch(value) else None
    except ValueError:
        found = None
    if found is None or not FIRST_YEAR <= found.year <= 2200:
        raise ExcerptError("sowing-date", f"sowing_date: not a day from {FIRST_YEAR} on, like 2009-04-30")
    return found


def _whole(value: object, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ExcerptError("type", f"{name}: not a whole number from 0 to {most}")
    return value


def _number(value: object, name: str) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExcerptError("type", f"{name}: not a number")
    return value


def _columns(value: object) -> tuple[dict[str, list[float | int | None]], int]:
    if not isinstance(value, dict) or not value:
        raise ExcerptError("column", "columns: not an object with a column")
    if unknown := sorted(set(value) - set(COLUMNS)):
        raise ExcerptError("column", f"columns: {unknown[0][:40]!r} is none of {', '.join(COLUMNS)}")
    lengths = {len(values) if isinstance(values, list) else -1 for values in value.values()}
    mornings = lengths.pop()
    if lengths or not 1 <= mornings <= MOST_EXCERPT_MORNINGS:
        raise ExcerptError("length", f"columns: not lists of one length, 1 to {MOST_EXCERPT_MORNINGS}")
    checked = {
        name: [None if each is None else _number(each, f"columns.{name}") for each in values]
        for name, values in value.items()
    }
    return checked, mornings


def _why(value: object) -> str:
    if not isinstance(value, list) or not all(isinstance(each, str) and each in WHY for each in value):
        raise ExcerptError("why", f"why: not a list of {', '.join(WHY)}")
    return ",".join(sorted(set(value))) or "typical"


def _harvest(value: object) -> float | None:
    if value is None:
        return None
    number = _number(value, "harvest_t_ha")
    if not 0 <= number <= MOST_HARVEST_T_HA:
        raise ExcerptError("harvest", f"harvest_t_ha: not from 0 to {MOST_HARVEST_T_HA:g}")
    return float(number)


def _in_range(columns: Mapping[str, list[float | int | None]]) -> tuple[dict[str, list[float | None]], dict[str, int]]:
    kept: dict[str, list[float | None]] = {}
    dropped: dict[str, int] = {}
    for name, values in columns.items():
        low, high = COLUMN_INFO[name].low, COLUMN_INFO[name].high
        present = [value for value in values if value is not None]
        outside = [value for value in present if not low <= value <= high]
        if len(outside) * 2 > len(present) and len(set(outside)) >= 3:
            raise ExcerptError("out-of-range", f"columns.{name}: {len(outside)} of {len(present)} readings are outside")
        if outside:
            dropped[name] = len(outside)
        # Plus 0.0: minus zero would make other bytes of the same reading.
        kept[name] = [None if value is None or not low <= value <= high else float(value) + 0.0 for value in values]
    return kept, dropped
