"""What a tenth of the bytes is worth: a fleet's season, sent whole, chosen, or drawn, and the yield net that learns it.

``python -m benchmarks.sync`` in a folder where the pipeline has run prints JSON and writes ``metrics/bench/sync.json``.

Twelve devices with twelve maize fields each stand where training did not: a third of the fields on the soil that no
training field has, drier at sowing, probes that drift twice as fast, outages twice as often. In each of ``SEASONS``
seasons from ``as_of`` on, the device's own code judges its fields and packs its messages, and the same start, the net
trained on seasons before ``as_of``, learns from each of:

    everything        every record                          the reference
    selected          ``headland_edge.selection``, 10 %     what ships
    random_records    records of any morning drawn, 10 %    a draw at equal bytes that knows nothing
    random_excerpts   35 mornings in a row drawn, 10 %      the same, in packets
    random            fields drawn by hash, 10 %            the peer at equal bytes: the control that devices send
    most_...          10 % of the highest of one score      what active learning would send first
    nothing           no record: the net as it was

The metric is the pinball loss, t/ha, on the next season's fields of the same kind, whose records nobody has. Learning
is short: the last two layers, field windows making up the share that the pipeline gives them (``FIELD_SHARE``). Seeds
differ in which fields stand on one device, in names, so in every draw, and in the order of learning. One season is one
draw of the weather, so all there are count. Two errors are given: that of the mean over seeds tells of luck in dealing
and drawing, that over seasons of what the next season may bring.
"""

from __future__ import annotations

import json
import tarfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from headland_edge.advisor import Advisor
from headland_edge.bundle import MANIFEST, open_bundle
from headland_edge.messages import Message, encode
from headland_edge.records import Records
from headland_edge.selection import (
    MAX_MORNINGS,
    FieldSeason,
    Judged,
    Terms,
    choose,
    cost,
    judge,
    messages,
    yield_bands,
)
from headland_edge.sketch import Sketch, parse_sketch

from benchmarks.machine import describe
from tasks import params as params_module
from tasks.crops.fields import draw_field, field_rng
from tasks.crops.interface import Crop, Field
from tasks.durable import write_json
from tasks.features.derive import records_and_harvests
from tasks.field.worth import EVERY_DAYS, Shown, Start, arm_of, learned, metric, shown, start_of
from tasks.packaging.sketch import make_sketch
from tasks.params import Params
from tasks.seasons.generate import simulate
from tasks.sources.daily import SiteWeather, read_sites

DEVICES, FIELDS = 12, 12
SEASONS = 9  # at most: as many as are known, save the last, which only judges
SEEDS = 8
SEEDS_OF_OTHERS = 4
FOREIGN_EVERY = 3
INITIAL_WATER_FRAC = (0.2, 0.8)
WORSE_SENSORS = 2.0
CROP: Crop = "maize"
_FLEET = 101  # fields of the fleet are neither training's nor evaluation's


def fleet_params(params: Params) -> Params:
    """Params of a population that differs in part from training's."""
    maize = params.fields.maize.model_copy(update={"initial_water_frac": INITIAL_WATER_FRAC})
    sensors = params.sensors
    worse = {
        "depletion_frac": sensors.depletion_frac.model_copy(
            update={"drift_per_day": WORSE_SENSORS * sensors.depletion_frac.drift_per_day}
        ),
        "dropout": sensors.dropout.model_copy(
            update={"starts_per_day": min(1.0, WORSE_SENSORS * sensors.dropout.starts_per_day)}
        ),
    }
    return params.model_copy(
        update={
            "fields": params.fields.model_copy(update={"maize": maize}),
            "sensors": sensors.model_copy(update=worse),
            "seed": params.seed + _FLEET,
        }
    )


