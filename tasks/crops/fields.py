"""Fields that differ, drawn from params: each field's draw depends on nothing but its own name and the seed."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta

import numpy as np

from tasks.crops.interface import Crop, Field
from tasks.params import CropFields


def field_rng(seed: int, *names: object) -> np.random.Generator:
    """Random numbers that belong to one named thing, whatever else is drawn before or after."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def draw_field(
    crop: Crop, site: str, season: int, number: int, ranges: CropFields, seed: int, soil: str | None = None
) -> Field:
    """Draw field ``number`` of a season.

    Args:
        crop: what grows on it.
        site: where it lies.
        season: calendar year of sowing and harvest.
        number: counts from 0; adding fields does not change the others.
        ranges: what fields of this crop look like.
        seed: of the whole project.
        soil: use this soil instead of drawing one.
    """
    field_id = f"{crop}-{site}-{season}-{number:03d}" + (f"-{soil}" if soil else "")
    rng = field_rng(seed, field_id)
    drawn = ranges.soils[int(rng.integers(len(ranges.soils)))]
    sowing = date(season, 1, 1) + timedelta(days=int(rng.integers(ranges.sowing_day[0], ranges.sowing_day[1] + 1)) - 1)
    water, mineral, mineralisation = (
        float(rng.uniform(low, high))
        for low, high in (ranges.initial_water_frac, ranges.mineral_n_kg_ha, ranges.mineralisation_kg_ha_d)
    )
    return Field(
        field_id=field_id,
        crop=crop,
        site=site,
        season=season,
        soil=soil or drawn,
        sowing_date=sowing,
        season_days=ranges.season_days,
        initial_water_frac=water,
        mineral_n_kg_ha=mineral,
        mineralisation_kg_ha_d=mineralisation,
    )


def draw_fields(
    crop: Crop, site: str, seasons: list[int], per_season: int, ranges: CropFields, seed: int, soil: str | None = None
) -> tuple[Field, ...]:
    """Draw ``per_season`` fields for each of ``seasons``."""
    return tuple(
        draw_field(crop, site, season, number, ranges, seed, soil) for season in seasons for number in range(per_season)
    )
