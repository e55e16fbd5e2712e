"""Root-zone water and water stress of the ``aquacrop`` package: the same bits, a fraction of the work.

``aquacrop`` sums the water of the root zone five times a day, and more than half of a season's time goes into
``round()`` of NumPy scalars there. Everything in those sums but the actual water content depends on the soil, the
rooting depth (rounded to the centimetre) and the crop only. Here those parts are computed once, and the rest is
arithmetic on plain floats in the package's own order, so that results are equal to the last bit. Water stress,
next in line, is done likewise; logarithms and exponentials stay NumPy's, whose last digit can differ from
``math``'s.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

AQUACROP_VERSION = "3.1.0"
"""The one version whose private parts were read and measured."""

RootZoneWater = tuple[float, float, float, float, float, float, float, float, float, float, float]
"""Actual water mm; depletion of top soil and root zone mm; available water of both mm; then volumetric root-zone
water contents: actual, at saturation, field capacity, wilting point, air dry, and onset of aeration stress."""


class SoilProfile(Protocol):
    """The columns of aquacrop's soil profile used here; arrays of shape (n_compartments,), from the surface down."""

    dz: FloatArray
    dzsum: FloatArray
    th_s: FloatArray
    th_fc: FloatArray
    th_wp: FloatArray
    th_dry: FloatArray


class _Depth(NamedTuple):
    """What the sums need for one rooting depth, besides the water content."""

    weights: list[tuple[float, float]]
    """For each rooted compartment: 1000 * the rooted share, and thickness in m."""
    top_weights: list[tuple[float, float]]
    """The same for the top soil; empty where the root zone is no deeper than it."""
    depth_mm: float
    field_capacity_mm: float
    available_mm: float
    top_field_capacity_mm: float
    top_available_mm: float
    limits: tuple[float, float, float, float, float]
    """Volumetric water content at saturation, field capacity, wilting point, air dry and onset of aeration stress."""


_Key = tuple[bytes, ...]
_SOILS: dict[_Key, dict[tuple[float, float, float], _Depth]] = {}


def _round_2(value: float) -> float:
    """Round as NumPy rounds (scale, to nearest even, scale back), which differs from Python's ``round(value, 2)``."""
    return round(value * 100.0) / 100.0


def _weights(profile: SoilProfile, depth_m: float, compartments: int) -> list[tuple[float, float]]:
    rows = zip(profile.dz.tolist()[:compartments], profile.dzsum.tolist(), strict=False)
    return [((1 - ((bottom - depth_m) / dz) if bottom > depth_m else 1.0) * 1000, dz) for dz, bottom in rows]


def _rounded_sum_mm(weights: list[tuple[float, float]], contents: list[float]) -> float:
    total = 0.0
    for (weight, dz), content in zip(weights, contents, strict=False):
        total += round(weight * content * dz * 100.0) / 100.0
    return total


def _sum_mm(weights: list[tuple[float, float]], contents: list[float]) -> float:
    total = 0.0
    for (weight, dz), content in zip(weights, contents, strict=False):
        total += weight * content * dz
    return total


def _depth(profile: SoilProfile, depth_m: float, top_m: float, aeration_pct: float) -> _Depth:
    if depth_m > profile.dzsum[-1]:
        raise ValueError(f"roots reach {depth_m} m, deeper than the soil profile's {profile.dzsum[-1]} m")
    weights = _weights(profile, depth_m, int(np.argmax(profile.dzsum >= depth_m)) + 1)
    onset = [content - aeration_pct / 100 for content in profile.th_s.tolist()]
    contents = (profile.th_s.tolist(), profile.th_fc.tolist(), profile.th_wp.tolist(), profile.th_dry.tolist(), onset)
    s, fc, wp, dry, aer = (_rounded_sum_mm(weights, content) for content in contents)
    top: list[tuple[float, float]] = []
    if depth_m > top_m:
        top = _weights(profile, round(top_m, 2), int(np.sum(profile.dzsum <= round(top_m, 2))))
    top_fc, top_wp = _sum_mm(top, contents[1]), _sum_mm(top, contents[2])
    depth_mm = depth_m * 1000
    limits = (s / depth_mm, fc / depth_mm, wp / depth_mm, dry / depth_mm, aer / depth_mm)
    return _Depth(weights, top, depth_mm, fc, max(fc - wp, 0.0), top_fc, max(top_fc - top_wp, 0.0), limits)