def population(params: Params, site: SiteWeather, season: int) -> list[tuple[Records, float]]:
    """Records and harvest of every field of the fleet in a season."""
    ranges = params.fields.maize
    fields: tuple[Field, ...] = tuple(
        draw_field(
            CROP,
            site.name,
            season,
            number,
            ranges,
            params.seed,
            ranges.held_out_soil if number % FOREIGN_EVERY == 0 else None,
        )
        for number in range(DEVICES * FIELDS)
    )
    return records_and_harvests(simulate(fields, {site.name: site.season_weather(season)}, params))


def years_from(params: Params, site: SiteWeather) -> list[int]:
    """Known seasons from ``as_of`` on, at most ``SEASONS`` to learn from and one to judge the last of them.

    Raises:
        ValueError: fewer than three: an error over seasons needs two to learn from.
    """
    ranges = params.fields.maize
    known = [year for year in site.seasons(ranges.sowing_day[1] + ranges.season_days) if year >= params.as_of]
    if len(known) < 3:
        raise ValueError(f"as_of {params.as_of}: {site.name} has {len(known)} seasons from then on, 3 are needed")
    return known[: SEASONS + 1]


def by_score(key: Callable[[Judged], float]) -> Callable[[list[Judged], str], list[Message]]:
    """Choose the highest of one score, within the same bytes."""

    def chosen(judged: list[Judged], device_id: str) -> list[Message]:
        best = sorted(judged, key=key, reverse=True)
        left = int(Terms().record_share * cost([each.over for each in judged], Terms(), device_id))
        sent: list[Message] = []
        for each in best:
            for message in messages(each, each.over.records.n_mornings, each.why, Terms(), device_id):
                size = len(encode(message))
                if size > left:
                    return sent
                sent, left = [*sent, message], left - size
        return sent

    return chosen


CHOICES: dict[str, Callable[[list[Judged], str], list[Message]]] = {
    "selected": lambda judged, device_id: choose(judged, Terms(), device_id),
    "random": lambda judged, device_id: choose(judged, Terms(random_share=1.0), device_id),
    "most_wrong": by_score(lambda each: abs(each.disagreement)),
    "most_uncertain": by_score(lambda each: each.uncertainty),
    "most_novel": by_score(lambda each: each.novelty),
}


def excerpts_drawn(judged: list[Judged], device_id: str) -> list[Message]:
    """Excerpts of ``MAX_MORNINGS`` from anywhere in the seasons, by chance, as many as the bytes hold."""
    places = [(each, first) for each in judged for first in range(0, each.over.records.n_mornings, MAX_MORNINGS)]
    left = _budget(judged, device_id)
    sent: list[Message] = []
    for place in field_rng(0, device_id, "excerpts").permutation(len(places)).tolist():
        each, first = places[place]
        days = range(first, min(first + MAX_MORNINGS, each.over.records.n_mornings))
        found = of_days(each, list(days), device_id)
        size = sum(len(encode(message)) for message in found)
        if size <= left:
            sent, left = [*sent, *found], left - size
    return sent


def records_drawn(judged: list[Judged], device_id: str) -> list[Message]:
    """Single records of any field and morning, by chance, as many as the bytes hold; a field's travel together."""
    places = [(n, day) for n, each in enumerate(judged) for day in range(each.over.records.n_mornings)]
    order = field_rng(0, device_id, "records").permutation(len(places)).tolist()

    def packed(count: int) -> list[Message]:
        days: dict[int, list[int]] = {}
        for place in order[:count]:
            days.setdefault(places[place][0], []).append(places[place][1])
        return [message for n in sorted(days) for message in of_days(judged[n], sorted(days[n]), device_id)]

    def size(count: int) -> int:
        return sum(len(encode(message)) for message in packed(count))

    return packed(bisect_right(range(len(places) + 1), _budget(judged, device_id), key=size) - 1)


def of_days(judged: Judged, days: list[int], device_id: str) -> list[Message]:
    """Records of so many mornings, told by ``days``, otherwise in the form of the device's own messages."""
    records = judged.over.records
    part = Records(records.crop, records.sowing_date, records.values[days])
    alone = replace(judged, over=replace(judged.over, records=part))
    found = messages(alone, part.n_mornings, ["random"], Terms(), device_id)
    chunks = [days[first : first + MAX_MORNINGS] for first in range(0, len(days), MAX_MORNINGS)]
    return [
        replace(message, body={**message.body, "first_day": chunk[0], "days": chunk})
        for message, chunk in zip(found, chunks, strict=True)
    ]


