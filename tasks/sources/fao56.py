"""What a weather station did not measure, from what it did: Allen et al. (1998), FAO Irrigation and Drainage Paper 56.

Equation numbers are the paper's. All arrays have shape (days,) and broadcast; radiation in MJ/m2/d, pressures in kPa,
temperatures in degrees Celsius, wind in m/s at 2 m.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

WIND_M_S = 2.0
"""Average over 2000 stations, to be used where wind is not known (chapter 3, "Missing wind speed data")."""
_KRS_INTERIOR = 0.16
"""Adjustment of eq. 50 for sites away from the coast, K^-0.5."""
_STEFAN_BOLTZMANN = 4.903e-9
_ALBEDO = 0.23


def saturation_kpa(temperature_c: FloatArray) -> FloatArray:
    """Saturation vapour pressure, eq. 11."""
    return np.asarray(0.6108 * np.exp(17.27 * temperature_c / (temperature_c + 237.3)))


def extraterrestrial_mj_m2(latitude_deg: float, day_of_year: FloatArray) -> FloatArray:
    """Radiation above the atmosphere, eq. 21 with eqs. 23 to 25; 0 in the polar night."""
    latitude = np.radians(latitude_deg)
    distance = 1 + 0.033 * np.cos(2 * np.pi / 365 * day_of_year)
    declination = 0.409 * np.sin(2 * np.pi / 365 * day_of_year - 1.39)
    sunset = np.arccos(np.clip(-np.tan(latitude) * np.tan(declination), -1.0, 1.0))
    height = sunset * np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.sin(sunset)
    return np.asarray(24 * 60 / np.pi * 0.0820 * distance * height)


def clear_sky_mj_m2(above_mj_m2: FloatArray, elevation_m: float) -> FloatArray:
    """Radiation at the ground under a clear sky, eq. 37."""
    return (0.75 + 2e-5 * elevation_m) * above_mj_m2


def radiation_mj_m2(tmin_c: FloatArray, tmax_c: FloatArray, above_mj_m2: FloatArray, elevation_m: float) -> FloatArray:
    """Solar radiation from the daily range of temperature, eq. 50, at most that of a clear sky."""
    estimate = _KRS_INTERIOR * np.sqrt(np.maximum(tmax_c - tmin_c, 0.0)) * above_mj_m2
    return np.minimum(estimate, clear_sky_mj_m2(above_mj_m2, elevation_m))


def vapour_pressure_kpa(tmin_c: FloatArray) -> FloatArray:
    """Actual vapour pressure where the dew point comes near the night's minimum, eq. 48."""
    return saturation_kpa(tmin_c)


def _net_radiation(
    tmin_c: FloatArray,
    tmax_c: FloatArray,
    radiation: FloatArray,
    vapour_kpa: FloatArray,
    above_mj_m2: FloatArray,
    elevation_m: float,
) -> FloatArray:
    """Net radiation at the reference crop, eqs. 38 to 40; relative shortwave radiation within 0.3 and 1."""
    clear = clear_sky_mj_m2(above_mj_m2, elevation_m)
    relative = np.clip(radiation / np.where(clear > 0, clear, np.inf), 0.3, 1.0)
    emitted = _STEFAN_BOLTZMANN * ((tmax_c + 273.16) ** 4 + (tmin_c + 273.16) ** 4) / 2
    longwave = emitted * (0.34 - 0.14 * np.sqrt(vapour_kpa)) * (1.35 * relative - 0.35)
    return np.asarray((1 - _ALBEDO) * radiation - longwave)


def et0_mm(
    tmin_c: FloatArray,
    tmax_c: FloatArray,
    radiation: FloatArray,
    vapour_kpa: FloatArray,
    wind_m_s: FloatArray,
    above_mj_m2: FloatArray,
    elevation_m: float,
) -> FloatArray:
    """Reference evapotranspiration by Penman-Monteith, eq. 6, without soil heat flux (eq. 42); never negative.

    Vapour pressure counts at most as saturated at the mean of eq. 12.
    """
    mean = (tmin_c + tmax_c) / 2
    saturated = (saturation_kpa(tmin_c) + saturation_kpa(tmax_c)) / 2
    vapour = np.minimum(vapour_kpa, saturated)
    slope = 4098 * saturation_kpa(mean) / (mean + 237.3) ** 2
    psychrometric = 0.665e-3 * 101.3 * ((293 - 0.0065 * elevation_m) / 293) ** 5.26
    net = _net_radiation(tmin_c, tmax_c, radiation, vapour, above_mj_m2, elevation_m)
    demand = 0.408 * slope * net + psychrometric * 900 / (mean + 273) * wind_m_s * (saturated - vapour)
    return np.asarray(np.maximum(demand / (slope + psychrometric * (1 + 0.34 * wind_m_s)), 0.0))
