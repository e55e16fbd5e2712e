"""Params so small that a whole season takes a minute."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "fields.maize.per_season": 1,
    "fields.wheat.per_season": 2,
    "test_seasons": 2,
    "rules.irrigation.fields_per_season": 1,
    "rules.irrigation.candidates": 2,
    "rules.irrigation.survivors": 2,
    "rules.irrigation.refinements": 0,
    "rules.irrigation.curve_generations": 1,
    "rules.nitrogen.fields_per_season": 1,
    "rules.nitrogen.candidates": 4,
    **{
        f"model.{model}.{key}": value
        for model in ("irrigation", "nitrogen", "yield")
        for key, value in {"widths": [8, 8], "epochs": 1, "windows_per_epoch": 512, "finetune_epochs": 1}.items()
    },
    "model.yield.crossfit_folds": 2,
    **{
        f"advantage.{crop}.{key}": value
        for crop in ("maize", "wheat")
        for key, value in {
            "rounds": 1,
            "mornings_per_round": 100,
            "futures": 2,
            "fields_per_season": 1,
            "spliced_seasons": 0,
            "width": 8,
            "epochs": 2,
            "margins_usd_ha": [1.0],
            "judged_fields_per_season": 1,
        }.items()
    },
    "advantage.maize.reaches": [0.1],
    "advantage.wheat.reaches": [30.0],
    "compression.calibration_windows": 64,
    "compression.latency_runs": 20,
    "compression.max_metric_loss_frac": 1.0,
    "evaluation.fields_per_season": 1,
    "release.latency_p99_ms": 50.0,
    "gate.max_worse_frac": 1.0,
    "gate.fields_per_season": 1,
    "gate.max_worse_usd_ha": 10_000.0,
}
