"""Stage: rules tuned on training seasons, as hard as a careful engineer would.

Three rules come out for each crop: ``fixed_rule`` is a plain one (fixed doses; four thresholds on raw readings),
``sensor_rule`` is tuned on the noisy readings themselves (the strong baseline, and what a device falls back to), and
``rule`` is tuned for a nearly exact knowledge of the field and acts on a net's estimate.

Doses and four thresholds are searched by successive halving: many random candidates on few fields, the survivors on
more, then a random walk around the best one on all of them. Day curves start from the four thresholds tuned on the same
readings and are searched by CMA-ES (Hansen & Ostermeier 2001) on all fields, so that they never earn less there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from headland_edge.rules import DayCurveRule, FourStageRule, Rule, SplitRule
from joblib import Parallel, delayed, effective_n_jobs

from tasks import params as params_module
from tasks.crops.farm import Policy, farm
from tasks.crops.fields import draw_fields, field_rng
from tasks.crops.interface import CROPS, Crop, DailyWeather, Field, FloatArray
from tasks.durable import write_json
from tasks.params import Params, Sensors
from tasks.policies.growers import Splits, Threshold
from tasks.policies.money import profit_usd_ha
from tasks.progress import track
from tasks.sources.daily import SiteWeather, read_sites
from tasks.stage_main import end_of_stage

PARAMS = ("as_of", "test_seasons", "validation_every", "seed", "sites", "fields", "sensors", "prices", "rules")
POLICIES = Path("data/policies.json")
_LEAST_SHARE, _FIRST_STEP, _POPULATION = 0.3, 0.15, 14
_BATCH = 2000
"""Fields farmed at once: more would not be faster, and take memory."""
Score = Callable[[list[FloatArray], tuple[Field, ...]], FloatArray]


@dataclass(frozen=True)
class Search:
    """A box of candidates and how the money of a candidate is found."""

    low: FloatArray
    high: FloatArray
    score: Score
    """Candidates and fields to mean profit of each candidate, USD/ha."""


def halving(
    search: Search,
    fields: tuple[Field, ...],
    rng: np.random.Generator,
    candidates: int,
    survivors: int,
    refinements: int,
    known: Iterable[FloatArray] = (),
) -> tuple[FloatArray, float]:
    """Search the box; every comparison is between candidates on the same fields.

    Args:
        search: the box and the score.
        fields: training fields in random order.
        rng: of this search.
        candidates: random candidates of the first round, scored on an eighth of the fields.
        survivors: how many of them are scored on half of the fields.
        refinements: steps of the random walk around the best one, scored on all fields.
        known: candidates that every engineer would try first.

    Returns:
        The best candidate and its mean profit on all fields, USD/ha.
    """
    drawn = rng.uniform(search.low, search.high, (candidates, search.low.size))
    pool = [*known, *drawn]
    pool = _best(pool, search.score(pool, fields[: max(4, len(fields) // 8)]), survivors)
    pool = _best(pool, search.score(pool, fields[: max(4, len(fields) // 2)]), 3)
    scores = search.score(pool, fields)
    best, value = pool[int(np.argmax(scores))], float(np.max(scores))
    width, batch = 0.12, 6
    for _ in range(0, refinements, batch):
        steps = rng.normal(0.0, width, (batch, best.size)) * (search.high - search.low)
        tries = [np.clip(best + step, search.low, search.high) for step in steps]
        scores = search.score(tries, fields)
        if scores.max() > value:
            best, value = tries[int(np.argmax(scores))], float(scores.max())
        else:
            width *= 0.6
    return best, value


def _best(pool: list[FloatArray], scores: FloatArray, count: int) -> list[FloatArray]:
    return [pool[i] for i in np.argsort(-scores, kind="stable")[:count]]


def exact(sensors: Sensors) -> Sensors:
    """The same sensors without drift and dropouts and with a tenth of the noise: what a good estimate is like."""
    quiet = {
        name: getattr(sensors, name).model_copy(
            update={"noise": 0.1 * getattr(sensors, name).noise, "drift_per_day": 0.0}
        )
        for name in type(sensors).model_fields
        if name != "dropout"
    }
    dropout = sensors.dropout.model_copy(update={"starts_per_day": 0.0})
    return sensors.model_copy(update={**quiet, "dropout": dropout})


def training_fields(crop: Crop, params: Params, sites: dict[str, SiteWeather], per_season: int) -> tuple[Field, ...]:
    """Fields of the training seasons of ``crop`` in a random order that does not depend on their number."""
    found: list[Field] = []
    ranges = params.fields.of(crop)
    for name, site in params.sites.items():
        if crop in site.crops:
            days = ranges.season_days + ranges.sowing_day[1]
            seasons = params.split(name, sites[name].seasons(days)).train
            found.extend(draw_fields(crop, name, list(seasons), per_season, ranges, params.seed))
    order = field_rng(params.seed, crop, "tuning").permutation(len(found))
    return tuple(found[i] for i in order)


def irrigation_rule(candidate: FloatArray, params: Params) -> FourStageRule:
    """A rule from a candidate: four depletion thresholds."""
    rules = params.rules.irrigation
    return FourStageRule(
        thresholds_frac=tuple(float(round(x, 4)) for x in candidate[:4]),
        stage_end_days=tuple(rules.stage_end_days),
        max_irrigation_mm=rules.max_irrigation_mm,
        min_irrigation_mm=rules.min_irrigation_mm,
        season_limit_mm=rules.season_limit_mm,
    )


def nitrogen_rule(candidate: FloatArray, params: Params) -> SplitRule:
    """A rule from a candidate: for each split the dose at no supply and how much a kg of supply takes off it."""
    rules = params.rules.nitrogen
    return SplitRule(
        split_gdd=(float(rules.first_split_day), *map(float, rules.split_gdd_c_d)),
        base_kg_ha=tuple(float(round(x, 3)) for x in candidate[:3]),
        slope=tuple(float(round(x, 4)) for x in candidate[3:]),
        max_dose_kg_ha=rules.max_dose_kg_ha,
    )


class Informed(Splits):
    """The split rule acting on what the soil really supplies: what a good estimate is worth. For tuning only."""

    def supply_kg_ha(self, fields: tuple[Field, ...], records: FloatArray) -> FloatArray:
        """Mineral nitrogen as read, and what the field will still mineralise."""
        left = np.array([field.mineralisation_kg_ha_d * (field.season_days - records.shape[1] + 1) for field in fields])
        return np.asarray(super().supply_kg_ha(fields, records) + left)


@dataclass(frozen=True)
class Ground:
    """Where candidates are scored."""

    weather: dict[str, DailyWeather]
    """By ``site/season``."""
    sensors: Sensors
    params: Params
    informed: bool

    def profits(self, rules: Sequence[Rule], fields: tuple[Field, ...]) -> FloatArray:
        """Profit of each rule summed over ``fields``, all rules and seasons in one batch, USD/ha."""
        # Fields of many years lie in one batch: each one's site is the key of its own year.
        own = tuple(replace(field, site=f"{field.site}/{field.season}") for field in fields)
        each = [rule for rule in rules for _ in own]
        crop = own[0].crop
        policy: Policy
        if crop == "maize":
            policy = Threshold([rule for rule in each if not isinstance(rule, SplitRule)])
        else:
            splits = [rule for rule in each if isinstance(rule, SplitRule)]
            policy = Informed(splits) if self.informed else Splits(splits)
        harvest = farm(own * len(rules), self.weather, self.sensors, self.params.seed, policy).harvest
        profit = profit_usd_ha(crop, harvest, self.params.prices)
        return np.asarray(profit.reshape(len(rules), len(own)).sum(axis=1))


def scorer(ground: Ground, make: Callable[[FloatArray], Rule], workers: Parallel) -> Score:
    """Mean profit of candidates over fields, spread over all cores in batches of at most ``_BATCH`` fields."""

    def score(candidates: list[FloatArray], fields: tuple[Field, ...]) -> FloatArray:
        rules = [make(candidate) for candidate in candidates]
        parts = max(effective_n_jobs(workers.n_jobs), math.ceil(len(rules) * len(fields) / _BATCH))
        jobs = [chunk for chunk in np.array_split(np.arange(len(rules)), min(parts, len(rules))) if chunk.size]
        found = workers(delayed(ground.profits)([rules[i] for i in chunk.tolist()], fields) for chunk in jobs)
        return np.asarray(np.concatenate(found) / len(fields))

    return score


def tune_irrigation(ground: Ground, fields: tuple[Field, ...], workers: Parallel) -> tuple[FourStageRule, float]:
    """Four thresholds tuned on ``fields``; returns the rule and its mean profit there, USD/ha."""
    params, settings = ground.params, ground.params.rules.irrigation
    search = Search(np.full(4, 0.05), np.full(4, 0.95), scorer(ground, lambda c: irrigation_rule(c, params), workers))
    known = [np.full(4, 0.3), np.full(4, 0.5), np.array([0.5, 0.5, 0.5, 0.8]), np.array([0.7, 0.5, 0.6, 0.9])]
    rng = field_rng(params.seed, "tune", "irrigation", ground.informed)
    best, value = halving(search, fields, rng, settings.candidates, settings.survivors, settings.refinements, known)
    return irrigation_rule(best, params), value


def day_curve(candidate: FloatArray, params: Params) -> DayCurveRule:
    """A rule from a candidate: a threshold at each knot, the share given back, and the share of the largest depth."""
    rules, knots = params.rules.irrigation, params.rules.irrigation.curve_days
    thresholds = np.clip(candidate[: len(knots)], 0.02, 0.98)
    share, most = np.clip(candidate[len(knots) :], _LEAST_SHARE, 1.0)
    return DayCurveRule(
        knot_days=tuple(knots),
        thresholds_frac=tuple(float(round(x, 4)) for x in thresholds),
        refill_frac=float(round(share, 3)),
        max_irrigation_mm=float(round(most * rules.max_irrigation_mm, 1)),
        min_irrigation_mm=rules.min_irrigation_mm,
        season_limit_mm=rules.season_limit_mm,
    )


def tune_day_curve(
    ground: Ground, fields: tuple[Field, ...], workers: Parallel, start: FourStageRule
) -> tuple[DayCurveRule, float]:
    """A day curve tuned on ``fields`` from four stages; returns the rule and its mean profit there, USD/ha."""
    import cma

    params, settings = ground.params, ground.params.rules.irrigation
    score = scorer(ground, lambda candidate: day_curve(candidate, params), workers)
    first = [start.threshold_frac(day) for day in settings.curve_days]
    best = np.array([*first, 1.0, 1.0])
    value = float(score([best], fields)[0])
    low, high = [0.02] * len(first) + [_LEAST_SHARE] * 2, [0.98] * len(first) + [1.0] * 2
    options = {"seed": params.seed % 2**31, "bounds": [low, high], "popsize": _POPULATION, "verbose": -9}
    search = cma.CMAEvolutionStrategy(best, _FIRST_STEP, options)
    for _ in range(settings.curve_generations):
        tries = search.ask()
        scores = score(tries, fields)
        search.tell(tries, (-scores).tolist())
        if scores.max() > value:
            best, value = np.asarray(tries[int(np.argmax(scores))]), float(scores.max())
    return day_curve(best, params), value


def tune_nitrogen(ground: Ground, fields: tuple[Field, ...], workers: Parallel, fixed: bool) -> tuple[SplitRule, float]:
    """Three doses, and unless ``fixed`` their slopes on the supply, tuned on ``fields``; rule and profit, USD/ha."""
    params, settings = ground.params, ground.params.rules.nitrogen
    most = 0.0 if fixed else 1.5
    search = Search(
        np.zeros(6), np.array([160.0] * 3 + [most] * 3), scorer(ground, lambda c: nitrogen_rule(c, params), workers)
    )
    known = [np.array([40.0, 20.0, 20.0, 0, 0, 0]), np.array([70.0, 35.0, 35.0, *[0.0 if fixed else 0.5] * 3])]
    rng = field_rng(params.seed, "tune", "nitrogen", ground.informed, fixed)
    count = settings.candidates
    best, value = halving(search, fields, rng, count, max(3, count // 10), max(6, count // 5), known)
    return nitrogen_rule(best, params), value


def tune(params: Params, sites: dict[str, SiteWeather]) -> dict[str, object]:
    """Tune every rule; the result is what ``data/policies.json`` holds."""
    rules: dict[str, dict[str, object]] = {}
    training_usd_ha: dict[str, dict[str, float]] = {}
    with Parallel(n_jobs=-1) as workers:
        for crop in track(CROPS, total=len(CROPS), label="tuning rules"):
            fields = training_fields(crop, params, sites, params.rules.of(crop).fields_per_season)
            weather = {
                f"{site}/{season}": sites[site].season_weather(season)
                for site, season in sorted({(field.site, field.season) for field in fields})
            }
            for kind in KINDS:
                informed = kind == "rule"
                sensors = exact(params.sensors) if informed else params.sensors
                ground = Ground(weather, sensors, params, informed)
                rule: Rule
                if crop == "wheat":
                    rule, value = tune_nitrogen(ground, fields, workers, kind == "fixed_rule")
                elif kind == "fixed_rule":
                    rule, value = tune_irrigation(ground, fields, workers)
                else:
                    stages, _ = tune_irrigation(ground, fields, workers)
                    rule, value = tune_day_curve(ground, fields, workers, stages)
                rules.setdefault(crop, {})[kind] = rule.to_dict()
                training_usd_ha.setdefault(crop, {})[kind] = round(value, 2)
    return {"rules": rules, "training_usd_ha": training_usd_ha}


KINDS = ("fixed_rule", "sensor_rule", "rule")


def main() -> None:
    """Run the stage in the current folder."""
    params = params_module.load()
    found = tune(params, read_sites(params))
    write_json(POLICIES, found)
    print(f"policies: mean profit on training seasons, USD/ha: {found['training_usd_ha']}")


if __name__ == "__main__":
    end_of_stage(main)