def _depths_of(profile: SoilProfile) -> dict[tuple[float, float, float], _Depth]:
    """Depths already prepared for this soil. Told by content: `rainfall_partition` writes into ``dzsum``."""
    known: tuple[bytes, dict[tuple[float, float, float], _Depth]] | None = getattr(profile, "_root_zone", None)
    bottoms = profile.dzsum.tobytes()
    if known is not None and known[0] == bottoms:
        return known[1]
    columns = (profile.dz, profile.th_s, profile.th_fc, profile.th_wp, profile.th_dry)
    depths = _SOILS.setdefault((bottoms, *(column.tobytes() for column in columns)), {})
    profile._root_zone = (bottoms, depths)  # type: ignore[attr-defined]  # rides on aquacrop's own object
    return depths


def root_zone_water(
    profile: SoilProfile, root_depth_m: float, water: FloatArray, top_m: float, min_depth_m: float, aeration_pct: float
) -> RootZoneWater:
    """Water in the root zone now; stands in for ``aquacrop.solution.root_zone_water.root_zone_water``.

    Args:
        profile: the soil; of its columns only ``dzsum`` may change between calls.
        root_depth_m: depth of the roots.
        water: volumetric water content, shape (n_compartments,).
        top_m: thickness of the top soil.
        min_depth_m: least effective rooting depth of the crop.
        aeration_pct: volumetric percentage below saturation where aeration stress begins.

    Source: AquaCrop reference manual, pages 5-8, as in aquacrop 3.1.0.
    """
    depth_m = _round_2(max(root_depth_m, min_depth_m))
    depths, key = _depths_of(profile), (depth_m, top_m, aeration_pct)
    at = depths.get(key)
    if at is None:
        at = depths[key] = _depth(profile, depth_m, top_m, aeration_pct)
    contents: list[float] = water.tolist()
    actual = max(_rounded_sum_mm(at.weights, contents), 0.0)
    depletion = min(at.field_capacity_mm - actual, at.available_mm)
    if at.top_weights:
        top_available = at.top_available_mm
        top_actual = max(_sum_mm(at.top_weights, contents), 0.0)
        top_depletion = min(at.top_field_capacity_mm - top_actual, top_available)
    else:
        top_depletion, top_available = depletion, at.available_mm
    content = actual / at.depth_mm
    return actual, top_depletion, depletion, top_available, at.available_mm, content, *at.limits


class _Stress(NamedTuple):
    """What does not change in a crop's response to water stress."""

    upper: list[tuple[float, float]]
    """Depletion where stress begins and log10(10 - 9 * it), for each kind of stress."""
    lower: list[tuple[float, float]]
    """The same where stress is full."""
    shapes: list[float]
    spans: list[float]
    """exp(shape) - 1."""


_STRESSES: dict[_Key, _Stress] = {}


def _stress(p_up: FloatArray, p_lo: FloatArray, shape: FloatArray) -> _Stress:
    key = (p_up.tobytes(), p_lo.tobytes(), shape.tobytes())
    known = _STRESSES.get(key)
    if known is None:
        upper, lower = ([(float(p), float(np.log10(10 - 9 * p))) for p in ps] for ps in (p_up, p_lo))
        known = _Stress(upper, lower, shape.tolist(), [float(np.exp(x) - 1) for x in shape])
        _STRESSES[key] = known
    return known


