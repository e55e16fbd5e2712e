"""Drift on the device: how often an ordinary season raises an alarm, and how often a sensor that goes wrong does.

``python -m benchmarks.drift`` in a folder where the pipeline has run prints JSON and writes it to
``metrics/bench/drift.json``. Judged are all field seasons from ``as_of`` on, which neither nets nor sketch have seen:
as they are, and with one sensor that goes wrong on day 60. The unharmed season is the peer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from headland_edge.features import clean, derive
from headland_edge.records import COLUMNS, Records
from headland_edge.sketch import CropSketch, FloatArray

from benchmarks.machine import describe
from benchmarks.sync import release_in
from tasks import params as params_module
from tasks.durable import write_json
from tasks.features.derive import records_of
from tasks.features.labels import season_files

FROM_DAY = 60
FAULTS: dict[str, tuple[str, Callable[[FloatArray], FloatArray]]] = {
    "et0_doubled": ("et0_mm", lambda values: values * 2),
    "thermometer_12_c_warm": ("tmax_c", lambda values: values + 12),
    "rain_gauge_times_four": ("rain_mm", lambda values: values * 4),
    "rain_gauge_blocked": ("rain_mm", np.zeros_like),
    "probe_stuck_dry": ("depletion_frac", lambda values: np.full_like(values, 1.2)),
    "probe_stuck_wet": ("depletion_frac", lambda values: np.full_like(values, -0.3)),
    "camera_blind": ("lai", np.zeros_like),
}


def first_alarm(records: Records, sketch: CropSketch) -> int | None:
    """The morning on which drift begins, None if it never does."""
    states = sketch.drifts(derive(clean(records)[0]))
    return next((morning for morning, state in enumerate(states) if state.drifting), None)


def faulty(records: Records, column: str, change: Callable[[FloatArray], FloatArray]) -> Records:
    """The same season with a sensor that goes wrong on day ``FROM_DAY``."""
    values, at = records.values.copy(), COLUMNS.index(column)
    values[FROM_DAY:, at] = change(values[FROM_DAY:, at])
    return Records(records.crop, records.sowing_date, values)


def judged(seasons: list[Records], sketch: CropSketch) -> dict[str, Any]:
    """Share of alarms unharmed, and by fault with the median delay in days."""
    found: dict[str, Any] = {
        "field_seasons": len(seasons),
        "ordinary_alarm_share": float(np.mean([first_alarm(each, sketch) is not None for each in seasons])),
    }
    for name, (column, change) in FAULTS.items():
        alarms = [first_alarm(faulty(each, column, change), sketch) for each in seasons]
        heard = [alarm - FROM_DAY for alarm in alarms if alarm is not None]
        days = float(np.median(heard)) if heard else None
        found[name] = {"alarm_share": len(heard) / len(alarms), "median_days": days}
    return found


def unseen(root: Path, crop: str, first: Mapping[str, int]) -> list[Records]:
    """Every field season of ``crop`` from its site's first unseen season on."""
    found = []
    for _, site, season, file in season_files(root / "data/seasons", (crop,)):
        if season >= first[site]:
            rows = pl.read_parquet(file).sort("field_id", "days_after_sowing")
            found += [records_of(field) for _, field in rows.group_by("field_id", maintain_order=True)]
    return found


def main() -> int:
    """Measure and print; 1 if more than one ordinary season in fifty raises an alarm."""
    root = Path()
    params = params_module.load(root / "params.yaml")
    first = {site: params.season_of(site) for site in params.sites}
    _, sketches = release_in(root)
    crops = {crop: judged(unseen(root, crop, first), sketch) for crop, sketch in sorted(sketches.items())}
    write_json(Path("metrics/bench/drift.json"), found := {"machine": describe(), **crops})
    print(json.dumps(found, indent=2))
    return 0 if all(each["ordinary_alarm_share"] <= 0.02 for each in crops.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
