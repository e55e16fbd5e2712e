"""What a played season's records are worth to the next: everything, what devices sent, a random draw of as many bytes.

All three are known only in a play: devices' inboxes still hold every morning of every field, the store holds what they
sent, and the next season's fields can be grown before anybody farms them. Nothing of it goes back to fleet or models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from headland_edge.field_watch import parse_harvest
from headland_edge.messages import Message, encode
from headland_edge.records import Records, read_csv
from headland_edge.selection import FieldSeason, Judged, Terms, choose, cost

from tasks.crops.interface import CROPS, FloatArray
from tasks.features.derive import records_and_harvests
from tasks.field.worth import MODEL, Arm, arm_of, learned, metric, shown, start_of
from tasks.fleet.live import LiveDevice
from tasks.fleet.season_play import fleet_fields, home_site, season_params
from tasks.params import Params
from tasks.seasons.generate import simulate
from tasks.sources.daily import SiteWeather

SEEDS = 12
"""How many: of the order of learning and, for the random choice, of the draw."""
_HARVEST = ".harvest.json"


def season_worth(
    project: Path,
    params: Params,
    sites: dict[str, SiteWeather],
    devices: Sequence[LiveDevice],
    sent: Sequence[Message],
    seeds: int = SEEDS,
) -> dict[str, Any] | None:
    """Learn from each choice of the season that is over and judge on the next.

    None if there is no weather of that, or no model of the yield of every crop.

    Args:
        project: its models and windows are those of the season that is over.
        params: ``as_of`` names that season.
        sites: weather.
        devices: their inboxes hold the season's records and harvests.
        sent: record messages in the cloud; those of other seasons are left out.
        seeds: of learning and draws.

    Returns:
        ``loss_t_ha`` (pinball loss, mean over seeds) and ``bytes`` by choice; ``sent_less_random_frac``, a share of
        the loss with everything, with ``_se`` over seeds; ``seeds``.
    """
    farms = {device.device_id: farm_of(device) for device in devices}
    crops = {over.records.crop for farm in farms.values() for over in farm}
    known = MODEL in params.models and crops <= set(params.model[MODEL].crops)
    after = _next_season(params, sites, farms) if known else None
    if after is None:
        return None
    number = {key: at for at, key in enumerate((owner, over.field) for owner, farm in farms.items() for over in farm)}
    grown = [over for farm in farms.values() for over in farm]
    start = start_of(project, params.seed)
    now = shown(start, [(over.records, _weighed_t_ha(over)) for over in grown], _seasons(params))
    then = shown(start, after, _seasons(season_params(params, params.as_of + 1)))

    def number_of(message: Message) -> int:
        return number[message.device_id, message.body["field"]]

    came = [each for each in sent if (each.device_id, each.body["field"]) in number]
    draws = [drawn(farms, seed) for seed in range(seeds)]
    arms: dict[str, list[Arm]] = {
        "everything": [{at: over.records.n_mornings for at, over in enumerate(grown)}] * seeds,
        "sent": [arm_of(came, number_of)] * seeds,
        "random": [arm_of(draw, number_of) for draw in draws],
        "nothing": [{}],
    }
    losses = {
        name: np.array([metric(learned(start, now, arm, seed), then) for seed, arm in enumerate(each)])
        for name, each in arms.items()
    }
    whole = losses["everything"].mean()
    return {
        "loss_t_ha": {name: round(float(each.mean()), 5) for name, each in losses.items()},
        "bytes": {
            "everything": sum(cost(farm, Terms(), device_id) for device_id, farm in farms.items()),
            "sent": _size(came),
            "random": round(sum(_size(draw) for draw in draws) / len(draws)),
        },
        **_difference("sent_less_random_frac", losses["sent"] - losses["random"], whole),
        "seeds": seeds,
    }


def farm_of(device: LiveDevice) -> list[FieldSeason]:
    """The fields in a device's inbox that were weighed, in the order of their names."""
    farm = []
    for path in sorted(device.home.inbox.glob(f"*{_HARVEST}")):
        field = path.name.removesuffix(_HARVEST)
        _, _, weighed_t_ha = parse_harvest(path.read_bytes(), str(path))
        records = read_csv(path.with_name(f"{field}.csv"))
        farm.append(FieldSeason(field, records, weighed_t_ha, np.full((records.n_mornings, 3), np.nan)))
    return farm


def _weighed_t_ha(over: FieldSeason) -> float:
    assert over.harvest_t_ha is not None  # farm_of takes only what was weighed
    return over.harvest_t_ha


def drawn(farms: Mapping[str, Sequence[FieldSeason]], seed: int) -> list[Message]:
    """What devices would send if chance alone chose, within the same share of the bytes; another draw by ``seed``."""
    drawn = []
    for device_id, farm in farms.items():
        unjudged = [Judged(replace(over, field=f"{seed}/{over.field}"), math.nan, math.nan, math.nan) for over in farm]
        for message in choose(unjudged, Terms(random_share=1.0), device_id):
            body = {**message.body, "field": message.body["field"].partition("/")[2]}
            drawn.append(replace(message, body=body))
    return drawn


def _next_season(
    params: Params, sites: Mapping[str, SiteWeather], farms: Mapping[str, Sequence[FieldSeason]]
) -> list[tuple[Records, float]] | None:
    """As many fields of each crop, grown in the next season as growers do; None where its weather is not known."""
    coming = season_params(params, params.as_of + 1)
    crops = [over.records.crop for farm in farms.values() for over in farm]
    grown: list[tuple[Records, float]] = []
    for crop in CROPS:
        count, site, ranges = crops.count(crop), home_site(params, crop), params.fields.of(crop)
        season = coming.season_of(site)
        if not count:
            continue
        if season not in sites[site].seasons(ranges.sowing_day[1] + ranges.season_days):
            return None
        fields = fleet_fields(coming, crop, season, count)
        grown += records_and_harvests(simulate(fields, {site: sites[site].season_weather(season)}, coming))
    return grown


def _seasons(params: Params) -> dict[str, int]:
    """By crop, the season as its trend counts it."""
    return {crop: params.season_of(home_site(params, crop)) for crop in CROPS}


def _size(sent: Sequence[Message]) -> int:
    return sum(len(encode(message)) for message in sent)


def _difference(name: str, values: FloatArray, whole: float) -> dict[str, float]:
    shares = values / whole
    error = shares.std(ddof=1) / math.sqrt(shares.size)
    return {name: round(float(shares.mean()), 5), f"{name}_se": round(float(error), 5)}
