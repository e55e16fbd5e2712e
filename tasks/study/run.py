"""The study: K folds over every season there is, several seeds, the bundle against every baseline tuned as hard.

Two questions. *What is it worth?* For growers of the standard field, and of wheat, the whole pipeline is run on all but
one fold of the seasons, and its bundle farms that fold through the device package. *Does it do harm elsewhere?* The
project's own bundle, trained across soils (``data/bundle``), farms every soil, starting water, noise and site.

``python -m tasks.study.run`` (``make study``). Stopped anywhere, it goes on where it was: everything that was made lies
below ``.headland/study``. At the end it writes ``metrics/study.json`` (tracked in git) and the rows behind it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from headland_edge.rules import IrrigationRule, SplitRule, rule_from_dict

from tasks.advantage.estimates import Estimator, shipped_estimator
from tasks.advantage.worlds import years_of
from tasks.crops.interface import DailyWeather, Decision, Field, open_batch
from tasks.crops.maize_start import SOILS
from tasks.durable import replacing, write_json
from tasks.params import Params, load
from tasks.policies.tune import POLICIES, exact
from tasks.progress import track
from tasks.sources.daily import SiteWeather, read_any, read_sites
from tasks.stage_main import end_of_stage
from tasks.study import play
from tasks.study.baselines import four_stage, grounds, known_and_tested, rules_for_the_standard_field, soil_test
from tasks.study.folds import (
    Plan,
    StudyError,
    end_with,
    fold_params,
    make_common,
    make_fold,
    make_seed,
    params_of,
    place_of,
    stage,
)
from tasks.study.hindsight import best_depths_mm, best_doses_kg_ha
from tasks.study.play import Scene

METRICS = Path("metrics/study.json")
LIMIT_MM = 150.0
WATERS_FRAC = (0.3, 0.5, 1.0)
NOISES = (0.0, 2.0)
STANDARD_DRAWS = 2
DRAWS = 3
"""Fields that differ by their sensors' luck alone, on each soil, starting water and foreign site of a season."""
SITE_SEASONS = 12
STANDARD = (
    ("fields.maize.soils", ["SiltClayLoam"]),
    ("fields.maize.initial_water_frac", [0.55, 0.85]),
    ("fields.maize.sowing_day", [116, 126]),
    ("rules.irrigation.fields_per_season", 4),
    ("advantage.maize.mornings_per_round", 3000),
    ("advantage.maize.fields_per_season", 6),
    ("advantage.maize.judged_fields_per_season", 20),
)
"""Params of growers whose fields are much like the standard one."""
OWN = ("estimates", "own_rule")
"""Kind and name of the rule in the bundle, among the baselines: it shows what the net of advantages adds."""
EXTERNAL = "HEADLAND_EXTERNAL_DATA"


def one_fold(root: Path, place: Path, plan: Plan, fold: int, core: int) -> Path:
    """Make, tune and play all of one fold on one core; returns the rows' file."""
    target = place / f"fold-{fold}" / "rows.parquet"
    if target.exists():
        return target
    folder = make_fold(root, place, plan, fold, (core,))
    params = load(folder / "params.yaml")
    os.sched_setaffinity(0, (core,))
    sites = read_sites(params, folder / "data/weather")
    parts = [
        *_maize(root, place, plan, fold, params, sites, core),
        *_limited(root, place, plan, fold, params, sites, core),
        *_wheat(root, place, plan, fold, params, sites, core),
    ]
    with replacing(target) as aside:
        pl.concat(parts).with_columns(fold=pl.lit(fold)).write_parquet(aside)
    return target


