"""What a field's season tells besides advice: drift on the way, and at its end the records that are worth sending.

- Every morning is compared with the training mornings in the release's sketch. Where drift begins or is over, an event
  says so, once for each morning it happens on: its time is the morning's, so that one told again is the same message.
- A season is over when everything that was sown in it was weighed, or when its records give way to a next season's.
  Then records are chosen (``headland_edge.selection``), once; ``selected.json`` remembers for which seasons.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import date

from headland_edge.durable import sealed, unsealed, write_bytes
from headland_edge.features import clean, derive
from headland_edge.home import Home, Settings
from headland_edge.messages import Message
from headland_edge.outbox import Outbox
from headland_edge.records import CROPS, RecordError, Records
from headland_edge.release import Loaded
from headland_edge.selection import FieldSeason, Terms, choose, judge, yield_bands
from headland_edge.sync import clock_s

_EPOCH = date(1970, 1, 1)
_MOST_SEASONS = 64
_Key = tuple[str, date]


@dataclass(frozen=True)
class _Season:
    """Crop and year of sowing: what is judged together."""

    crop: str
    year: int

    def __str__(self) -> str:
        return f"{self.crop} {self.year}"


class FieldWatch:
    """The fields of one device.

    Args:
        home: its folder.
        settings: of it.
        outbox: takes events and records.
    """

    def __init__(self, home: Home, settings: Settings, outbox: Outbox) -> None:
        self._settings, self._outbox = settings, outbox
        self._file = home.root / "selected.json"
        told = (unsealed(self._file) or {}).get("seasons", [])
        self._done = [each for each in told if isinstance(each, str)] if isinstance(told, list) else []
        self._records: dict[_Key, Records] = {}
        self._weighed: dict[_Key, float] = {}
        self._replaced: set[_Season] = set()
        self._news = False

    def see(self, field: str, records: Records, loaded: Loaded | None) -> None:
        """Records of a field arrived."""
        key = (field, records.sowing_date)
        before = self._records.get(key)
        self._news = True
        for other, kept in [each for each in self._records.items() if each[0][0] == field and each[0] != key]:
            if _season(kept) == _season(records):
                del self._records[other]  # the sowing date was corrected
            else:
                self._replaced.add(_season(kept))
        self._records[key] = records
        if loaded is not None:
            self._tell_drift(field, records, records.n_mornings - 1 if before is None else before.n_mornings, loaded)

    def weigh(self, field: str, crop: str, sowing_date: date, yield_t_ha: float) -> None:
        """The grower weighed a field's harvest. Raises RecordError if it is of another crop than was sown."""
        sown = self._records.get((field, sowing_date))
        if sown is not None and sown.crop != crop:
            raise RecordError(f"{field}: {crop} was weighed, {sown.crop} was sown; correct the file")
        self._news = True
        self._weighed[field, sowing_date] = yield_t_ha

    def end_seasons(self, loaded: Loaded | None) -> None:
        """Choose records of every season that is over, if that was not done before."""
        if loaded is None or not self._news:
            return
        self._news = False
        for season in {_season(records) for records in self._records.values()}:
            fields = {key: records for key, records in self._records.items() if _season(records) == season}
            is_over = season in self._replaced or fields.keys() <= self._weighed.keys()
            if str(season) not in self._done and is_over:
                self._select(season, fields, loaded)
            if str(season) in self._done:
                self._replaced.discard(season)
                for key in fields:
                    del self._records[key]

    def _select(self, season: _Season, fields: dict[_Key, Records], loaded: Loaded) -> None:
        uplink = self._settings.uplink
        terms = Terms(uplink.record_share, uplink.random_share, uplink.fields, uplink.keep_raw)
        try:
            over = [
                FieldSeason(
                    field=key[0],
                    records=records,
                    harvest_t_ha=self._weighed.get(key),
                    bands=yield_bands(loaded.advisor, records),
                    release_counter=loaded.booted.counter,
                )
                for key, records in sorted(fields.items())
            ]
            judged = [judge(each, loaded.bundle.sketch) for each in over]
        except Exception as error:  # a release may fail in any way; advice must go on, and the season ends later
            print(f"selection: {season}: {error}", file=sys.stderr, flush=True)
            return
        chosen = choose(judged, terms, self._settings.device_id)
        tickets = [self._outbox.put(message) for message in chosen]
        print(f"selection: {season}: {len(chosen)} records of {len(fields)} fields", file=sys.stderr, flush=True)
        for ticket in tickets:
            ticket.exception()  # waited for: only what lies in the outbox counts as done
        if not any(ticket.exception() for ticket in tickets):
            self._done = [*self._done, str(season)][-_MOST_SEASONS:]
            with suppress(OSError):  # it is chosen again, and the messages are the same
                write_bytes(self._file, sealed({"seasons": self._done}))

    def _tell_drift(self, field: str, records: Records, first: int, loaded: Loaded) -> None:
        """Events for the mornings from ``first`` on where drift began or was over."""
        sketch = loaded.bundle.sketch.get(records.crop)
        if sketch is None:
            return
        states = sketch.drifts(derive(clean(records)[0]))
        for morning in range(max(first, 0), len(states)):
            before = states[morning - 1].drifting if morning else False
            if states[morning].drifting != before:
                day = records.date_of(morning)
                said = "are again like" if before else "have become foreign to"
                body = {
                    "event": "drift_over" if before else "drift",
                    "text": f"{field}, {day}: mornings {said} those of the training",
                    "field": field,
                    "date": day.isoformat(),
                    "level": round(states[morning].level, 4),
                    "bundle_sha256": loaded.sha256,
                }
                time_s = clock_s((day - _EPOCH).days * 86_400.0)
                self._outbox.put(Message(self._settings.device_id, "event", time_s, body))


def parse_harvest(data: bytes, source: str) -> tuple[str, date, float]:
    """What the grower weighed: crop, sowing date, t/ha. Raises RecordError for anything else."""
    try:
        plain = json.loads(data)
        crop, sown, weighed = plain["crop"], date.fromisoformat(plain["sowing_date"]), plain["yield_t_ha"]
        if crop not in CROPS or isinstance(weighed, bool) or not 0 <= float(weighed) <= 100:
            raise ValueError("crop or yield_t_ha")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        example = '{"crop": "maize", "sowing_date": "2009-04-20", "yield_t_ha": 9.5}'
        raise RecordError(f"{source}: {error}; write {example}") from None
    return crop, sown, float(weighed)


def _season(records: Records) -> _Season:
    return _Season(records.crop, records.sowing_date.year)
