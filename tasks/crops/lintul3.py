"""LINTUL3: growth, water and nitrogen of a crop, one day at a time, for many fields at once.

Written from Shibu, Leffelaar, van Keulen & Aggarwal (2010), "LINTUL3, a simulation model for nitrogen-limited
situations: application to rice", European Journal of Agronomy 32, 255-271, with the water balance of LINTUL2 (Spitters
& Schapendonk 1990; Farré et al. 2000) for rain-fed land: one soil layer as deep as the roots, no leaching of nitrogen.

Every array has shape (n_fields,), one value a field. Water in mm, weights and nitrogen in g/m2, time step one day.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tasks.crops.interface import BoolArray, FloatArray
from tasks.crops.lintul3_parameters import CropParameters

_WET_DAY_MM = 0.5
"""Rain from which a day counts as wet for soil evaporation."""
_LIGHT_SHARE_EVAPORATION = 0.5
"""Extinction in the canopy of the radiation that drives evaporation."""
_PAR_SHARE = 0.5


class State(NamedTuple):
    """Where every field stands in the morning; `daily_rates` gives one with the change over the day."""

    lai: FloatArray
    leaves: FloatArray
    dead_leaves: FloatArray
    stems: FloatArray
    grain: FloatArray
    roots: FloatArray
    leaf_n: FloatArray
    stem_n: FloatArray
    root_n: FloatArray
    grain_n: FloatArray
    lost_n: FloatArray
    """Nitrogen in leaves and roots that died."""
    soil_n: FloatArray
    """Mineral nitrogen the crop can take up."""
    root_depth_m: FloatArray
    water_mm: FloatArray
    """In the rooted soil."""
    dry_days: FloatArray
    """Days since the last wet one, that day included."""


class Soil(NamedTuple):
    """Water contents, m3/m3, and drainage of each field."""

    air_dry: FloatArray
    wilting_point: FloatArray
    field_capacity: FloatArray
    too_wet: FloatArray
    """Above it roots lack oxygen."""
    saturation: FloatArray
    drainage_mm_d: FloatArray
    """Greatest daily drainage."""
    subsoil: FloatArray
    """Water content of the soil that roots grow into."""


class Day(NamedTuple):
    """What weather and development stage bring to each field today; nothing here depends on how the crop stands."""

    rain_mm: FloatArray
    soil_evaporation_mm: FloatArray
    """Potential, of bare soil."""
    canopy_evaporation_mm: FloatArray
    """Potential, of a closed canopy."""
    radiation_mj_m2: FloatArray
    effective_temperature_c: FloatArray
    """Above the base temperature."""
    ageing: FloatArray
    """Relative death of leaves by age, 1/d."""
    stage: FloatArray
    specific_leaf_area: FloatArray
    """Without stress, m2/g."""
    max_leaf_n: FloatArray
    """Greatest nitrogen concentration of leaves, g/g."""
    to_roots: FloatArray
    to_leaves: FloatArray
    to_stems: FloatArray
    to_grain: FloatArray


class Growth(NamedTuple):
    """Dry matter grown today, by organ."""

    leaves: FloatArray
    stems: FloatArray
    grain: FloatArray
    roots: FloatArray


class Water(NamedTuple):
    """What happens to the soil water today, before roots grow."""

    evaporation_mm: FloatArray
    transpiration_mm: FloatArray
    supply: FloatArray
    """Actual as a share of potential transpiration."""
    dry_days: FloatArray


class Nitrogen(NamedTuple):
    """Today's nitrogen flows; net of what dies, which `daily_rates` takes off."""

    uptake: FloatArray
    to_leaves: FloatArray
    to_stems: FloatArray
    to_roots: FloatArray
    to_grain: FloatArray


def _share(part: FloatArray, whole: FloatArray, otherwise: float = 0.0) -> FloatArray:
    """``part / whole``, or ``otherwise`` where the whole is 0."""
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole != 0))


def initial_state(p: CropParameters, slac: FloatArray, water_content: FloatArray) -> State:
    """The morning of emergence, without mineral nitrogen in the soil.

    The last wet day is taken to be the one before.

    Args:
        p: the crop.
        slac: specific leaf area on that day, m2/g.
        water_content: of the whole soil, m3/m3.
    """

    def everywhere(value: float) -> FloatArray:
        return np.full(water_content.shape, value)

    return State(
        lai=p.wlvgi * slac,
        leaves=everywhere(p.wlvgi),
        dead_leaves=everywhere(0.0),
        stems=everywhere(p.wsti),
        grain=everywhere(p.wsoi),
        roots=everywhere(p.wrtli),
        leaf_n=everywhere(p.nfrlvi * p.wlvgi),
        stem_n=everywhere(p.nfrsti * p.wsti),
        root_n=everywhere(p.nfrrti * p.wrtli),
        grain_n=everywhere(0.0),
        lost_n=everywhere(0.0),
        soil_n=everywhere(0.0),
        root_depth_m=everywhere(p.rootdi),
        water_mm=1000 * p.rootdi * water_content,
        dry_days=everywhere(1.0),
    )


