"""A field's water balance with a poor sensor: windows whose truth is known, in the form the windows stage writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float64]
SENSED = ("rain", "et0", "tmin", "tmax", "irrigation", "nitrogen", "depletion", "taw", "soil_n", "lai")
SEEN = ("weather_seen", "depletion_seen", "soil_n_seen", "lai_seen")
TOTALS = ("rain_total", "et0_total", "irrigation_total", "nitrogen_total", "gdd_total")
CHANNELS = (*SENSED, *SEEN, *TOTALS, "days_after_sowing", "is_wheat", "grown")


def make_windows(folder: Path, *, fields: int, mornings: int, window_days: int = 64, seed: int = 1) -> None:
    """Write windows of ``fields`` field-seasons; every fifth is validation."""
    rng = np.random.default_rng(seed)
    pad = np.zeros((window_days - 1, len(CHANNELS)))
    rows: list[Rows] = []
    ends: list[npt.NDArray[np.int64]] = []
    truths: list[Rows] = []
    for field in range(fields):
        channels, truth = _season(rng, mornings)
        start = field * (mornings + window_days - 1) + window_days - 1
        rows += [pad, channels]
        ends.append(start + np.arange(mornings, dtype=np.int64))
        truths.append(truth)
    split = np.repeat(np.arange(fields) % 5 == 4, mornings)
    folder.mkdir(parents=True)
    np.save(folder / "features.npy", np.concatenate(rows).astype(np.float32))
    np.save(folder / "index.npy", np.concatenate(ends).astype(np.int64))
    np.save(folder / "targets.npy", np.concatenate(truths).astype(np.float32))
    np.save(folder / "split.npy", split.astype(np.uint8))
    np.save(folder / "group.npy", np.repeat(np.arange(fields, dtype=np.int32), mornings))
    target = {"name": "depletion_frac", "unit": "", "offset": 0.0, "scale": 1.0}
    meta = {"channels": list(CHANNELS), "window_days": window_days, "target": target}
    (folder / "meta.json").write_text(json.dumps(meta))


def _season(rng: np.random.Generator, mornings: int) -> tuple[Rows, Rows]:
    """Channels [mornings, channels] as the sensors gave them, and the true depletion [mornings]."""
    day = np.arange(mornings)
    taw = rng.uniform(80, 200)
    rain = np.where(rng.random(mornings) < 0.25, rng.gamma(1.2, 8.0, mornings), 0.0)
    et0 = np.clip(3.5 + 2 * np.sin(np.pi * day / mornings) + rng.normal(0, 1, mornings), 0.3, 9)
    cover = 1 / (1 + np.exp(-(day - mornings * 0.3) / 8)) * (1 - 0.6 / (1 + np.exp(-(day - mornings * 0.8) / 6)))
    irrigation = np.zeros(mornings)
    depletion = np.empty(mornings)
    water = rng.uniform(0, 0.5) * taw
    for k in range(mornings):
        stress = min(1.0, 2 * (1 - water / taw))
        water = float(np.clip(water + et0[k] * (0.2 + 0.95 * cover[k]) * stress - rain[k] - irrigation[k], 0, taw))
        depletion[k] = water / taw
        if k + 1 < mornings and depletion[k] > 0.55 and rng.random() < 0.4:
            irrigation[k + 1] = 25.0
    return _sensed(rng, taw, rain, et0, irrigation, depletion, cover), depletion


def _sensed(
    rng: np.random.Generator, taw: float, rain: Rows, et0: Rows, irrigation: Rows, depletion: Rows, cover: Rows
) -> Rows:
    mornings = len(rain)
    day = np.arange(mornings)
    seen = {name: _up(rng, mornings) for name in SEEN}
    tmin = rng.normal(12, 4, mornings)
    tmax = tmin + rng.uniform(5, 15, mornings)
    drift = np.cumsum(rng.normal(0, 0.004, mornings))
    probe = depletion + drift + rng.normal(0, 0.05, mornings)
    gauge = rain * rng.normal(1, 0.1, mornings)
    weather, probed, soil, leaf = (seen[name] for name in SEEN)
    nothing = np.zeros(mornings)
    values = [gauge / 20 * weather, et0 / 5 * weather, tmin / 20 * weather, tmax / 30 * weather, irrigation / 25]
    values += [nothing, probe * probed, np.full(mornings, taw * rng.normal(1, 0.05) / 200), nothing * soil]
    values += [cover * 5 * rng.normal(1, 0.1, mornings) / 5 * leaf, *seen.values()]
    values += [np.cumsum(gauge * weather) / 500, np.cumsum(et0 * weather) / 500, np.cumsum(irrigation) / 300, nothing]
    values += [np.cumsum(np.clip(tmin, 0, None)) / 2000, day / 150, nothing, np.ones(mornings)]
    return np.stack(values, axis=1)


def _up(rng: np.random.Generator, mornings: int) -> Rows:
    """1 on mornings the sensor answers, 0 in outages."""
    up = np.ones(mornings)
    for start in np.flatnonzero(rng.random(mornings) < 0.02):
        up[start : start + 1 + rng.geometric(0.3)] = 0
    return up
