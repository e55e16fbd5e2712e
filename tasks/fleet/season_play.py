"""One season of a fleet: real device processes farm simulated fields under observed weather, without a network.

Every device stands among several fields of one crop. Some of the fields lie on a soil that no training field had, so
that there is something to learn. What was grown is weighed at the end and told to the device, as a grower would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from headland_edge.bundle import open_bundle
from headland_edge.records import Records
from headland_edge.selection import FieldSeason, Terms, cost

from tasks.crops.farm import SeasonLog, farm
from tasks.crops.fields import draw_field
from tasks.crops.interface import Crop, DailyWeather, Field
from tasks.evaluation.arena import STRONG, Arena, policy_of
from tasks.fleet.live import LiveDevice, LiveDevices, field_name, put_file
from tasks.params import Params
from tasks.policies.money import profit_usd_ha
from tasks.sources.daily import SiteWeather

FOREIGN_EVERY = 4
"""Every so-manieth field lies on the held-out soil."""
_SEED_STEP = 7  # fields of the fleet are neither training's nor evaluation's


@dataclass(frozen=True)
class Played:
    """What one crop's season came to.

    Args:
        crop: of all fields.
        season: calendar year at the site.
        fields: how many.
        profit_usd_ha: mean over fields, by policy; ``device`` is what really ran.
        gain_usd_ha: device less the strong baseline, one value a field.
        irrigation_mm: mean over fields, by policy.
        nitrogen_kg_ha: mean over fields, by policy.
        advised: mornings on which a device advised.
        refused: mornings on which it said that it cannot.
        everything_bytes: of the messages that would tell the cloud every morning of every field.
    """

    crop: Crop
    season: int
    fields: int
    profit_usd_ha: dict[str, float]
    gain_usd_ha: tuple[float, ...]
    irrigation_mm: dict[str, float]
    nitrogen_kg_ha: dict[str, float]
    advised: int
    refused: int
    everything_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {**vars(self), "gain_usd_ha": list(self.gain_usd_ha)}


def home_site(params: Params, crop: Crop) -> str:
    """The first site where ``crop`` is grown for training."""
    return next(name for name, site in params.sites.items() if crop in site.crops)


def fleet_fields(params: Params, crop: Crop, season: int, count: int) -> tuple[Field, ...]:
    """``count`` fields of a season that neither training nor evaluation draws."""
    ranges, site = params.fields.of(crop), home_site(params, crop)
    seed = params.seed + _SEED_STEP
    return tuple(
        draw_field(
            crop,
            site,
            season,
            number,
            ranges,
            seed,
            ranges.held_out_soil if number % FOREIGN_EVERY == FOREIGN_EVERY - 1 else None,
        )
        for number in range(count)
    )


def play_season(
    params: Params, crop: Crop, devices: Sequence[LiveDevice], per_device: int, site: SiteWeather, bundle: Path
) -> Played:
    """Farm one season of ``crop`` on ``devices`` that run, and on paper by the strongest rule.

    Args:
        params: ``as_of`` names the season.
        crop: of all ``devices``.
        devices: running, their inboxes empty.
        per_device: fields of each.
        site: weather of the crop's home.
        bundle: the season's, for the baseline's rule.
    """
    season = params.season_of(site.name)
    fields = fleet_fields(params, crop, season, per_device * len(devices))
    weather: Mapping[str, DailyWeather] = {site.name: site.season_weather(season)}
    owners = [devices[number // per_device] for number in range(len(fields))]
    asked = LiveDevices(owners)
    log = farm(fields, weather, params.sensors, params.seed, asked)
    for owner, field, yield_t_ha in zip(owners, fields, log.harvest.yield_t_ha, strict=True):
        weigh(owner, field, float(yield_t_ha))
    arena = Arena(bundle, open_bundle(bundle).manifest.policy, params, {f"{site.name}/{season}": weather[site.name]})
    strong = farm(fields, weather, params.sensors, params.seed, policy_of(STRONG[crop], crop, arena))
    logs: dict[str, SeasonLog] = {"device": log, STRONG[crop]: strong}
    money = {name: profit_usd_ha(crop, each.harvest, params.prices) for name, each in logs.items()}
    return Played(
        crop=crop,
        season=season,
        fields=len(fields),
        profit_usd_ha={name: float(np.mean(each)) for name, each in money.items()},
        gain_usd_ha=tuple(round(float(each), 4) for each in money["device"] - money[STRONG[crop]]),
        irrigation_mm={name: float(np.mean(each.harvest.irrigation_mm)) for name, each in logs.items()},
        nitrogen_kg_ha={name: float(np.mean(each.harvest.nitrogen_kg_ha)) for name, each in logs.items()},
        advised=asked.advised,
        refused=asked.refused,
        everything_bytes=sum(_everything(device, owners, log) for device in devices),
    )


def _everything(device: LiveDevice, owners: Sequence[LiveDevice], log: SeasonLog) -> int:
    """Bytes that one device would send if it sent all of its fields, in the same form."""
    seasons = []
    for number, field in enumerate(log.fields):
        mornings = int(log.active[number].sum())
        if owners[number] is device and mornings:
            records = Records(field.crop, field.sowing_date, log.records[number, :mornings].copy())
            nothing = np.full((mornings, 3), np.nan)
            harvest = round(float(log.harvest.yield_t_ha[number]), 3)
            seasons.append(FieldSeason(field_name(field), records, harvest, nothing))
    return cost(seasons, Terms(), device.device_id)


def weigh(device: LiveDevice, field: Field, yield_t_ha: float) -> None:
    """Tell a device what was harvested on one of its fields."""
    told = {"crop": field.crop, "sowing_date": field.sowing_date.isoformat(), "yield_t_ha": round(yield_t_ha, 3)}
    put_file(device.home.inbox / f"{field_name(field)}.harvest.json", json.dumps(told).encode())


def clear_fields(devices: Sequence[LiveDevice]) -> None:
    """Take away last season's files; what a device still has to say of it lies in its outbox."""
    for device in devices:
        for file in sorted(device.home.inbox.iterdir()):
            file.unlink()


def season_params(params: Params, as_of: int) -> Params:
    """The same params for another season."""
    return params.model_copy(update={"as_of": as_of})
