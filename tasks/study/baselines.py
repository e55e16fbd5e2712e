"""Rules tuned for a world as hard as the model is trained: on every season that is not tested."""

from __future__ import annotations

from collections.abc import Mapping

from headland_edge.rules import DayCurveRule, FourStageRule, IrrigationRule, SplitRule
from joblib import Parallel

from tasks.advantage.worlds import years_of
from tasks.crops.interface import Crop, DailyWeather, Field
from tasks.params import Params, Sensors
from tasks.policies.tune import Ground, exact, tune_day_curve, tune_irrigation, tune_nitrogen
from tasks.sources.daily import SiteWeather
from tasks.study import play

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


def rules_for_the_standard_field(
    known: Mapping[str, DailyWeather], days: int, params: Params, kinds: tuple[str, ...] = KINDS
) -> dict[tuple[str, str], IrrigationRule]:
    """Four stages and a day curve for the standard field, on raw readings and on estimates."""
    tuned: dict[tuple[str, str], IrrigationRule] = {}
    for kind, ground in grounds(known, params.sensors, params, kinds).items():
        fields = play.maize_fields(known, days, draws=2 if kind == "readings" else 1)
        stages = four_stage(fields, ground)
        tuned["four_stage", kind], tuned["day_curve", kind] = stages, day_curve(fields, ground, stages)
    return tuned


def known_and_tested(crop: Crop, params: Params, sites: dict[str, SiteWeather]) -> tuple[dict[str, DailyWeather], ...]:
    """Weather of the seasons a crop's rules are tuned on, and of those that are tested."""
    ranges = params.fields.of(crop)
    known, tested = {}, {}
    for name, site in params.sites.items():
        if crop in site.crops:
            split = params.split(name, sites[name].seasons(ranges.sowing_day[1] + ranges.season_days))
            known[name], tested[name] = [*split.train, *split.validation], list(split.test)
    return years_of(sites, known), years_of(sites, tested)