def _relative(depletion_mm: float, available_mm: float, upper: float, lower: float) -> float:
    """0 where depletion is below the threshold ``upper``, 1 beyond ``lower``, linear between."""
    if depletion_mm <= upper * available_mm:
        return 0.0
    if depletion_mm < lower * available_mm:
        return 1 - ((lower - (depletion_mm / available_mm)) / (lower - upper))
    return 1.0


def water_stress(
    p_up: FloatArray,
    p_lo: FloatArray,
    adjust_to_et0: float,
    beta_pct: float,
    shape: FloatArray,
    days_of_early_senescence: float,
    depletion_mm: float,
    available_mm: float,
    et0_mm: float,
    use_beta: bool,
) -> tuple[np.float64, np.float64, np.float64, np.float64, np.float64]:
    """Water stress coefficients, 1 without stress; stands in for ``aquacrop.solution.water_stress.water_stress``.

    Args:
        p_up: depletion, as a share of available water, where stress begins; leaf expansion, stomata, senescence,
            pollination; shape (4,).
        p_lo: where stress is full; shape (4,).
        adjust_to_et0: 1 to shift thresholds with the day's evapotranspiration.
        beta_pct: how much earlier senescence is triggered once it has begun.
        shape: of the response; shape (4,).
        days_of_early_senescence: above 0 once it has begun.
        depletion_mm: of the root zone or the top soil.
        available_mm: total available water of the same.
        et0_mm: the day's reference evapotranspiration.
        use_beta: whether ``beta_pct`` counts.

    Returns:
        Leaf expansion, stomata, senescence, pollination, and stomata without the shape.

    Source: AquaCrop reference manual, pages 9-13, as in aquacrop 3.1.0.
    """
    crop = _stress(p_up, p_lo, shape)
    shift = 0.04 * (5 - et0_mm)
    early = use_beta and days_of_early_senescence > 0
    relative, factors = [0.0] * 4, [1.0] * 3
    for i in range(4):
        upper, lower = crop.upper[i][0], crop.lower[i][0]
        if adjust_to_et0 == 1 and i < 3:
            upper, lower = upper + shift * crop.upper[i][1], lower + shift * crop.lower[i][1]
        if early and i == 2:
            upper *= 1 - beta_pct / 100
        upper, lower = min(max(upper, 0.0), 1.0), min(max(lower, 0.0), 1.0)
        relative[i] = _relative(depletion_mm, available_mm, upper, lower)
    for i in range(3):
        if relative[i] > 0.0:
            factors[i] = 1 - ((float(np.exp(relative[i] * crop.shapes[i])) - 1) / crop.spans[i])
    expansion, stomata, senescence = factors
    values = (expansion, stomata, senescence, 1 - relative[3], 1 - relative[1])
    # NumPy scalars, as in the package: its callers raise these to powers, where plain floats behave otherwise.
    return tuple(map(np.float64, values))  # type: ignore[return-value]  # five of them


def use_fast_root_zone() -> None:
    """Put `root_zone_water` and `water_stress` in place of the package's own wherever aquacrop holds them.

    Call it as often as you like; nothing changes after the first time.

    Raises:
        RuntimeError: another version of aquacrop is installed than the one this was measured against.
    """
    installed = version("aquacrop")
    if installed != AQUACROP_VERSION:
        raise RuntimeError(
            f"aquacrop {installed} is installed, but maize needs exactly {AQUACROP_VERSION}, whose private parts it"
            f" uses; install it with: pip install aquacrop=={AQUACROP_VERSION}"
        )
    import aquacrop.core  # type: ignore[import-untyped]  # noqa: F401  # loads the modules searched below; has no stubs

    for fast in (root_zone_water, water_stress):
        name = fast.__name__
        original = getattr(sys.modules[f"aquacrop.solution.{name}"], name)
        for module_name, module in list(sys.modules.items()):
            if module_name.startswith("aquacrop.") and getattr(module, name, None) is original:
                setattr(module, name, fast)
