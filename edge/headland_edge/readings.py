"""The latest readings of a field, how old they are, and what can be reckoned on from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headland_edge.records import Records

WEATHER = ("rain_mm", "et0_mm", "tmin_c", "tmax_c")


@dataclass(frozen=True)
class Reading:
    """The latest value of one column."""

    value: float
    age: int
    """Mornings since it was read; 0 is this morning."""


@dataclass(frozen=True)
class Reckoning:
    """Depletion carried on from the latest reading."""

    depletion_frac: float
    missing_et0: int
    """Days for which the latest et0 before stood in."""
    missing_rain: int
    """Days taken as dry because rain was not measured."""


def last_seen(records: Records, *columns: str) -> Reading | None:
    """Latest morning on which every one of ``columns`` was measured, with the first one's value; None if never."""
    values = np.stack([records.column(name) for name in columns])
    mornings = np.flatnonzero(~np.isnan(values).any(axis=0))
    if mornings.size == 0:
        return None
    morning = int(mornings[-1])
    return Reading(float(values[0, morning]), records.n_mornings - 1 - morning)


def carry_depletion(records: Records, reading: Reading, taw_mm: float, et0_within: int) -> Reckoning | None:
    """Root-zone depletion this morning by a daily water balance from the latest reading.

    Each day adds reference evapotranspiration and takes off rain and irrigation, clipped to 0 ... taw_mm. That
    is FAO-56's balance (Allen et al. 1998, eq. 85) with crop coefficient 1 and without runoff and capillary rise.

    Args:
        records: cleaned.
        reading: of ``depletion_frac``.
        taw_mm: total available water in the root zone.
        et0_within: mornings within which et0 must have been measured if the balance has to run at all.

    Returns:
        None if there is no recent enough et0.
    """
    days = range(records.n_mornings - reading.age, records.n_mornings)
    if not days:
        return Reckoning(reading.value, 0, 0)
    et0 = last_seen(records, "et0_mm")
    if et0 is None or et0.age >= et0_within:
        return None
    et0_mm, missing_et0 = _carried(records, days)
    rain_mm, irrigation_mm = records.column("rain_mm"), records.column("irrigation_mm")
    depletion_mm = reading.value * taw_mm
    for loss, day in zip(et0_mm, days, strict=True):
        change = loss - np.nan_to_num(rain_mm[day]) - np.nan_to_num(irrigation_mm[day])
        depletion_mm = min(max(depletion_mm + float(change), 0.0), taw_mm)
    return Reckoning(depletion_mm / taw_mm, missing_et0, int(np.isnan(rain_mm[days.start :]).sum()))


def _carried(records: Records, days: range) -> tuple[list[float], int]:
    """et0 of ``days``, a missing one replaced by the nearest before, else the nearest after; and how many were."""
    values = records.column("et0_mm")
    known = np.flatnonzero(~np.isnan(values))
    nearest = [known[max(int(np.searchsorted(known, day, side="right")) - 1, 0)] for day in days]
    return [float(values[day]) for day in nearest], int(np.isnan(values[days.start :]).sum())
