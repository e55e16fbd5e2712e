"""What a tenth of the bytes is worth: a fleet's season, sent whole, chosen, or drawn, and the yield net that learns it.

``python -m benchmarks.sync`` in a folder where the pipeline has run prints JSON and writes ``metrics/bench/sync.json``.

Twelve devices with twelve maize fields each stand where training did not: a third of the fields on the soil that no
training field has, drier at sowing, probes that drift twice as fast, outages twice as often. In each of ``SEASONS``
seasons from ``as_of`` on, the device's own code judges its fields and packs its messages, and the same start, the net
trained on seasons before ``as_of``, learns from each of:

    everything   every record                          the reference
    selected     ``headland_edge.selection``, 10 %     what ships
    random       fields drawn by hash, 10 %            the peer at equal bytes
    most_...     10 % of the highest of one score      what active learning would send first
    nothing      no record: the net as it was

The metric is the pinball loss, t/ha, on the next season's fields of the same kind, whose records nobody has. Learning
is short: the last two layers, field windows making up the share that the pipeline gives them (``FIELD_SHARE``). Seeds
differ in which fields stand on one device, in names, so in every draw, and in the order of learning. One season is one
draw of the weather, so several count; the error given is that of the mean over seeds.
"""

from __future__ import annotations

import copy
import json
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from headland_edge.advisor import Advisor
from headland_edge.bundle import MANIFEST, open_bundle
from headland_edge.features import clean, derive
from headland_edge.messages import Message, encode
from headland_edge.records import COLUMNS, Records
from headland_edge.selection import FieldSeason, Judged, Terms, choose, cost, judge, messages, yield_bands
from headland_edge.sketch import Sketch, parse_sketch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn

from benchmarks.machine import describe
from tasks import params as params_module
from tasks.crops.fields import draw_field, field_rng
from tasks.crops.interface import Crop, Field
from tasks.durable import write_json
from tasks.features.derive import records_of
from tasks.features.windows import FIELD_SHARE
from tasks.packaging.sketch import make_sketch
from tasks.params import Params
from tasks.seasons.generate import simulate
from tasks.sources.daily import SiteWeather, read_sites
from tasks.training.data import Windows, open_windows
from tasks.training.nets import folded, pinball
from tasks.training.quantiles import score
from tasks.training.store import load_net

DEVICES, FIELDS = 12, 12
SEASONS = 5
SEEDS = 16
SEEDS_OF_OTHERS = 4
FOREIGN_EVERY = 3
INITIAL_WATER_FRAC = (0.2, 0.8)
WORSE_SENSORS = 2.0
STEPS, BATCH, LEARNING_RATE = 60, 256, 3e-4
EVERY_DAYS = 3
"""Of mornings, one in so many is learned from and judged by."""
OLD_WINDOWS = 6000
MODEL = "yield"
CROP: Crop = "maize"
_FLEET = 101  # fields of the fleet are neither training's nor evaluation's
Arm = Mapping[int, int]
"""By number of the field, how many mornings came."""


@dataclass(frozen=True, eq=False)
class Shown:
    """Windows as the last layers see them, and what they shall say.

    Args:
        activations: [n, channels, days].
        targets: [n], scaled, without the trend.
        field: [n], number of the field.
        day: [n], days after sowing.
        t_ha: what a target of 1 is in t/ha.
    """

    activations: Tensor
    targets: Tensor
    field: np.ndarray[Any, np.dtype[np.int64]]
    day: np.ndarray[Any, np.dtype[np.int64]]
    t_ha: float

    def of(self, arm: Arm) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Windows of the mornings that came."""
        most = np.array([arm.get(number, 0) for number in range(int(self.field.max()) + 1)])
        return np.flatnonzero(self.day < most[self.field])


@dataclass(frozen=True, eq=False)
class Start:
    """The net that learning starts from, cut before its last layers, and windows of its own training."""

    stack: nn.Sequential
    head: nn.Sequential
    windows: Windows
    old: Tensor
    old_targets: Tensor


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
    rows = simulate(fields, {site.name: site.season_weather(season)}, params)
    ordered = rows.sort("field_id", "days_after_sowing").group_by("field_id", maintain_order=True)
    return [(records_of(field), float(field["truth_yield_t_ha"][0])) for _, field in ordered]


def as_sent(records: Records) -> Records:
    """A whole season as it arrives: through the device's own messages, rounded."""
    nothing = Judged(FieldSeason("a", records, None, np.empty((0, 3))), np.nan, np.nan, np.nan)
    values = np.full(records.values.shape, np.nan)
    for message in messages(nothing, records.n_mornings, ["random"], Terms(), "a"):
        first = message.body["first_day"]
        for name, column in message.body["columns"].items():
            read = [np.nan if value is None else value for value in column]
            values[first : first + len(read), COLUMNS.index(name)] = read
    return Records(records.crop, records.sowing_date, values)


def start_of(root: Path, seed: int) -> Start:
    """The trained net and a sample of its training windows, through all but its last layers once."""
    windows = open_windows(root / "data/windows" / MODEL)
    net, _, _ = load_net(root / "data/models" / MODEL / "trained")
    layers = list(folded(net).named_children())
    cut = [name for name, _ in layers].index("conv_head")
    stack, head = (nn.Sequential(*[layer for _, layer in part]) for part in (layers[:cut], layers[cut:]))
    picks = field_rng(seed, "sync", "old").choice(windows.training, OLD_WINDOWS)
    targets = torch.from_numpy(np.array(windows.targets[picks]))
    return Start(stack, head, windows, activations(stack, windows.gather(picks)), targets)


