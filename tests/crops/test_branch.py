"""Copies of fields in the middle of their season: the same to the last digit, and lives of their own after it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from tasks.crops.interface import Decision, Field, FieldError, open_batch
from tests.conftest import made_up_weather

DAYS = {"maize": 140, "wheat": 140}


def fields(crop, years=(2001, 2002), soil=None):
    soils = {"maize": ("SiltClayLoam", "SandyLoam"), "wheat": ("loam", "clay_loam")}[crop]
    return tuple(
        Field(f"{crop}{year}{i}", crop, "x", year, soil or soils[i], date(year, 4, 20), DAYS[crop], 0.7, 40.0, 0.3)
        for year in years
        for i in range(2)
    )


def decision(crop, day, n):
    dose = np.full(n, 12.0 if day % 17 == 5 else 0.0)
    nothing = np.zeros(n)
    return Decision(dose, nothing) if crop == "maize" else Decision(nothing, dose)


def lived(batch, crop, day=0, until=400):
    while not batch.finished and day < until:
        batch.step(decision(crop, day, len(batch.fields)))
        day += 1
    return batch


@pytest.mark.parametrize("crop", ["maize", "wheat"])
def test_a_branch_into_its_own_weather_ends_as_the_field_does(crop):
    weather = {"x": made_up_weather("x", 2001, days=730)}
    batch, fresh = open_batch(fields(crop), weather), open_batch(fields(crop), weather)
    lived(batch, crop, until=50)
    rows = np.array([3, 0, 0, 1])
    branch = batch.branch(rows, fresh, rows)
    lived(branch, crop, 50)
    lived(batch, crop, 50)
    for name in ("yield_t_ha", "irrigation_mm", "nitrogen_kg_ha", "season_days", "matured"):
        np.testing.assert_array_equal(getattr(branch.harvest(), name), getattr(batch.harvest(), name)[rows])


@pytest.mark.parametrize("crop", ["maize", "wheat"])
def test_a_branch_into_another_year_ends_as_a_field_in_that_spliced_year(crop):
    weather = {"x": made_up_weather("x", 2001, days=730)}
    batch, fresh = open_batch(fields(crop), weather), open_batch(fields(crop), weather)
    lived(batch, crop, until=60)
    branch = batch.branch(np.array([0]), fresh, np.array([2]))  # 2001's field, 2002's weather from day 60 on
    lived(branch, crop, 60)

    own, other = weather["x"], weather["x"]
    cut = (date(2001, 4, 20) - own.first_day).days + 60
    shift = (date(2002, 4, 20) - date(2001, 4, 20)).days
    spliced = {
        name: np.concatenate([getattr(own, name)[:cut], getattr(other, name)[cut + shift :]])
        for name in (*("tmin_c", "tmax_c", "rain_mm", "et0_mm", "radiation_mj_m2", "vapour_pressure_kpa", "wind_m_s"),)
    }
    alone = open_batch(fields(crop)[:1], {"x": replace(own, **spliced)})
    lived(alone, crop)
    np.testing.assert_array_equal(branch.harvest().yield_t_ha, alone.harvest().yield_t_ha)


@pytest.mark.parametrize("crop", ["maize", "wheat"])
def test_what_a_branch_lives_through_leaves_the_field_alone(crop):
    weather = {"x": made_up_weather("x", 2001, days=730)}
    batch, fresh = open_batch(fields(crop), weather), open_batch(fields(crop), weather)
    lived(batch, crop, until=40)
    before = batch.morning()
    lived(batch.branch(np.array([0, 1, 2]), fresh, np.array([2, 3, 0])), crop, 40)
    after = batch.morning()
    for name in ("depletion_frac", "lai", "biomass_t_ha"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


@pytest.mark.parametrize("crop", ["maize", "wheat"])
def test_a_future_sown_on_another_day_is_refused(crop):
    weather = {"x": made_up_weather("x", 2001, days=730)}
    later = tuple(replace(field, sowing_date=date(field.season, 4, 25)) for field in fields(crop))
    batch, futures = open_batch(fields(crop), weather), open_batch(later, weather)
    with pytest.raises(FieldError, match="cannot live on in the weather of"):
        batch.branch(np.array([0]), futures, np.array([0]))


def test_any_layout_of_a_decision_is_taken_without_compiling_again():
    """A new signature would rewrite the sealed cache of machine code."""
    batch = open_batch(fields("maize"), {"x": made_up_weather("x", 2001, days=730)})
    compiled = batch._model.step_fields
    before = len(compiled.signatures)
    strided, frozen = np.zeros((4, 3))[:, 1], np.zeros(4)
    frozen.flags.writeable = False
    for dose in (strided, frozen, np.broadcast_to(0.0, 4)):
        batch.step(Decision(dose, np.zeros(4)))
    assert len(compiled.signatures) == before
