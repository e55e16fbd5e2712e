"""Rules tuned for a world as hard as the model is trained: on every season that is not tested."""

from __future__ import annotations

from collections.abc import Mapping

from headland_edge.rules import DayCurveRule, FourStageRule, SplitRule
from joblib import Parallel

from tasks.crops.interface import DailyWeather, Field
from tasks.params import Params, Sensors
from tasks.policies.tune import Ground, exact, tune_day_curve, tune_irrigation, tune_nitrogen

KINDS = ("readings", "estimates")
"""What a rule is tuned to act on: raw sensors, or a nearly exact estimate."""


def grounds(
    years: Mapping[str, DailyWeather], sensors: Sensors, params: Params, kinds: tuple[str, ...] = KINDS
) -> dict[str, Ground]:
    """Where candidates are scored, by kind."""
    # A field's site is the key of its year already; tuning adds the season to it.
    weather = {f"{key}/{each.first_day.year}": each for key, each in years.items()}
    seen = {"readings": sensors, "estimates": exact(sensors)}
    return {kind: Ground(weather, seen[kind], params, kind == "estimates") for kind in kinds}


def four_stage(fields: tuple[Field, ...], ground: Ground) -> FourStageRule:
    """Four thresholds for these fields."""
    return tune_irrigation(ground, fields, Parallel(n_jobs=1))[0]


def day_curve(fields: tuple[Field, ...], ground: Ground, start: FourStageRule) -> DayCurveRule:
    """A day curve for these fields, from four thresholds."""
    return tune_day_curve(ground, fields, Parallel(n_jobs=1), start)[0]


def soil_test(fields: tuple[Field, ...], ground: Ground) -> tuple[SplitRule, SplitRule]:
    """The best fixed doses and the best soil-test rule for these fields."""
    workers = Parallel(n_jobs=1)
    return tune_nitrogen(ground, fields, workers, True)[0], tune_nitrogen(ground, fields, workers, False)[0]
