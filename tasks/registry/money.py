"""What a candidate's advice is worth, before any device acts on it: seasons farmed in closed loop by the bundle itself.

A model can be as right as the champion's and its advice worse, and a first release has no champion to be compared with.
So the candidate farms the validation seasons through the device package, and so do the champion and the strongest rule
there is without a model, on the same fields with the same sensor errors. Validation seasons taught no model; how far an
advantage net is believed was chosen on them.

Weather is observed; crops and sensors are simulated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
from headland_edge.bundle import open_bundle
from joblib import Parallel, delayed

from tasks.advantage.worlds import seasons_of
from tasks.crops.interface import CROPS, Crop
from tasks.evaluation.arena import DEVICE, STRONG, Arena, play
from tasks.evaluation.closed_loop import groups_of
from tasks.params import Params
from tasks.sources.daily import SiteWeather

CHAMPION, RULE = "champion", "rule"


class MoneyError(Exception):
    """Nobody can say what the advice earns; the message says why and what to do."""


def earned_usd_ha(
    candidate: Path, champion: Path | None, params: Params, sites: Mapping[str, SiteWeather]
) -> dict[str, dict[str, float]]:
    """Mean profit by crop and who decides: ``device`` (the candidate), ``rule`` and, if there is one, ``champion``.

    Every season counts alike. A field that is not ripe at the end under any of them counts for none.

    Args:
        candidate: a bundle.
        champion: another.
        params: seasons, fields, sensors and prices; ``gate.fields_per_season`` fields in each season.
        sites: weather.

    Raises:
        MoneyError: a crop has no validation season, or not one ripe field.
    """
    found: dict[str, dict[str, float]] = {}
    for crop in (each for each in CROPS if each in open_bundle(candidate).manifest.policy):
        played = pl.concat([*_played(crop, candidate, champion, params, sites)])
        unripe = played.filter("cut_off")["field_id"].unique()
        ripe = played.filter(~pl.col("field_id").is_in(unripe.implode()))
        if ripe.is_empty():
            raise MoneyError(f"{crop}: not one field was ripe at the end; raise fields.{crop}.season_days")
        by_season = ripe.group_by("policy", "site", "season").agg(pl.col("profit_usd_ha").mean())
        means = by_season.group_by("policy").agg(pl.col("profit_usd_ha").mean())
        found[crop] = {policy: round(money, 2) for policy, money in sorted(means.iter_rows())}
    return found


def reasons(earned: Mapping[str, Mapping[str, float]], max_worse_usd_ha: float) -> list[str]:
    """Why the candidate may not be published, in sentences: whom it stays behind, and by how much."""
    told = []
    for crop, money in earned.items():
        for name, words in ((RULE, "the tuned rule without a model"), (CHAMPION, "the champion")):
            behind = money[name] - money[DEVICE] if name in money else 0.0
            if not behind <= max_worse_usd_ha:
                told.append(
                    f"{crop}: the candidate's advice earns {behind:.0f} USD/ha less than {words} on validation "
                    f"seasons, at most {max_worse_usd_ha:g} are allowed (gate.max_worse_usd_ha)"
                )
    return told


def _played(
    crop: Crop, candidate: Path, champion: Path | None, params: Params, sites: Mapping[str, SiteWeather]
) -> Iterator[pl.DataFrame]:
    """One row a field and decider; see ``tasks.evaluation.arena.play``."""
    jobs = []
    deciders = [(DEVICE, candidate, DEVICE), (RULE, candidate, STRONG[crop])]
    if champion is not None and crop in open_bundle(champion).manifest.policy:
        deciders.append((CHAMPION, champion, DEVICE))
    for name, (_, seasons) in seasons_of(crop, params, sites).items():
        weather = {f"{name}/{season}": sites[name].season_weather(season) for season in seasons}
        for fields in groups_of(crop, name, seasons, params.gate.fields_per_season, params):
            for said, bundle, policy in deciders:
                arena = Arena(bundle, open_bundle(bundle).manifest.policy, params, weather)
                jobs.append((said, delayed(play)(policy, fields, arena)))
    if not jobs:
        raise MoneyError(f"{crop}: no site has a validation season; lower validation_every, or add weather")
    results = Parallel(n_jobs=-1)(job for _, job in jobs)
    for (said, _), (rows, _) in zip(jobs, results, strict=True):
        yield rows.with_columns(policy=pl.lit(said))