def water_content(s: State) -> FloatArray:
    """Of the rooted soil, m3/m3."""
    return np.asarray(s.water_mm / (1000 * s.root_depth_m))


def daily_rates(p: CropParameters, soil: Soil, s: State, day: Day, n_supply: FloatArray) -> State:
    """Change of the state over one day.

    Args:
        p: the crop.
        soil: of each field.
        s: this morning.
        day: today's weather and what follows from the development stage.
        n_supply: mineral nitrogen that reaches the soil today, g/m2; the crop can take it up from tomorrow on.
    """
    wet = water_content(s)
    water = _water_use(p, soil, s, day, wet)
    nutrition = _nutrition_index(p, s, day)
    stress = np.exp(-p.nlue * (1 - nutrition))
    growth = _growth(p, s, day, water.supply, nutrition, stress)
    specific_leaf_area = day.specific_leaf_area * np.exp(-p.nsla * (1 - nutrition))
    leaf_death, area_death = _leaf_death(p, s, day, nutrition, specific_leaf_area)
    root_death = np.where(day.stage < p.dvsdr, 0.0, s.roots * p.rdrrt)
    n = _nitrogen(p, s, day, uptake_possible=(day.stage < p.dvsnlt) & (wet >= soil.wilting_point))
    deepening = np.where(wet > soil.wilting_point, np.minimum(p.rrdmax, p.rootdm - s.root_depth_m), 0.0)
    leaf_loss, root_loss = p.rnflv * leaf_death, p.rnfrt * root_death
    return State(
        lai=_leaf_expansion(p, s, day, water.supply, nutrition, specific_leaf_area * growth.leaves) - area_death,
        leaves=growth.leaves - leaf_death,
        dead_leaves=leaf_death,
        stems=growth.stems,
        grain=growth.grain,
        roots=growth.roots - root_death,
        leaf_n=n.to_leaves - leaf_loss,
        stem_n=n.to_stems,
        root_n=n.to_roots - root_loss,
        grain_n=n.to_grain,
        lost_n=leaf_loss + root_loss,
        soil_n=n_supply - n.uptake,
        root_depth_m=deepening,
        water_mm=_water_balance(soil, s, day, water) + 1000 * deepening * soil.subsoil,
        dry_days=water.dry_days - s.dry_days,
    )


def _water_use(p: CropParameters, soil: Soil, s: State, day: Day, wet: FloatArray) -> Water:
    """Evaporation of the soil and transpiration of the crop."""
    open_sky = np.exp(-_LIGHT_SHARE_EVAPORATION * s.lai)
    demand = np.maximum((1 - open_sky) * day.canopy_evaporation_mm, 0.0)
    transpiration = demand * _uptake_factor(p, soil, demand, wet)
    potential = np.maximum(open_sky * day.soil_evaporation_mm, 0.0)
    rained = day.rain_mm >= _WET_DAY_MM
    dry_days = np.where(rained, 1.0, s.dry_days + 1)
    # A soil that dries loses water with the square root of time; what drizzles evaporates on top of it.
    drying = potential * (np.sqrt(dry_days) - np.sqrt(dry_days - 1)) + day.rain_mm
    evaporation = np.where(rained, potential, np.minimum(potential, drying))
    available = s.water_mm - soil.air_dry * (1000 * s.root_depth_m)
    evaporation = evaporation * np.minimum(_share(available, evaporation), 1.0)
    return Water(evaporation, transpiration, _share(transpiration, demand, otherwise=1.0), dry_days)


def _uptake_factor(p: CropParameters, soil: Soil, demand: FloatArray, wet: FloatArray) -> FloatArray:
    """How far roots can meet the demand: less in soil that is drier than critical or too wet to breathe."""
    available = soil.field_capacity - soil.wilting_point
    critical = soil.wilting_point + np.maximum(demand / (demand + p.tranco) * available, 0.01)
    drought = np.clip((wet - soil.wilting_point) / (critical - soil.wilting_point), 0.0, 1.0)
    flood = np.clip((soil.saturation - wet) / (soil.saturation - soil.too_wet), 0.0, 1.0)
    return np.where(wet < critical, drought, flood)


