"""The study in the report: what the pipeline's bundles earned over every season there is, fold by fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.report.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, Figure, canvas, legend_below, svg
from tasks.report.figures import SOURCES
from tasks.report.section import Section
from tasks.report.tables import Table
from tasks.report.words import number, signed

_NAMES = {
    "four_stage/readings": "four stages, raw readings",
    "four_stage/estimates": "four stages, the net's estimate",
    "day_curve/readings": "day curve, raw readings",
    "day_curve/estimates": "day curve, the net's estimate",
    "own_rule/estimates": "the bundle's own rule, the net's estimate",
    "best_fixed": "best fixed doses",
    "soil_test": "soil-test rule",
    "device": "device",
    "hindsight": "hindsight (a bound found by search)",
}
_HEADLINE = "four_stage/estimates"
_OWN = "own_rule/estimates"
"""The bundle's own rule is no rival but a part of the device: what is won over it is the net's."""
_SHOWN_USD_HA = 100.0
"""Figures of gains reach this far; what lies beyond is told in words."""


def section(study: Mapping[str, Any]) -> Section:
    """Words, figures and tables of ``metrics/study.json``."""
    maize, wheat = study["irrigation"], study["nitrogen"]
    return Section(
        "study",
        "The study: every season, left out in turn",
        paragraphs=[_grower(maize, wheat), _made(study)],
        points=[*_maize_points(maize), *_wheat_points(wheat), _limits()],
        figures=[
            [_by_season(maize), _gains("study-soils", "soil", "for that soil alone", maize["soils"])],
            [_elsewhere(maize), _nitrogen(wheat)],
        ],
        tables=[
            _means("Maize on the standard field, all folds", maize["mean_usd_ha"], maize["gains"], maize["water_mm"]),
            _means(
                "The same where a season may have 150 mm", maize["limit_150_mm"]["mean_usd_ha"],
                maize["limit_150_mm"]["gains"], {},
            ),
            _means("Wheat, rain-fed, all folds", wheat["mean_usd_ha"], wheat["gains"], wheat["nitrogen_kg_ha"]),
        ],
    )  # fmt: skip


def _grower(maize: Mapping[str, Any], wheat: Mapping[str, Any]) -> str:
    rivals = [name for name in maize["gains"] if name != _OWN]
    best = max(rivals, key=lambda name: float(maize["mean_usd_ha"][name]))
    gain = maize["gains"][best]
    won, error = wheat["gain_over_soil_test_usd_ha"], wheat["gain_over_soil_test_usd_ha_se"]
    closed = f"{wheat['gap_closed_frac']:.0%}".replace("%", " %")
    return (
        "In plain words: a grower of maize who followed the device instead of the best of the rules tuned for the "
        f"field ({_NAMES[best]}) would have had {signed(gain['mean'])} USD a hectare and season, give or take "
        f"{2 * gain['se']:.0f}; in the worst season, {gain['worst_season']}, {signed(gain['worst_usd_ha'])}. A grower "
        f"of wheat would have had {signed(won)} USD over a good soil-test rule, give or take {2 * error:.0f}: {closed} "
        "of what could be won over fixed doses at all."
    )


def _made(study: Mapping[str, Any]) -> str:
    return (
        f"Seasons are dealt to {study['folds']} folds. On all but one the whole pipeline is run, rules, nets, int8, "
        "and its bundle farms the fold left out through the device package; advantage nets are learned anew with "
        f"{len(study['seeds'])} seeds. Baselines are tuned on the same seasons for the same fields, the bundle's own "
        "rule for fields like them, by the pipeline's own search. Differences are paired by season. Made by "
        f"“{study['command']}” at commit {study['commit'][:12]}."
    )


def _maize_points(maize: Mapping[str, Any]) -> list[str]:
    cap, gap, own = maize["limit_150_mm"], maize["share_of_gap_to_hindsight"], maize["gains"][_OWN]
    return [
        f"Maize, standard field: {signed(maize['gain_over_four_stage_usd_ha'])} ± "
        f"{maize['gain_over_four_stage_usd_ha_se']:.1f} USD/ha over four tuned stages and "
        f"{signed(maize['gain_over_day_curve_usd_ha'])} ± {maize['gain_over_day_curve_usd_ha_se']:.1f} over a tuned "
        f"day curve, both on the same estimate; {maize['usd_ha_2009_2018']:.0f} USD/ha in 2009 to 2018; "
        f"{gap['mean']:.0%} of the way to hindsight.".replace("%", " %"),
        f"The net's part of it, over the bundle's own rule: {signed(own['mean'])} ± {own['se']:.1f} USD/ha.",
        f"Where a season may have 150 mm only: {signed(cap['gain_over_best_rule_usd_ha'])} ± "
        f"{cap['gain_over_best_rule_usd_ha_se']:.1f} USD/ha over the best rule tuned for that limit.",
    ]


def _wheat_points(wheat: Mapping[str, Any]) -> list[str]:
    won, error = wheat["gain_over_soil_test_usd_ha"], wheat["gain_over_soil_test_usd_ha_se"]
    given = {name: number(wheat["nitrogen_kg_ha"][name]) for name in ("device", "soil_test")}
    closed = f"{wheat['gap_closed_frac']:.0%} ± {wheat['gap_closed_frac_se']:.0%}".replace("%", " %")
    return [
        f"Wheat: {signed(won)} ± {error:.1f} USD/ha over the tuned soil-test rule; {closed} of the gap from best fixed "
        f"doses to hindsight; {given['device']} kg N/ha against {given['soil_test']}.",
    ]


def _limits() -> str:
    return (
        "Limits: two settings (fields that rules are tuned on, reach of wheat's net) were chosen with a look at some "
        "of these seasons, so gains are a little too good. Crops and sensors are simulated, prices are fixed, every "
        "field is one point without pests, hail or uneven ground, and what a rule and a net are compared in is the "
        "simulator they were both made in. Soils, starting water, noise and sites are farmed by this project's own "
        "bundle on its ten test seasons."
    )


def _by_season(maize: Mapping[str, Any]) -> Figure:
    table = maize["by_season_usd_ha"]
    years = sorted(table, key=int)
    with canvas(2.9) as (figure, (ax,)):
        at = [int(year) for year in years]
        ax.axhline(0.0, color=BLACK, linewidth=1.0)
        for name, colour, marker in ((_HEADLINE, BLUE, "o"), ("day_curve/estimates", ORANGE, "s")):
            won = [table[year]["device"] - table[year][name] for year in years]
            ax.plot(at, won, marker, color=colour, label=f"over {_NAMES[name].partition(',')[0]}")
        ax.set_xlabel("season")
        ax.set_ylabel("device's gain, USD/ha")
        legend_below(figure, ax)
    gain = maize["gains"][_HEADLINE]
    return Figure(
        "study-seasons",
        svg(figure),
        f"Gain of the device in maize by season, mean {signed(gain['mean'])} USD/ha over four tuned stages.",
        f"Maize, standard field: the device's gain in each of {len(years)} seasons, every one farmed by a bundle that "
        "never saw it. Above the line the device earned more.",
        SOURCES,
    )


def _gains(name: str, what: str, tuned: str, found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Gain over the four stages tuned for each value of something, with two standard errors."""
    names = list(found)
    with canvas(0.9 + 0.24 * len(names)) as (figure, (ax,)):
        at = np.arange(len(names))[::-1]
        ax.axvline(0.0, color=BLACK, linewidth=1.0)
        for kind, colour, marker, shift in (("readings", GREY, "^", 0.14), ("estimates", BLUE, "o", -0.14)):
            _dots(ax, at + shift, [found[each][kind] for each in names], colour, marker, kind)
        ax.set_yticks(at, names)
        ax.set_xlim(-_SHOWN_USD_HA, _SHOWN_USD_HA)
        ax.set_xlabel("device's gain, USD/ha")
        legend_below(figure, ax)
    beyond = [
        f"{each}, {kind}: {signed(gain['mean'])} ± {gain['se']:.0f}"
        for each in names
        for kind in ("readings", "estimates")
        if abs((gain := found[each][kind])["mean"]) > _SHOWN_USD_HA
    ]
    outside = f" Beyond the edge: {'; '.join(beyond)}." if beyond else ""
    return Figure(
        name,
        svg(figure),
        f"Gain of the device by {what}: "
        + "; ".join(f"{each} {signed(found[each]['estimates']['mean'])}" for each in names),
        f"Maize: the project's bundle by {what} against four stages tuned {tuned}, on raw readings and "
        f"on the net's estimate; bars are two standard errors over its seasons.{outside}",
        SOURCES,
    )