def activations(stack: nn.Sequential, windows: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
    """What reaches the last layers, [n, channels, days]."""
    with torch.no_grad():
        parts = [stack(torch.from_numpy(windows[i : i + BATCH])) for i in range(0, len(windows), BATCH)]
    return torch.cat(parts)


def shown(start: Start, fields: list[tuple[Records, float]], growth: float) -> Shown:
    """Windows of every field of a season, complete."""
    target, days = start.windows.target, start.windows.window_days
    parts, truths, number, day = [], [], [], []
    for i, (records, harvest_t_ha) in enumerate(fields):
        features = derive(clean(as_sent(records))[0])
        padded = np.vstack([np.zeros((days - 1, features.shape[1]), np.float32), features])
        ends = np.arange(0, len(features), EVERY_DAYS)
        parts.append(activations(start.stack, np.ascontiguousarray(sliding_window_view(padded, days, axis=0)[ends])))
        truths.append(np.full(ends.size, (harvest_t_ha / growth - target.offset) / target.scale, np.float32))
        number.append(np.full(ends.size, i))
        day.append(ends)
    return Shown(
        torch.cat(parts),
        torch.from_numpy(np.concatenate(truths)),
        np.concatenate(number),
        np.concatenate(day),
        target.scale * growth,
    )


def learned(start: Start, season: Shown, arm: Arm, seed: int) -> nn.Sequential:
    """The last layers after a short time with what came, beside windows of the seasons before."""
    head = copy.deepcopy(start.head)
    came = season.of(arm)
    if not came.size:
        return head
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, cycle_momentum=False)
    of_field = round(FIELD_SHARE * BATCH)
    for _ in range(STEPS):
        old, new = rng.integers(len(start.old), size=BATCH - of_field), rng.choice(came, of_field)
        inputs = torch.cat([start.old[old], season.activations[new]])
        loss = pinball(head(inputs), torch.cat([start.old_targets[old], season.targets[new]]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        cycle.step()
    return head


def metric(head: nn.Sequential, season: Shown) -> float:
    """Pinball loss on a season's fields, t/ha."""
    with torch.no_grad():
        said = head(season.activations).numpy()
    return score(said, season.targets.numpy(), season.t_ha).pinball


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


def sent_by_fleet(judged: list[Judged], name: str, seed: int) -> tuple[Arm, int, int]:
    """What a fleet sends: mornings by field, bytes, and bytes of everything.

    Args:
        judged: all fields.
        name: of the choice.
        seed: which fields stand on one device, and the devices' names.
    """
    order = np.random.default_rng(seed).permutation(len(judged))
    arm: dict[int, int] = {}
    used = whole = 0
    for device, numbers in enumerate(order.reshape(DEVICES, FIELDS).tolist()):
        device_id = f"fleet-{seed}-{device}"
        farm = [replace(judged[n], over=replace(judged[n].over, field=f"field-{n:03d}")) for n in numbers]
        whole += cost([each.over for each in farm], Terms(), device_id)
        for message in CHOICES[name](farm, device_id):
            used += len(encode(message))
            number = int(message.body["field"].removeprefix("field-"))
            mornings = len(next(iter(message.body["columns"].values())))
            arm[number] = max(arm.get(number, 0), message.body["first_day"] + mornings)
    return arm, used, whole


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
                    arm, used, whole = sent_by_fleet(known, name, seed)
                    found = metric(learned(start, now, arm, seed), after)
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
    gain = ((tables["random"] - tables["selected"]) / reference).mean(axis=0)
    return {"arms": arms, "better_than_random_frac": float(gain.mean()), "better_than_random_frac_se": _error(gain)}


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
    """Measure and print; 1 if the target is missed, or better than random by less than twice the error."""
    torch.set_num_threads(1)
    began, root = time.perf_counter(), Path()
    params = params_module.load(root / "params.yaml")
    site = next(s for name, s in read_sites(params, root / "data/weather").items() if CROP in params.sites[name].crops)
    advisor, sketch = release_in(root)
    start = start_of(root, params.seed)
    trend = json.loads((root / "data/windows" / MODEL / "meta.json").read_text())["trends"][CROP]
    seasons: dict[int, Shown] = {}
    judged: dict[int, list[Judged]] = {}
    for season in range(params.as_of, params.as_of + SEASONS + 1):
        fields = population(fleet_params(params), site, season)
        growth = 1 + trend["per_year_frac"] * (season - trend["reference_season"])
        seasons[season] = shown(start, fields, growth)
        if season < params.as_of + SEASONS:
            over = [FieldSeason("a", r, round(harvest, 3), yield_bands(advisor, r)) for r, harvest in fields]
            judged[season] = [judge(each, sketch) for each in over]
    found = {
        "machine": describe(),
        "devices": DEVICES,
        "fields": FIELDS,
        "seasons": SEASONS,
        **summary(list(measured(start, seasons, judged))),
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_json(Path("metrics/bench/sync.json"), found)
    print(json.dumps(found, indent=2))
    chosen = found["arms"]["selected"]
    beats = found["better_than_random_frac"] > 2 * found["better_than_random_frac_se"]
    return 0 if chosen["most_bytes_share"] <= 0.1 and chosen["loss_frac"] <= 0.01 and beats else 1


if __name__ == "__main__":
    raise SystemExit(main())
