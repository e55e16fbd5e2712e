"""Which records are worth their bytes, decided in retrospect: when a season is over and its harvest was weighed.

1. Every field is judged (``judge``): how sure its yield estimates were and how foreign its mornings, as percentiles of
   training; and how wrong the estimates turned out, in half-widths of their band, with the sign.
2. Of the bytes that all records of the season would take (``cost``), ``record_share`` may be sent. Of what is sent,
   ``random_share`` goes to fields drawn by a hash of device, field and season, whatever they say: the honest control.
3. The rest goes to fields spread evenly over the order of the errors (systematic sampling, Madow 1949): not the most
   wrong ones. A net taught by its worst misses alone learns that all fields are like them; a fair sample of its errors
   teaches what all records would. Novelty and uncertainty break what the errors leave open.
4. What is sent are beginnings of seasons, each morning once, in excerpts of at most ``MAX_MORNINGS``: a net's window
   and running totals reach back to sowing, so that a morning is worth nothing without those before it.

Pure functions: the same seasons and settings give the same messages. Only what the harvest is weighed for can teach the
yield net; a field without one takes part with its novelty and uncertainty alone, after the others.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headland_edge.advisor import AdviceRefused, Advisor
from headland_edge.features import clean, derive
from headland_edge.messages import Message, encode
from headland_edge.records import COLUMNS, Records
from headland_edge.sketch import Sketch

FloatArray = NDArray[np.float64]

MAX_MORNINGS = 35
"""Of one excerpt."""
LEAST_MORNINGS = 14
"""A shorter beginning of a chosen season is not worth a message; the control takes what it gets."""
REACH_MORNINGS = 64
"""What is left after the control is shared among as many fields as can have that many each: a window of the nets."""
ASK_EVERY_DAYS = 5
"""Yield estimates are looked at on every so-manieth morning."""
MANY = 0.9
"""Percentile from which a field is called uncertain or novel."""
WRONG = 1.0
"""Half-widths of the band from which an estimate is called wrong."""
_DECIMALS = {"depletion_frac": 2, "lai": 2}
_YIELD = "yield_t_ha"


@dataclass(frozen=True, eq=False)
class FieldSeason:
    """One field's season, over.

    Args:
        field: its name.
        records: raw, from sowing on.
        harvest_t_ha: what was weighed, None if nothing was.
        bands: shape (n_mornings, 3), what was thought of the yield each morning, t/ha; NaN where it was not asked.
        release_counter: of the release that judges, None if unknown.
    """

    field: str
    records: Records
    harvest_t_ha: float | None
    bands: FloatArray
    release_counter: int | None = None

    @property
    def season(self) -> int:
        """Year of sowing."""
        return self.records.sowing_date.year


@dataclass(frozen=True, eq=False)
class Judged:
    """A field season and what it says.

    Args:
        over: the season.
        uncertainty: mean percentile of the band's width, 0 to 1; NaN if unknown.
        novelty: mean percentile of novelty, 0 to 1; NaN if unknown.
        disagreement: mean error in half-widths of the band, above 0 if more was harvested; NaN without a harvest.
    """

    over: FieldSeason
    uncertainty: float
    novelty: float
    disagreement: float

    @property
    def why(self) -> list[str]:
        """What makes it remarkable; ``typical`` if nothing does."""
        found = {
            "uncertain": self.uncertainty >= MANY,
            "novel": self.novelty >= MANY,
            "disagrees": abs(self.disagreement) >= WRONG,
        }
        return [name for name, holds in found.items() if holds] or ["typical"]

    @property
    def score(self) -> float:
        """How remarkable: the mean of what is known of it, each 0 to 1. Told, not ranked by."""
        wrong = abs(self.disagreement) / (1 + abs(self.disagreement))
        known = [each for each in (self.uncertainty, self.novelty, wrong) if not math.isnan(each)]
        return round(sum(known) / len(known), 4) if known else 0.0


@dataclass(frozen=True)
class Terms:
    """How much may leave the device, and what of it.

    Args:
        record_share: of the bytes that sending everything would take.
        random_share: of the bytes sent that go to the control, at least.
        fields: columns that may leave; empty for all.
        keep_raw: False: nothing leaves.
    """

    record_share: float = 0.1
    random_share: float = 0.1
    fields: tuple[str, ...] = ()
    keep_raw: bool = True


def yield_bands(advisor: Advisor, records: Records) -> FloatArray:
    """What ``advisor`` would have said of the yield through a season, as it says it now.

    Returns:
        Shape (n_mornings, 3), NaN on mornings not asked about and where it cannot say.

    Raises:
        BundleError: a model of the bundle does not run here.
    """
    bands = np.full((records.n_mornings, 3), np.nan)
    for morning in range(ASK_EVERY_DAYS - 1, records.n_mornings, ASK_EVERY_DAYS):
        try:
            said = advisor.advise(records.until(morning), ("yield",)).yield_t_ha
        except AdviceRefused:
            continue
        if said is not None and said.q10 is not None and said.q90 is not None:
            bands[morning] = said.q10, said.q50, said.q90
    return bands


def judge(over: FieldSeason, sketch: Sketch) -> Judged:
    """What a season says; without a sketch of its crop only the harvest speaks."""
    asked = np.flatnonzero(np.isfinite(over.bands).all(axis=1))
    known = sketch.get(over.records.crop)
    uncertainty = novelty = disagreement = math.nan
    if known is not None:
        widths = over.bands[asked, 2] - over.bands[asked, 0]
        pairs = zip(asked.tolist(), widths.tolist(), strict=True)
        uncertainty = _mean(np.array([known.uncertainty(_YIELD, day, width) for day, width in pairs]))
        cleaned, _ = clean(over.records)
        novelty = _mean(known.novelties(derive(cleaned)))
    if over.harvest_t_ha is not None and asked.size:
        error = over.harvest_t_ha - over.bands[asked, 1]
        low, middle, high = over.bands[asked].T
        side = np.where(error > 0, high - middle, middle - low)
        disagreement = _mean(error / np.maximum(side, 1e-3))
    return Judged(over, uncertainty, novelty, disagreement)


def cost(seasons: Sequence[FieldSeason], terms: Terms, device_id: str) -> int:
    """Bytes that all records of ``seasons`` would take in the same form; 0 where nothing may leave."""
    if not terms.keep_raw:
        return 0
    plain = [Judged(each, math.nan, math.nan, math.nan) for each in seasons]
    return sum(_size(messages(each, each.over.records.n_mornings, [], terms, device_id)) for each in plain)


def choose(seasons: Sequence[Judged], terms: Terms, device_id: str) -> list[Message]:
    """The records to send of one season of one device.

    Args:
        seasons: all its fields that are over, each once.
        terms: how much may leave.
        device_id: of the device.

    Returns:
        Messages, at most ``record_share`` of the bytes of ``cost``; of their bytes at least ``random_share`` control.
    """
    budget = math.floor(terms.record_share * cost([each.over for each in seasons], terms, device_id))
    if not budget:
        return []
    drawn = sorted(seasons, key=lambda each: _chance(device_id, each.over.season, each.over.field))
    wanted = math.ceil(terms.random_share * budget)
    sent: list[Message] = []
    control = number = 0
    for each in drawn:
        if control >= wanted:
            break
        part = _reaching(each, wanted - control, budget - control, terms, device_id)
        sent, control, number = [*sent, *part], control + _size(part), number + 1
    left = budget - control if control >= wanted else 0
    picked = _spread(drawn[number:], left, terms, device_id)
    for count, each in enumerate(picked):
        part = _within(each, left // (len(picked) - count), terms, device_id)
        sent, left = [*sent, *part], left - _size(part)
    return sent


def messages(judged: Judged, mornings: int, why: Sequence[str], terms: Terms, device_id: str) -> list[Message]:
    """The first ``mornings`` of a season as messages, each morning once, allowed columns only, rounded.

    A column without any reading in an excerpt is left out of it, save the first, which tells how many mornings it has.
    """
    over, records = judged.over, judged.over.records
    allowed = [name for name in COLUMNS if not terms.fields or name in terms.fields]
    made = []
    for first in range(0, mornings if allowed else 0, MAX_MORNINGS):
        end = min(first + MAX_MORNINGS, mornings)
        columns = {name: _rounded(name, records.column(name)[first:end]) for name in allowed}
        told = {
            name: values for name, values in columns.items() if name == allowed[0] or values != [None] * len(values)
        }
        body: dict[str, Any] = {
            "field": over.field,
            "crop": records.crop,
            "sowing_date": records.sowing_date.isoformat(),
            "first_day": first,
            "columns": told,
            "why": list(why),
            "score": judged.score,
            "harvest_t_ha": over.harvest_t_ha,
        }
        if over.release_counter is not None:
            body["release_counter"] = over.release_counter
        made.append(Message(device_id, "record", _day_s(records.last_date), body))
    return made


def _spread(judged: Sequence[Judged], left: int, terms: Terms, device_id: str) -> list[Judged]:
    """Fields to send from ``left`` bytes, evenly over the order of their errors from a start left to chance.

    As many as can have ``REACH_MORNINGS`` each; those that were weighed before those that were not.
    """
    picked: list[Judged] = []
    weighed = sorted((each for each in judged if not math.isnan(each.disagreement)), key=_by_error)
    others = sorted((each for each in judged if math.isnan(each.disagreement)), key=_by_strangeness)
    for group in (weighed, others):
        room = left - sum(_reach_size(each, terms, device_id) for each in picked)
        if not group or (picked and room < _reach_size(group[0], terms, device_id)):
            break
        mean = sum(_reach_size(each, terms, device_id) for each in group) / len(group)
        count = min(max(1, int(room / mean)), len(group)) if room > 0 else 0
        start = _chance(device_id, group[0].over.season, "start")
        picked += [group[int((at + start) * len(group) / count)] for at in range(count)]
    return picked


def _by_error(judged: Judged) -> tuple[float, float, str]:
    return judged.disagreement, _or_zero(judged.novelty), judged.over.field


def _by_strangeness(judged: Judged) -> tuple[float, str]:
    return _or_zero(judged.novelty) + _or_zero(judged.uncertainty), judged.over.field


def _reach_size(judged: Judged, terms: Terms, device_id: str) -> int:
    mornings = min(REACH_MORNINGS, judged.over.records.n_mornings)
    return max(1, _size(messages(judged, mornings, judged.why, terms, device_id)))


def _reaching(judged: Judged, wanted: int, most: int, terms: Terms, device_id: str) -> list[Message]:
    """The shortest beginning of at least ``wanted`` bytes, or all; if it is above ``most``, the longest that is not."""

    def part(mornings: int) -> list[Message]:
        return messages(judged, mornings, ["random"], terms, device_id)

    whole = judged.over.records.n_mornings
    mornings = bisect_left(range(whole), wanted, key=lambda count: _size(part(count)))
    found = part(mornings)
    return found if _size(found) <= most else part(_longest(part, whole, most))


def _within(judged: Judged, most: int, terms: Terms, device_id: str) -> list[Message]:
    """The longest beginning of at most ``most`` bytes; nothing if it is too short to be worth it."""

    def part(mornings: int) -> list[Message]:
        return messages(judged, mornings, judged.why, terms, device_id)

    whole = judged.over.records.n_mornings
    mornings = _longest(part, whole, most)
    return part(mornings) if mornings >= min(LEAST_MORNINGS, whole) else []


def _longest(part: Callable[[int], list[Message]], whole: int, most: int) -> int:
    """How many mornings ``most`` bytes hold; a longer beginning never takes fewer bytes."""
    return bisect_right(range(whole + 1), most, key=lambda count: _size(part(count))) - 1


def _size(sent: Sequence[Message]) -> int:
    return sum(len(encode(message)) for message in sent)


def _chance(device_id: str, season: int, what: str) -> float:
    """From 0 to below 1, the same for the same names."""
    digest = hashlib.sha256(f"{device_id}/{season}/{what}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _rounded(name: str, values: FloatArray) -> list[float | int | None]:
    """Values to what a sensor resolves."""
    rounded = [round(value, _DECIMALS.get(name, 1)) if math.isfinite(value) else None for value in values.tolist()]
    return [int(each) if each is not None and each.is_integer() and abs(each) < 1e6 else each for each in rounded]


def _day_s(day: date) -> float:
    """Seconds since 1970 of a day's begin: no clock is asked, so the same records make the same message."""
    return max(0.0, datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