def _dots(ax: Any, at: Any, gains: Sequence[Mapping[str, Any]], colour: str, marker: str, label: str) -> None:
    mean, error = (np.array([gain[key] for gain in gains]) for key in ("mean", "se"))
    ax.errorbar(mean, at, xerr=2 * error, fmt=marker, color=colour, elinewidth=1.2, markersize=4.5, label=label)


def _elsewhere(maize: Mapping[str, Any]) -> Figure:
    rows = {f"start {float(key):.0%} water".replace("%", " %"): value for key, value in maize["starting_water"].items()}
    rows |= {f"sensor noise {key}": _by_kind(value) for key, value in maize["noise"].items()}
    rows |= {f"site {key}": _by_kind(value) for key, value in maize["unseen_sites"].items()}
    tuned = "for that starting water, for noise and sites those of the standard field"
    return _gains("study-elsewhere", "place and condition", tuned, rows)


def _by_kind(found: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: found[f"four_stage/{kind}"] for kind in ("readings", "estimates")}


def _nitrogen(wheat: Mapping[str, Any]) -> Figure:
    table = wheat["by_season_usd_ha"]
    years = sorted(table, key=int)
    with canvas(2.9) as (figure, (ax,)):
        ax.axhline(0.0, color=BLACK, linewidth=1.0)
        looks = (("hindsight", GREY, "_"), ("soil_test", GREEN, "^"), ("device", BLUE, "o"))
        for name, colour, marker in looks:
            won = [table[year][name] - table[year]["best_fixed"] for year in years]
            ax.plot([int(year) for year in years], won, marker, color=colour, label=_NAMES[name].partition(" (")[0])
        ax.set_xlabel("season")
        ax.set_ylabel("gain over best fixed doses, USD/ha")
        legend_below(figure, ax, 3)
    return Figure(
        "study-nitrogen",
        svg(figure),
        f"Gain over best fixed nitrogen doses by season; the device closes {wheat['gap_closed_frac']:.0%} of the gap.",
        f"Wheat: what the soil-test rule, the device and hindsight earn over best fixed doses in {len(years)} seasons.",
        SOURCES,
    )


def _means(
    caption: str, means: Mapping[str, float], gains: Mapping[str, Mapping[str, Any]], used: Mapping[str, float]
) -> Table:
    rows = []
    for name in sorted(means, key=lambda each: means[each]):
        gain = gains.get(name)
        told = (signed(gain["mean"]), f"± {gain['se']:.1f}", signed(gain["worst_usd_ha"])) if gain else ("", "", "")
        amount = number(used[name]) if name in used else ""
        rows.append((_NAMES.get(name, name), number(means[name]), amount, *told))
    header = ("who decides", "USD/ha", "water mm or N kg/ha", "device's gain, USD/ha", "standard error", "worst season")
    at = [row[0] for row in rows].index("device")
    return Table(caption, header, tuple(rows), SOURCES, frozenset({at}))
