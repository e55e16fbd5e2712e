"""Potential evaporation by Penman's combination formula, as the Wageningen crop models take it.

Penman (1948, 1963) with the coefficients of Frère & Popov (1979), "Agrometeorological crop monitoring and
forecasting", FAO Plant Production and Protection Paper 17; net long-wave radiation by Brunt (1932); saturated vapour
pressure by Goudriaan (1977); height of the sun as in Goudriaan & van Laar (1994), "Modelling potential crop growth
processes", chapter 3. Arrays broadcast; pressures inside are in hPa, radiation in J/m2/d.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.crops.interface import FloatArray

ANGSTROM_A = 0.18
ANGSTROM_B = 0.55
"""Share of extraterrestrial radiation that arrives under a clouded sky, and what a clear one adds: cold and temperate
climates, Frère & Popov (1979)."""
_PSYCHROMETRIC_HPA_K = 0.67
_ALBEDO_SOIL = 0.15
_ALBEDO_CANOPY = 0.25
_VAPORISATION_J_KG = 2.45e6
_STEFAN_BOLTZMANN_J_D = 5.670373e-8 * 86400
_SOLAR_CONSTANT_W_M2 = 1370.0


class Potential(NamedTuple):
    """Potential evaporation, mm/d, never negative."""

    soil_mm: FloatArray
    """From bare, moist soil."""
    canopy_mm: FloatArray
    """From a closed, well-watered canopy."""


def _sun(latitude_deg: FloatArray, day_of_year: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Seasonal offset and amplitude of the sine of the sun's height over the day."""
    tilt = np.sin(np.radians(23.45)) * np.cos(2 * np.pi * (day_of_year + 10) / 365)
    declination = -np.arcsin(tilt)
    latitude = np.radians(latitude_deg)
    return np.sin(latitude) * np.sin(declination), np.cos(latitude) * np.cos(declination)


def daylength_h(latitude_deg: FloatArray, day_of_year: FloatArray, horizon_deg: float = -4.0) -> FloatArray:
    """Hours with the sun above ``horizon_deg``; -4 degrees is what plants take for day. 0 to 24 in polar latitudes."""
    offset, amplitude = _sun(latitude_deg, day_of_year)
    sine = np.clip((offset - np.sin(np.radians(horizon_deg))) / amplitude, -1.0, 1.0)
    return np.asarray(12 * (1 + 2 * np.arcsin(sine) / np.pi))


def extraterrestrial_j_m2(latitude_deg: FloatArray, day_of_year: FloatArray) -> FloatArray:
    """Radiation above the atmosphere, J/m2/d; 0 in the polar night."""
    offset, amplitude = _sun(latitude_deg, day_of_year)
    sine = np.clip(offset / amplitude, -1.0, 1.0)
    day_h = 12 * (1 + 2 * np.arcsin(sine) / np.pi)
    height_s = 3600 * (day_h * offset + 24 * amplitude * np.sqrt(1 - sine**2) / np.pi)
    distance = 1 + 0.033 * np.cos(2 * np.pi * day_of_year / 365)
    return np.asarray(_SOLAR_CONSTANT_W_M2 * distance * height_s)


def potential_evaporation(
    tmin_c: FloatArray,
    tmax_c: FloatArray,
    radiation_mj_m2: FloatArray,
    vapour_pressure_kpa: FloatArray,
    wind_m_s: FloatArray,
    day_of_year: FloatArray,
    latitude_deg: FloatArray,
    elevation_m: FloatArray,
) -> Potential:
    """Penman's potential evaporation of each day.

    Args:
        tmin_c: least temperature of the day.
        tmax_c: greatest temperature of the day.
        radiation_mj_m2: global radiation, MJ/m2/d.
        vapour_pressure_kpa: mean of the day; counts at most as saturated at the mean temperature.
        wind_m_s: at 2 m.
        day_of_year: 1 on 1 January.
        latitude_deg: north is positive; strictly between the poles.
        elevation_m: above sea level.
    """
    mean = (tmin_c + tmax_c) / 2
    psychrometric = _PSYCHROMETRIC_HPA_K * np.exp(-0.034 * elevation_m / (mean + 273))
    saturated = 6.10588 * np.exp(17.32491 * mean / (mean + 238.102))
    slope = 238.102 * 17.32491 * saturated / (mean + 238.102) ** 2
    vapour = np.minimum(10 * vapour_pressure_kpa, saturated)
    radiation = 1e6 * radiation_mj_m2
    outgoing = _net_longwave_j_m2(mean, vapour, radiation, extraterrestrial_j_m2(latitude_deg, day_of_year))
    deficit, wind = 0.26 * (saturated - vapour), _wind_weight(tmax_c - tmin_c) * wind_m_s
    soil, canopy = (
        slope * (radiation * (1 - albedo) - outgoing) / _VAPORISATION_J_KG + psychrometric * deficit * (still + wind)
        for albedo, still in ((_ALBEDO_SOIL, 0.5), (_ALBEDO_CANOPY, 1.0))
    )
    total = slope + psychrometric
    return Potential(np.maximum(soil / total, 0.0), np.maximum(canopy / total, 0.0))


def _wind_weight(range_c: FloatArray) -> FloatArray:
    """Coefficient of wind speed, larger where days are much warmer than nights."""
    return np.asarray(0.54 + 0.35 * np.clip((range_c - 12) / 4, 0.0, 1.0))


def _net_longwave_j_m2(
    mean_c: FloatArray, vapour_hpa: FloatArray, radiation: FloatArray, above: FloatArray
) -> FloatArray:
    """Net outgoing long-wave radiation; how clear the sky is follows from Ångström's formula turned round."""
    transmission = np.divide(radiation, above, out=np.zeros(np.shape(above)), where=above > 0)
    sunshine = np.clip((transmission - ANGSTROM_A) / ANGSTROM_B, 0.0, 1.0)
    emitted = _STEFAN_BOLTZMANN_J_D * (mean_c + 273) ** 4
    return np.asarray(emitted * (0.56 - 0.079 * np.sqrt(vapour_hpa)) * (0.1 + 0.9 * sunshine))