def _budget(judged: list[Judged], device_id: str) -> int:
    return int(Terms().record_share * cost([each.over for each in judged], Terms(), device_id))


SCATTERED: dict[str, tuple[Callable[[list[Judged], str], list[Message]], int]] = {
    "random_records": (records_drawn, 1),
    "random_excerpts": (excerpts_drawn, EVERY_DAYS),
}
"""Draws from anywhere in the season; of a field's mornings that came, one in so many ends a window."""


def sent_by_fleet(
    judged: list[Judged], choice: Callable[[list[Judged], str], list[Message]], seed: int
) -> tuple[list[Message], int, int]:
    """What a fleet sends: messages, their bytes, and bytes of everything.

    Args:
        judged: all fields.
        choice: of records, on each device.
        seed: which fields stand on one device, and the devices' names.
    """
    order = np.random.default_rng(seed).permutation(len(judged))
    sent: list[Message] = []
    whole = 0
    for device, numbers in enumerate(order.reshape(DEVICES, FIELDS).tolist()):
        device_id = f"fleet-{seed}-{device}"
        farm = [replace(judged[n], over=replace(judged[n].over, field=f"field-{n:03d}")) for n in numbers]
        whole += cost([each.over for each in farm], Terms(), device_id)
        sent += choice(farm, device_id)
    return sent, sum(len(encode(message)) for message in sent), whole


def number_of(message: Message) -> int:
    """The number of a message's field in the fleet."""
    return int(message.body["field"].removeprefix("field-"))


def scattered(start: Start, judged: list[Judged], sent: list[Message], season: int, every_days: int) -> Shown:
    """Windows that end on the mornings that came, with nothing known of those that did not.

    Args:
        start: the net.
        judged: all fields.
        sent: excerpts from anywhere.
        season: of the records.
        every_days: of a field's mornings that came, one in so many ends a window.
    """
    came: dict[int, list[int]] = {}
    for message in sent:
        came.setdefault(number_of(message), []).extend(message.body["days"])
    fields, ends = [], []
    for number, mornings_known in sorted(came.items()):
        over = judged[number].over
        assert over.harvest_t_ha is not None
        values = np.full(over.records.values.shape, np.nan)
        values[mornings_known] = over.records.values[mornings_known]
        fields.append((Records(over.records.crop, over.records.sowing_date, values), over.harvest_t_ha))
        ends.append(sorted(mornings_known)[::every_days])
    return shown(start, fields, {CROP: season}, ends)


