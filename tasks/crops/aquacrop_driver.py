"""A batch of fields around the package's own day: the part of the compiled module that is ours.

``tasks.crops.aquacrop_source`` puts these functions into the module it writes, where ``day`` and ``root_zone_water``
are the package's. Arrays are records of the forms of ``tasks.crops.aquacrop_kernel``: ``states`` and ``profiles`` one a
field, ``crops`` and ``co2s`` one a year, ``soils`` one a soil; ``year`` and ``soil`` say which are a field's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

FUNCTIONS = ("step_fields", "morning_fields")


if TYPE_CHECKING:  # the package's, in the compiled module

    def day(*records: Any) -> None:
        """Let one field's day happen."""

    def root_zone_water(*values: Any) -> tuple[float, ...]:
        """Water of the root zone, mm; see the package."""


def step_fields(
    states: Any,
    profiles: Any,
    crops: Any,
    co2s: Any,
    soils: Any,
    management: Any,
    ground: Any,
    year: Any,
    soil: Any,
    weather: Any,
    active: Any,
    irrigation_mm: Any,
    days: Any,
    season_days: Any,
) -> None:
    """Let a day happen on every active field; fields whose crop is mature, dead or too old are active no more.

    ``weather`` has shape [n_fields, most days, 4]: Tmin C, Tmax C, rain mm, et0 mm.
    """
    irrigated = management[0]
    for i in range(states.shape[0]):
        if active[i]:
            irrigated.depth = irrigation_mm[i]
            state = states[i]
            k, s = year[i], soil[i]
            day(state, crops[k], soils[s], profiles[i], co2s[k], irrigated, ground[0], days[i], weather[i, days[i]])
            days[i] += 1
            if state.crop_mature or state.crop_dead:
                state.harvest_flag = True
            active[i] = not state.harvest_flag and days[i] < season_days[i]
    irrigated.depth = 0.0


def morning_fields(
    states: Any,
    profiles: Any,
    crops: Any,
    soils: Any,
    year: Any,
    soil: Any,
    active: Any,
    extinction: float,
    out: Any,
) -> None:
    """What a morning tells of each active field: ``out`` is [4, n_fields], depletion mm, taw mm, lai, biomass t/ha."""
    for i in range(states.shape[0]):
        if active[i]:
            state, crop = states[i], crops[year[i]]
            top = soils[soil[i]].z_top
            water = root_zone_water(profiles[i], float(state.z_root), state.th, top, float(crop.Zmin), crop.Aer)
            out[0, i] = water[2]
            out[1, i] = water[4]
            out[2, i] = abs(math.log1p(-state.canopy_cover) / extinction)
            out[3, i] = state.biomass / 100
