"""A batch of fields, a day's decision for each, a day's observation back.

Seasons and evaluation see the crop simulators only through this module, so a faster simulator is one
file. Step ``k`` is the day ``k`` days after sowing, for every field of the batch alike; fields may lie in
different years and at different sites. The order within a day:

1. ``morning()`` tells the true state before today's rain, irrigation and uptake;
2. a policy decides from what the sensors made of it;
3. ``step(decision)`` lets the day happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Crop = Literal["maize", "wheat"]
CROPS: tuple[Crop, ...] = get_args(Crop)
"""Every crop there is."""


class FieldError(ValueError):
    """A field, its weather or what is applied to it cannot be simulated; the message names it and the remedy."""


@dataclass(frozen=True)
class Field:
    """One field in one season: what differs between fields before anyone farms them."""

    field_id: str
    crop: Crop
    site: str
    season: int
    soil: str
    sowing_date: date
    """Maize: sowing. Wheat: emergence, where LINTUL3 starts."""
    season_days: int
    """Longest season simulated, days; a crop not mature by then is harvested as it stands."""
    initial_water_frac: float
    """Share of total available water in the soil on the sowing date."""
    mineral_n_kg_ha: float = 0.0
    """Mineral nitrogen in the soil at emergence (wheat)."""
    mineralisation_kg_ha_d: float = 0.0
    """Nitrogen the soil mineralises each day (wheat)."""


@dataclass(frozen=True)
class DailyWeather:
    """Observed weather of one site from ``first_day`` on, one value a day, without gaps; arrays of length days."""

    site: str
    first_day: date
    tmin_c: FloatArray
    tmax_c: FloatArray
    rain_mm: FloatArray
    et0_mm: FloatArray
    radiation_mj_m2: FloatArray
    vapour_pressure_kpa: FloatArray
    wind_m_s: FloatArray
    latitude_deg: float
    longitude_deg: float
    elevation_m: float


@dataclass(frozen=True)
class Morning:
    """True state this morning; float arrays of shape (n_fields,), NaN where the crop model has no such state."""

    active: BoolArray
    """The crop stands: sown or emerged, neither mature nor dead."""
    depletion_frac: FloatArray
    """Root-zone depletion as a share of total available water: 0 at field capacity, 1 at wilting point."""
    taw_mm: FloatArray
    """Total available water in the root zone."""
    lai: FloatArray
    """Leaf area index; for maize green canopy cover turned to LAI by Beer's law with extinction 0.65."""
    soil_mineral_n_kg_ha: FloatArray
    n_supply_kg_ha: FloatArray
    """Mineral N now plus what the soil will still mineralise until ``season_days``."""
    biomass_t_ha: FloatArray


@dataclass(frozen=True)
class Decision:
    """What is applied today; float arrays of shape (n_fields,). Inactive fields' values are ignored."""

    irrigation_mm: FloatArray
    nitrogen_kg_ha: FloatArray


@dataclass(frozen=True)
class Harvest:
    """Outcome of the season; float arrays of shape (n_fields,)."""

    yield_t_ha: FloatArray
    """Dry grain."""
    irrigation_mm: FloatArray
    nitrogen_kg_ha: FloatArray
    season_days: NDArray[np.int64]
    """Days after sowing on which the crop was mature, died or was cut off."""
    matured: BoolArray


def check_amounts(
    fields: tuple[Field, ...], active: BoolArray, name: str, amounts: FloatArray, days: NDArray[np.int64], since: str
) -> None:
    """Refuse what can't be applied today.

    Args:
        fields: of the batch.
        active: shape (n_fields,); others' amounts are ignored.
        name: of what is applied.
        amounts: one for each field.
        days: shape (n_fields,), days each field has lived.
        since: what days are counted from.

    Raises:
        FieldError: another shape, or a negative or NaN amount for an active field, which is named.
    """
    if amounts.shape != (len(fields),):
        raise FieldError(f"{name} has shape {amounts.shape}; give one value for each of {len(fields)} fields")
    wrong = np.flatnonzero(active & ~(np.isfinite(amounts) & (amounts >= 0)))
    if wrong.size:
        i = int(wrong[0])
        what = f"{name} is {amounts[i]} on day {days[i]} after {since}"
        raise FieldError(f"field {fields[i].field_id}: {what}; decide a number from 0 up")


class CropBatch(Protocol):
    """A batch of fields of one crop in the middle of their season."""

    fields: tuple[Field, ...]

    def morning(self) -> Morning:
        """True state this morning. Calling it twice changes nothing."""

    def step(self, decision: Decision) -> None:
        """Let today happen. Raises ValueError on negative or NaN amounts for an active field."""

    def branch(self, rows: NDArray[np.int64], futures: Self, future_rows: NDArray[np.int64]) -> Self:
        """Copies of fields as they stand this morning, which live on in other weather.

        Args:
            rows: shape (n,), fields of this batch; a field may be copied many times.
            futures: a batch of the same crop whose fields were sown on the same days of their years, not begun.
            future_rows: shape (n,): from today on, copy ``i`` has the weather of that field of ``futures``.

        Raises:
            ValueError: a future sown on another day of the year, or with a shorter season.
        """

    @property
    def finished(self) -> bool:
        """No field is active any more and none will be."""

    def harvest(self) -> Harvest:
        """Outcome so far; final once ``finished``."""


def check_futures(
    fields: tuple[Field, ...], rows: NDArray[np.int64], futures: tuple[Field, ...], future_rows: NDArray[np.int64]
) -> None:
    """Refuse a future that does not fit; see ``CropBatch.branch``."""
    for i, k in sorted(set(zip(rows.tolist(), future_rows.tolist(), strict=True))):
        ours, theirs = fields[i], futures[k]
        same_day = ours.sowing_date.timetuple().tm_yday == theirs.sowing_date.timetuple().tm_yday
        if not same_day or theirs.season_days < ours.season_days:
            sown = f"sown on {theirs.sowing_date} for {theirs.season_days} days"
            raise FieldError(
                f"field {ours.field_id} cannot live on in the weather of {theirs.field_id}: {sown},"
                f" not on {ours.sowing_date:%d %B} for {ours.season_days}"
            )


def open_batch(fields: tuple[Field, ...], weather: Mapping[str, DailyWeather]) -> CropBatch:
    """Start the season on fields of one crop.

    Args:
        fields: at least one, all of one crop.
        weather: by site; must cover each field's season.

    Raises:
        ValueError: mixed crops, an unknown soil, or weather that does not cover a field's season (named).
    """
    crops = {field.crop for field in fields}
    if len(crops) != 1:
        raise FieldError(f"a batch holds fields of exactly one crop, got {sorted(crops) or 'none'}")
    if crops == {"maize"}:
        from tasks.crops.maize import MaizeBatch

        return MaizeBatch(fields, weather)
    from tasks.crops.wheat import WheatBatch

    return WheatBatch(fields, weather)
