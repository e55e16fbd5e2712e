"""The paper's own worked examples, to the digits it prints, and the crop model's implementation day by day."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from pcse.util import penman_monteith

from tasks.sources import fao56


def one(value: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([value])


def test_example_3_saturation_vapour_pressure() -> None:
    assert fao56.saturation_kpa(np.array([24.5, 15.0])) == pytest.approx([3.075, 1.705], abs=5e-4)


def test_example_8_extraterrestrial_radiation() -> None:
    assert fao56.extraterrestrial_mj_m2(-20.0, one(246)) == pytest.approx([32.2], abs=0.05)


def test_polar_night_and_midnight_sun_are_defined() -> None:
    assert fao56.extraterrestrial_mj_m2(80.0, one(355)) == pytest.approx([0.0], abs=1e-9)
    assert fao56.extraterrestrial_mj_m2(80.0, one(172))[0] > 40


def test_example_15_radiation_from_temperatures() -> None:
    """Lyon in July: 14.8 to 26.6 degrees; the paper prints 22.3 MJ/m2/d."""
    above = fao56.extraterrestrial_mj_m2(45.72, one(196))
    assert above == pytest.approx([40.6], abs=0.1)
    assert fao56.radiation_mj_m2(one(14.8), one(26.6), above, 200.0) == pytest.approx([22.3], abs=0.1)


def test_modelled_radiation_never_exceeds_a_clear_sky() -> None:
    above = fao56.extraterrestrial_mj_m2(45.0, one(180))
    assert fao56.radiation_mj_m2(one(0.0), one(40.0), above, 0.0) == fao56.clear_sky_mj_m2(above, 0.0)


def test_example_18_reference_evapotranspiration() -> None:
    """Uccle on 6 July: the paper prints 3.88 mm/d (3.9 rounded)."""
    above = fao56.extraterrestrial_mj_m2(50.80, one(187))
    et0 = fao56.et0_mm(one(12.3), one(21.5), one(22.07), one(1.409), one(2.078), above, 100.0)
    assert et0 == pytest.approx([3.88], abs=0.01)


def test_a_year_agrees_with_the_implementation_in_pcse() -> None:
    """pcse does not bound relative radiation and rounds some constants: within 0.05 mm where neither bound acts."""
    rng = np.random.default_rng(0)
    days = np.arange(1, 366, dtype=np.float64)
    tmin = 6 - 8 * np.cos(2 * np.pi * days / 365) + rng.normal(0, 3, 365)
    tmax = tmin + rng.uniform(3, 15, 365)
    above = fao56.extraterrestrial_mj_m2(51.97, days)
    radiation = above * rng.uniform(0.3, 0.7, 365)
    vapour, wind = fao56.saturation_kpa(tmin) * rng.uniform(0.7, 1.0, 365), rng.uniform(0.5, 8, 365)
    ours = fao56.et0_mm(tmin, tmax, radiation, vapour, wind, above, 7.0)
    theirs = [
        penman_monteith(
            date(2001, 1, 1) + timedelta(days=i),
            51.97,
            7.0,
            tmin[i],
            tmax[i],
            radiation[i] * 1e6,
            vapour[i] * 10,
            wind[i],
        )
        for i in range(365)
    ]
    assert np.max(np.abs(ours - np.array(theirs))) < 0.05
    assert ours.max() > 3


def test_a_still_saturated_polar_night_evaporates_nothing() -> None:
    zero = one(0.0)
    assert fao56.et0_mm(one(-20.0), one(-19.0), zero, one(5.0), zero, zero, 0.0) == [0.0]