def _kept(path: Path, make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """Rows that were made before, or made now and kept."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            make().write_parquet(aside)
    return pl.read_parquet(path)


def _maize(
    root: Path, place: Path, plan: Plan, fold: int, params: Params, sites: dict[str, SiteWeather], core: int
) -> Iterable[pl.DataFrame]:
    known, tested = known_and_tested("maize", params, sites)
    days, folder = params.fields.maize.season_days, place / f"fold-{fold}"
    estimator = shipped_estimator("maize", params, folder)
    standard = Scene("standard", play.maize_fields(tested, days, draws=STANDARD_DRAWS), tested, params.sensors)

    def baselines() -> pl.DataFrame:
        tuned = rules_for_the_standard_field(known, days, params)
        parts = [_by(rule, kind, name, standard, estimator, params) for (name, kind), rule in tuned.items()]
        parts.append(_by(_own_rule(folder), *OWN, standard, estimator, params))
        return pl.concat([*parts, _hindsight(tuned["day_curve", "estimates"], standard, params)])

    yield _kept(folder / "rows/maize-baselines.parquet", baselines)
    for seed in plan.seeds:
        bundle = make_seed(root, place, plan, fold, seed, (core,))

        def devices(bundle: Path = bundle, seed: int = seed) -> pl.DataFrame:
            return play.rows_of(standard, "device", play.by_device(bundle, standard, params.seed), params, seed=seed)

        yield _kept(folder / f"rows/maize-device-{seed}.parquet", devices)


def _hindsight(rule: IrrigationRule, scene: Scene, params: Params) -> pl.DataFrame:
    """The bound, once for each season: sensors make no difference to who knows."""
    once = replace(scene, fields=tuple(field for field in scene.fields if field.field_id.endswith("-0")))
    start = play.doses_given(rule, once, exact, params.seed)
    depths, earned = best_depths_mm(once.fields, dict(once.weather), start, params.prices)
    rows = play.rows_of(once, "hindsight", play.by_readings(rule, once, params.seed), params, seed=0)
    water_mm, unknown = pl.Series(depths.sum(axis=1)), pl.lit(None, pl.Float64)
    return rows.with_columns(profit_usd_ha=pl.Series(earned), irrigation_mm=water_mm, yield_t_ha=unknown)


def across(root: Path, place: Path, core: int) -> Path:
    """The project's own bundle on every soil, starting water, noise and site; returns the rows' file."""
    target = place / "across.parquet"
    params = load(root / "params.yaml")
    bundle = root / "data/bundle" / f"headland-{params.as_of}.tar"
    if not bundle.exists():
        raise StudyError(f"{bundle}: not there. The study farms with the project's own bundle, too: dvc repro bundle")
    sha256 = hashlib.sha256(bundle.read_bytes()).hexdigest()
    if target.exists() and pl.read_parquet(target)["bundle"][0] == sha256:
        return target
    os.sched_setaffinity(0, (core,))
    sites = read_sites(params, root / "data/weather")
    known, tested = known_and_tested("maize", params, sites)
    days, estimator = params.fields.maize.season_days, shipped_estimator("maize", params, root)
    sensors = params.sensors
    standard = Scene("standard across", play.maize_fields(tested, days, draws=STANDARD_DRAWS), tested, sensors)
    soils = Scene("soils", play.maize_fields(tested, days, soils=SOILS, draws=DRAWS), tested, sensors)
    waters = Scene("water", play.maize_fields(tested, days, water_frac=WATERS_FRAC, draws=DRAWS), tested, sensors)
    noises = [Scene(f"noise x{by:g}", standard.fields, tested, play.scaled(sensors, by)) for by in NOISES]
    scenes = [standard, soils, waters, *noises, *_elsewhere(params, sites)]
    parts = []
    for kind, ground in grounds(known, sensors, params).items():
        for soil in SOILS:
            rule = four_stage(play.maize_fields(known, days, soils=(soil,)), ground)
            mine = tuple(field for field in soils.fields if field.soil == soil)
            parts.append(_by(rule, kind, "four_stage", replace(soils, fields=mine), estimator, params))
        for water in WATERS_FRAC:
            rule = four_stage(play.maize_fields(known, days, water_frac=(water,)), ground)
            mine = tuple(field for field in waters.fields if field.initial_water_frac == water)
            parts.append(_by(rule, kind, "four_stage", replace(waters, fields=mine), estimator, params))
    for (name, kind), tuned in rules_for_the_standard_field(known, days, params).items():
        others = [scene for scene in scenes if scene not in (soils, waters)]
        parts += [_by(tuned, kind, name, scene, estimator, params) for scene in others]
    for scene in scenes:
        parts.append(_by(_own_rule(root), *OWN, scene, estimator, params))
        parts.append(play.rows_of(scene, "device", play.by_device(bundle, scene, params.seed), params, seed=0))
    with replacing(target) as aside:
        pl.concat(parts).with_columns(fold=pl.lit(-1), bundle=pl.lit(sha256)).write_parquet(aside)
    return target


def _own_rule(root: Path) -> IrrigationRule:
    """The rule in the bundle of a project: what its device does where no net departs from it."""
    rule = rule_from_dict(json.loads((root / POLICIES).read_text())["rules"]["maize"]["rule"])
    assert not isinstance(rule, SplitRule)
    return rule


def _by(rule: IrrigationRule, kind: str, name: str, scene: Scene, estimator: Estimator, params: Params) -> pl.DataFrame:
    """Rows of ``scene`` farmed by a rule on what it was tuned for."""
    raw = kind == "readings"
    harvest = (
        play.by_readings(rule, scene, params.seed) if raw else play.by_estimates(rule, estimator, scene, params.seed)
    )
    return play.rows_of(scene, f"{name}/{kind}", harvest, params, seed=0)


def _elsewhere(params: Params, sites: dict[str, SiteWeather]) -> Iterable[Scene]:
    """The standard field at sites that nothing was trained on, in their latest seasons."""
    days = params.fields.maize.season_days
    last = params.fields.maize.sowing_day[1] + days
    found = {name: sites[name] for name, site in params.sites.items() if "maize" in site.held_out_crops}
    folder = Path(os.environ.get(EXTERNAL, Path(__file__).resolve().parents[3] / "shared/data")) / "nasa_power"
    files = sorted(folder.glob("LAT*.csv.gz"))
    if not files:
        print(f"study: no weather of NASA POWER in {folder}; those sites are left out (set {EXTERNAL})", flush=True)
    for file in files:
        site = read_any(file, "nasa-power", None, 0.0, 100.0)
        found[site.name] = site
    for name, site in found.items():
        seasons = site.seasons(last)[-SITE_SEASONS:]
        years = years_of({name: site}, {name: seasons})
        if years:
            yield Scene(f"site {name}", play.maize_fields(years, days, draws=DRAWS), years, params.sensors)


def _limited(
    root: Path, place: Path, plan: Plan, fold: int, params: Params, sites: dict[str, SiteWeather], core: int
) -> Iterable[pl.DataFrame]:
    """The standard field where a season may not have more than ``LIMIT_MM``: rules and net made for that."""
    known, tested = known_and_tested("maize", params, sites)
    folder, source = place / f"fold-{fold}" / "limited", place / f"fold-{fold}"
    plain = fold_params(root, plan, fold, plan.seeds[0])
    plain["rules"]["irrigation"]["season_limit_mm"] = LIMIT_MM
    limited = params_of(folder, plain)
    (folder / "data").mkdir(exist_ok=True)
    for name in ("weather", "seasons", "features", "models", "windows"):
        link = folder / "data" / name
        if not link.exists():
            link.symlink_to(source / "data" / name)
    stage(folder, "tasks.policies.tune", cores=(core,))
    stage(folder, "tasks.advantage.learn", "maize", cores=(core,))
    stage(folder, "tasks.packaging.build_bundle", cores=(core,))
    bundle = folder / "data/bundle" / f"headland-{limited.as_of}.tar"
    days, estimator = params.fields.maize.season_days, shipped_estimator("maize", params, source)
    scene = Scene("limit 150 mm", play.maize_fields(tested, days, draws=STANDARD_DRAWS), tested, params.sensors)

    def rows() -> pl.DataFrame:
        tuned = rules_for_the_standard_field(known, days, limited)
        parts = [_by(rule, kind, name, scene, estimator, limited) for (name, kind), rule in tuned.items()]
        parts.append(_by(_own_rule(folder), *OWN, scene, estimator, limited))
        harvest = play.by_device(bundle, scene, params.seed)
        return pl.concat([*parts, play.rows_of(scene, "device", harvest, limited, seed=plan.seeds[0])])

    yield _kept(source / "rows/limited.parquet", rows)


def _wheat(
    root: Path, place: Path, plan: Plan, fold: int, params: Params, sites: dict[str, SiteWeather], core: int
) -> Iterable[pl.DataFrame]:
    known, tested = known_and_tested("wheat", params, sites)
    folder, ranges = place / f"fold-{fold}", params.fields.wheat

    def fields(years: dict[str, DailyWeather], name: str) -> tuple[Field, ...]:
        return play.wheat_fields(years, ranges.season_days, ranges.soils, name)

    def baselines() -> pl.DataFrame:
        ground = grounds(known, params.sensors, params, ("readings",))["readings"]
        fixed, test = soil_test(fields(known, ""), ground)
        parts = []
        for seed in plan.seeds:
            scene = Scene("wheat", fields(tested, f"s{seed}-"), tested, params.sensors)
            for name, rule in (("best_fixed", fixed), ("soil_test", test)):
                parts.append(play.rows_of(scene, name, play.by_readings(rule, scene, params.seed), params, seed=seed))
            split = rule_from_dict(json.loads((folder / POLICIES).read_text())["rules"]["wheat"]["rule"])
            assert isinstance(split, SplitRule)
            if seed == plan.seeds[0]:
                _, best = best_doses_kg_ha(scene.fields, dict(tested), split, params.prices)
            known_best = play.rows_of(
                scene, "hindsight", play.by_readings(fixed, scene, params.seed), params, seed=seed
            )
            parts.append(known_best.with_columns(profit_usd_ha=pl.Series(best)))
        return pl.concat(parts)

    yield _kept(folder / "rows/wheat-baselines.parquet", baselines)
    for seed in plan.seeds:
        bundle = make_seed(root, place, plan, fold, seed, (core,))

        def devices(bundle: Path = bundle, seed: int = seed) -> pl.DataFrame:
            scene = Scene("wheat", fields(tested, f"s{seed}-"), tested, params.sensors)
            return play.rows_of(scene, "device", play.by_device(bundle, scene, params.seed), params, seed=seed)

        yield _kept(folder / f"rows/wheat-device-{seed}.parquet", devices)


def unripe_seasons(params: Params, sites: dict[str, SiteWeather]) -> list[str]:
    """Seasons that end before wheat sown on the study's day is ripe, as ``site/season``: the weather alone decides."""
    known, tested = known_and_tested("wheat", params, sites)
    years, ranges = {**known, **tested}, params.fields.wheat
    fields = play.wheat_fields(years, ranges.season_days, ranges.soils[:1])
    nothing = np.zeros(len(fields))
    batch = open_batch(fields, years)
    while not batch.finished:
        batch.step(Decision(nothing, nothing))
    ripe = batch.harvest().matured
    return sorted({field.site for field, well in zip(fields, ripe, strict=True) if not well})


def _worker(job: tuple[Path, Path, Plan, int, int]) -> Path:
    root, place, plan, fold, core = job
    return one_fold(root, place, plan, fold, core) if fold >= 0 else across(root, place, core)


def study(root: Path, plan: Plan) -> Path:
    """All folds, as many at a time as there are cores; returns the folder with everything in it."""
    place = place_of(root, plan)
    began = time.monotonic()
    print(f"study in {place}", flush=True)
    make_common(root, place, plan)
    cores = sorted(os.sched_getaffinity(0))
    folds = [*range(plan.folds), -1]  # the last is no fold, but the project's own bundle
    jobs = [(root, place, plan, fold, cores[i % len(cores)]) for i, fold in enumerate(folds)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(len(cores), len(jobs)), initializer=end_with, initargs=(os.getpid(),)) as pool:
        found = pool.imap_unordered(_worker, jobs, chunksize=1)
        files = list(track(found, total=len(jobs), label="study: folds"))
    with replacing(place / "rows.parquet") as aside:
        pl.concat([pl.read_parquet(file) for file in sorted(files)], how="diagonal").write_parquet(aside)
    print(f"study: {time.monotonic() - began:.0f} s", flush=True)
    return place


def main() -> None:
    """Run by hand."""
    parser = argparse.ArgumentParser(prog="python -m tasks.study.run", description=study.__doc__)
    parser.add_argument("--folds", type=int, default=4, help="folds of seasons")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each fold")
    parser.add_argument("--to", type=Path, default=METRICS, help="where the figures go")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value of params to change")
    options = parser.parse_args()
    import yaml

    changes = tuple((key, yaml.safe_load(value)) for key, _, value in (word.partition("=") for word in options.set))
    from tasks.study.summary import summary

    root = Path.cwd()
    plan = Plan(options.folds, tuple(range(1, options.seeds + 1)), (*STANDARD, *changes))
    place = study(root, plan)
    params = load(place / "common/params.yaml")
    unripe = unripe_seasons(params, read_sites(params, place / "common/data/weather"))
    found = summary(pl.read_parquet(place / "rows.parquet"), root, plan, unripe)
    write_json(root / options.to, found)
    print(json.dumps({key: found[key] for key in ("irrigation", "nitrogen")}, indent=1)[:2000])
    print(f"study: written to {options.to}")


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("the study pins its workers to cores, which only Linux lets it")
    end_of_stage(main)