def measured(
    start: Start, seasons: Mapping[int, Shown], judged: Mapping[int, list[Judged]]
) -> Iterator[dict[str, Any]]:
    """One row for each season, arm and seed."""
    for season, known in judged.items():
        now, after = seasons[season], seasons[season + 1]
        every = {number: each.over.records.n_mornings for number, each in enumerate(known)}
        yield {"season": season, "arm": "nothing", "seed": 0, "metric": metric(start.head, after), "bytes_share": 0.0}
        for seed in range(SEEDS):
            found = metric(learned(start, now, every, seed), after)
            yield {"season": season, "arm": "everything", "seed": seed, "metric": found, "bytes_share": 1.0}
            for name in CHOICES:
                if name in ("selected", "random") or seed < SEEDS_OF_OTHERS:
                    sent, used, whole = sent_by_fleet(known, CHOICES[name], seed)
                    found = metric(learned(start, now, arm_of(sent, number_of), seed), after)
                    yield {"season": season, "arm": name, "seed": seed, "metric": found, "bytes_share": used / whole}
            for name, (choice, every_days) in SCATTERED.items():
                sent, used, whole = sent_by_fleet(known, choice, seed)
                came = scattered(start, known, sent, season, every_days)
                arm = dict.fromkeys(range(int(came.field.max()) + 1), 10**6)
                found = metric(learned(start, came, arm, seed), after)
                yield {"season": season, "arm": name, "seed": seed, "metric": found, "bytes_share": used / whole}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By arm: bytes, metric by season, and loss against everything with the error of its mean over seeds."""
    names = list(dict.fromkeys(row["arm"] for row in rows))
    seasons = sorted({row["season"] for row in rows})
    tables = {
        name: np.array([[r["metric"] for r in rows if r["arm"] == name and r["season"] == s] for s in seasons])
        for name in names
    }
    reference = tables["everything"].mean(axis=1, keepdims=True)
    arms = {}
    for name in names:
        loss = (tables[name] / reference - 1).mean(axis=0)  # by seed, each season counting alike
        arms[name] = {
            "bytes_share": float(np.mean([r["bytes_share"] for r in rows if r["arm"] == name])),
            "most_bytes_share": float(np.max([r["bytes_share"] for r in rows if r["arm"] == name])),
            "by_season": dict(zip(map(str, seasons), tables[name].mean(axis=1).round(4).tolist(), strict=True)),
            "loss_frac": float(loss.mean()),
            "loss_frac_se": _error(loss),
            "seeds": int(loss.size),
        }
    better: dict[str, float] = {}
    for name in names:
        if name.startswith("random"):
            gain, key = (tables[name] - tables["selected"]) / reference, f"better_than_{name}_frac"
            errors = {f"{key}_se": _error(gain.mean(axis=0)), f"{key}_season_se": _error(gain.mean(axis=1))}
            better |= {key: float(gain.mean()), **errors}
    return {"arms": arms, **better}


def _error(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else 0.0


def release_in(root: Path) -> tuple[Advisor, Sketch]:
    """The release's adviser, and its sketch; made here for a bundle of before there were sketches."""
    bundle = open_bundle(next(iter(sorted((root / "data/bundle").glob("*.tar")))))
    if bundle.sketch:
        return Advisor(bundle), bundle.sketch
    with tarfile.open(bundle.path) as archive:
        member = archive.extractfile(MANIFEST)
        assert member is not None
        plain = json.loads(member.read())
    onnx = {name: bundle.model_bytes(name) for name in plain["models"]}
    return Advisor(bundle), parse_sketch(make_sketch(root / "data/windows", plain["models"], onnx))


def main() -> int:
    """Measure and print; 1 if the target is missed, or better than any random draw by less than twice either error."""
    torch.set_num_threads(1)
    began, root = time.perf_counter(), Path()
    params = params_module.load(root / "params.yaml")
    site = next(s for name, s in read_sites(params, root / "data/weather").items() if CROP in params.sites[name].crops)
    advisor, sketch = release_in(root)
    start = start_of(root, params.seed)
    seasons: dict[int, Shown] = {}
    judged: dict[int, list[Judged]] = {}
    years = years_from(params, site)
    for season in years:
        fields = population(fleet_params(params), site, season)
        seasons[season] = shown(start, fields, {CROP: season})
        if season < years[-1]:
            over = [FieldSeason("a", r, round(harvest, 3), yield_bands(advisor, r)) for r, harvest in fields]
            judged[season] = [judge(each, sketch) for each in over]
    found = {
        "machine": describe(),
        "devices": DEVICES,
        "fields": FIELDS,
        "seasons": len(judged),
        **summary(list(measured(start, seasons, judged))),
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_json(Path("metrics/bench/sync.json"), found)
    print(json.dumps(found, indent=2))
    chosen = found["arms"]["selected"]
    draws = ("random", *SCATTERED)
    beats = all(
        found[f"better_than_{name}_frac"] > 2 * found[f"better_than_{name}_frac_{error}"]
        for name in draws
        for error in ("se", "season_se")
    )
    return 0 if chosen["most_bytes_share"] <= 0.1 and chosen["loss_frac"] <= 0.01 and beats else 1


if __name__ == "__main__":
    raise SystemExit(main())