def _water_balance(soil: Soil, s: State, day: Day, water: Water) -> FloatArray:
    """Change of the water in the rooted soil, mm, without what deeper roots find."""
    depth_mm = 1000 * s.root_depth_m
    gain = day.rain_mm - water.evaporation_mm - water.transpiration_mm
    drainage = np.clip(s.water_mm - soil.field_capacity * depth_mm + gain, 0.0, soil.drainage_mm_d)
    runoff = np.maximum(s.water_mm - soil.saturation * depth_mm + gain - drainage, 0.0)
    return np.asarray(gain - drainage - runoff)


def _nutrition_index(p: CropParameters, s: State, day: Day) -> FloatArray:
    """Nitrogen of the green parts between residual (0) and critical (1)."""
    residual = s.leaves * p.rnflv + s.stems * p.rnfst
    critical = p.frnx * day.max_leaf_n * (s.leaves + p.lsnr * s.stems)
    return np.clip((s.leaf_n + s.stem_n - residual) / (critical - residual), 0.001, 1.0)


def _growth(
    p: CropParameters, s: State, day: Day, water_supply: FloatArray, nutrition: FloatArray, stress: FloatArray
) -> Growth:
    """Growth by intercepted light, reduced by the worse of drought and lack of nitrogen, and where it goes."""
    light = _PAR_SHARE * day.radiation_mj_m2 * (1 - np.exp(-p.k * s.lai))
    total = p.lue * light * np.minimum(water_supply, stress)
    # In drought roots get more and the shoot what remains; short of nitrogen, leaves get less and all others more.
    more_roots = np.maximum(1 / (water_supply + 0.5), 1.0)
    shoot = (1 - day.to_roots * more_roots) / (1 - day.to_roots)
    fewer_leaves = np.exp(-p.npart * (1 - nutrition))
    rest = (1 - day.to_leaves * fewer_leaves) / (1 - day.to_leaves)
    drought = water_supply < stress
    others = np.where(drought, shoot, rest)
    return Growth(
        leaves=total * day.to_leaves * np.where(drought, shoot, fewer_leaves),
        stems=total * day.to_stems * others,
        grain=total * day.to_grain * others,
        roots=total * day.to_roots * np.where(drought, more_roots, rest),
    )


def _leaf_expansion(
    p: CropParameters, s: State, day: Day, water_supply: FloatArray, nutrition: FloatArray, by_weight: FloatArray
) -> FloatArray:
    """New leaf area: driven by temperature while the crop is young and open, by leaf growth afterwards."""
    relative = np.exp(p.rgrl * day.effective_temperature_c) - 1
    by_temperature = s.lai * relative * water_supply * np.exp(-p.nlai * (1 - nutrition))
    return np.where((day.stage < 0.2) & (s.lai < 0.75), by_temperature, by_weight)


def _leaf_death(
    p: CropParameters, s: State, day: Day, nutrition: FloatArray, specific_leaf_area: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Leaves and leaf area that die of age or shade, whichever is worse, and of lack of nitrogen."""
    relative = np.maximum(day.ageing, np.maximum(p.rdrshm * (s.lai - p.laicr) / p.laicr, 0.0))
    starved = s.leaves * p.rdrns * (1 - nutrition)
    return s.leaves * relative + starved, s.lai * relative + starved * specific_leaf_area


def _nitrogen(p: CropParameters, s: State, day: Day, uptake_possible: BoolArray) -> Nitrogen:
    """Uptake by what the organs lack, and translocation to the grain from what they can spare."""
    leaf_gap = np.maximum(day.max_leaf_n * s.leaves - s.leaf_n, 0.0)
    stem_gap = np.maximum(p.lsnr * day.max_leaf_n * s.stems - s.stem_n, 0.0)
    root_gap = np.maximum(p.lrnr * day.max_leaf_n * s.roots - s.root_n, 0.0)
    gap = leaf_gap + stem_gap + root_gap
    uptake = np.where(uptake_possible, np.maximum(np.minimum(gap, s.soil_n), 0.0), 0.0)
    met = _share(uptake, gap)
    leaf_spare = np.maximum(s.leaf_n - s.leaves * p.rnflv, 0.0)
    stem_spare = np.maximum(s.stem_n - s.stems * p.rnfst, 0.0)
    root_spare = np.minimum((leaf_spare + stem_spare) * p.fntrt, s.root_n - s.roots * p.rnfrt)
    spare = leaf_spare + stem_spare + root_spare
    wanted = np.maximum(p.nmaxso * s.grain - s.grain_n, 0.0)
    to_grain = np.where(day.stage > p.dvsnt, np.minimum(wanted, spare), 0.0) / p.tcnt
    moved = _share(to_grain, spare)
    return Nitrogen(
        uptake,
        leaf_gap * met - leaf_spare * moved,
        stem_gap * met - stem_spare * moved,
        root_gap * met - root_spare * moved,
        to_grain,
    )
