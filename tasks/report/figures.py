"""Figures of what happened in the fields: money, water and nitrogen, and one field's diary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from tasks.report import words
from tasks.report.drawing import BLACK, BLUE, GREY, RED, SKY, Figure, Kind, canvas, legend_below, look, svg

SOURCES: tuple[tuple[Kind, str], ...] = (
    ("observed", "weather"),
    ("simulated", "crop and sensors"),
    ("modelled", "the device's advice"),
)


def gains(crop: str, home: Mapping[str, Any]) -> Figure:
    """Mean gain of the device over each baseline with its interval."""
    names = words.policies(crop, home["gain_usd_ha"])
    found = [home["gain_usd_ha"][name] for name in names]
    with canvas(0.75 + 0.55 * len(names)) as (figure, (ax,)):
        at = np.arange(len(names))[::-1]
        ax.axvline(0.0, color=BLACK, linewidth=1.0)
        for y, name, gain in zip(at, names, found, strict=True):
            colour, marker = look(name)
            ax.plot([gain["low_95"], gain["high_95"]], [y, y], color=colour, linewidth=2.2)
            ax.plot(gain["mean"], y, marker, color=colour, markersize=6.5)
            said = f"over {words.policy(crop, name)}: {words.signed(gain['mean'])} ({words.interval(gain)})"
            ax.annotate(said, (0.0, y + 0.36), xycoords=("axes fraction", "data"), va="center", bbox=_CLEAR)
        ax.set_ylim(-0.5, len(names) - 0.3)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("device earns less  ←  USD/ha a season  →  more")
    seasons = len(home["profit_usd_ha_by_season"])
    listed = "; ".join(
        f"over {words.policy(crop, n)} {words.signed(g['mean'])} ({words.interval(g)})"
        for n, g in zip(names, found, strict=True)
    )
    return Figure(
        f"gains-{crop}",
        svg(figure),
        f"Gain of the device in {crop}, USD per hectare and season, with 95 % intervals: {listed}.",
        f"{crop.capitalize()}: what following the device earned over each other way to farm, mean of {seasons} "
        f"held-out seasons. "
        "Bars are 95 % intervals over seasons; a bar across the line means chance could explain it.",
        SOURCES,
    )


_CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


def money_by_season(crop: str, home: Mapping[str, Any]) -> Figure:
    """Profit of every policy in every season."""
    seasons = _seasons(home)
    names = words.policies(crop, home["policies"])
    with canvas(3.6) as (figure, (ax,)):
        for name in names:
            colour, marker = look(name)
            values = [home["profit_usd_ha_by_season"][year].get(name, np.nan) for year in seasons]
            thick = 2.2 if name == words.DEVICE else 1.2
            ax.plot(
                range(len(seasons)),
                values,
                marker=marker,
                color=colour,
                linewidth=thick,
                label=words.policy(crop, name),
            )
        _season_axis(ax, seasons)
        ax.set_ylabel("profit, USD/ha")
        legend_below(figure, ax)
    means = "; ".join(f"{words.policy(crop, n)} {words.number(home['policies'][n]['profit_usd_ha'])}" for n in names)
    return Figure(
        f"money-{crop}",
        svg(figure),
        f"Profit of {crop} in each held-out season for each way to farm. Means in USD per hectare: {means}.",
        f"{crop.capitalize()}: profit in every held-out season, mean of the same fields for every way to farm.",
        SOURCES,
    )


def gain_by_season(crop: str, home: Mapping[str, Any]) -> Figure | None:
    """Device less the strongest rule, season by season, with mean and interval."""
    strong, seasons = home["strong_baseline"], _seasons(home)
    gain = home["gain_usd_ha"].get(strong)
    if gain is None:
        return None
    by_season = home["profit_usd_ha_by_season"]
    values = np.array([by_season[year][words.DEVICE] - by_season[year][strong] for year in seasons])
    with canvas(2.7) as (figure, (ax,)):
        colours = [BLUE if value >= 0 else RED for value in values]
        ax.bar(range(len(seasons)), values, color=colours, width=0.7)
        ax.axhspan(gain["low_95"], gain["high_95"], color=GREY, alpha=0.25, linewidth=0, label="95 % interval")
        ax.axhline(gain["mean"], color=BLACK, linestyle="--", linewidth=1.2, label=f"mean {words.signed(gain['mean'])}")
        ax.axhline(0.0, color=BLACK, linewidth=0.8)
        _season_axis(ax, seasons)
        ax.set_ylabel("gain, USD/ha")
        legend_below(figure, ax)
    name = words.policy(crop, strong)
    each = ", ".join(f"{year} {words.signed(float(value), 0)}" for year, value in zip(seasons, values, strict=True))
    return Figure(
        f"gain-by-season-{crop}",
        svg(figure),
        f"Gain of the device over the {name} in each season, USD per hectare: {each}.",
        f"{crop.capitalize()}: the device against the {name}, its strongest rival, season by season. "
        "Blue: the device earned more; red: less.",
        SOURCES,
    )


def _seasons(home: Mapping[str, Any]) -> list[str]:
    return sorted(home["profit_usd_ha_by_season"], key=int)


def _season_axis(ax: Axes, seasons: Sequence[str]) -> None:
    ax.set_xticks(range(len(seasons)), [f"’{year[-2:]}" for year in seasons])
    ax.grid(axis="x", visible=False)
    ax.set_xlabel(f"season, {seasons[0]} to {seasons[-1]}")


def use(crop: str, home: Mapping[str, Any]) -> Figure:
    """What each policy put on the field, and what it harvested."""
    column, unit, what = (
        ("irrigation_mm", "mm", "irrigation") if crop == "maize" else ("nitrogen_kg_ha", "kg/ha", "nitrogen")
    )
    names = words.policies(crop, home["policies"])[::-1]
    with canvas(0.9 + 0.3 * len(names), columns=2) as (figure, axes):
        for ax, key, label, digits in (
            (axes[0], column, f"{what}, {unit}", 0),
            (axes[1], "yield_t_ha", "grain, t/ha", 1),
        ):
            values = [home["policies"][name][key] for name in names]
            ax.barh(range(len(names)), values, color=[look(name)[0] for name in names], height=0.65)
            top = max(values) or 1.0
            for y, value in enumerate(values):
                ax.text(value + 0.03 * top, y, words.number(value, digits), va="center")
            ax.set_xlim(0, 1.38 * top)
            ax.set_xlabel(label)
            ax.grid(axis="y", visible=False)
            ax.locator_params(axis="x", nbins=3)
            ax.set_yticks(range(len(names)), [words.policy(crop, name) for name in names])
            ax.tick_params(labelleft=ax is axes[0])
    listed = "; ".join(
        f"{words.policy(crop, n)} {words.number(home['policies'][n][column])} {unit} for "
        f"{words.number(home['policies'][n]['yield_t_ha'], 2)} t/ha"
        for n in names[::-1]
    )
    return Figure(
        f"use-{crop}",
        svg(figure),
        f"{what.capitalize()} and grain of {crop} by way to farm: {listed}.",
        f"{crop.capitalize()}: {what} given and grain harvested, means per season over the held-out seasons.",
        SOURCES,
    )


_EPOCH = date(1970, 1, 1).toordinal()
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Diary(NamedTuple):
    """One field's season under one policy."""

    crop: str
    policy: str
    rows: pl.DataFrame
    """Daily rows of the field, mornings in order."""
    thresholds: tuple[float, ...]
    """Of the rule acting there: depletion above which it irrigates, one a row; empty for wheat."""
    profit_usd_ha: float | None


def one_field(rows: pl.DataFrame) -> pl.DataFrame:
    """The first field's rows of a diary, with the day's own dose beside yesterday's total.

    Row k holds what was applied on the day before; what was advised that morning stands in row k + 1.
    """
    first = rows["field_id"].sort()[0]
    here = rows.filter(pl.col("field_id") == first).sort("days_after_sowing")
    return here.with_columns(
        given_mm=pl.col("irrigation_mm").shift(-1).fill_null(0.0),
        given_kg_ha=pl.col("nitrogen_kg_ha").shift(-1).fill_null(0.0),
    )


class _Shown(NamedTuple):
    """What differs between the crops in a diary."""

    state: str
    factor: float
    label: str
    dose: str
    dose_label: str


_SHOWN = {
    "maize": _Shown("depletion_frac", 100.0, "depletion, %\nwet ← → dry", "given_mm", "irrigation,\nmm"),
    "wheat": _Shown("soil_mineral_n_kg_ha", 1.0, "mineral N in\nsoil, kg/ha", "given_kg_ha", "nitrogen,\nkg/ha"),
}


def limits(diaries: Sequence[Diary]) -> list[tuple[float, float]]:
    """Lowest and highest value of each panel over diaries that stand side by side, so that eyes may compare them."""
    shown = _SHOWN[diaries[0].crop]
    columns = (("rain_mm",), (shown.state, f"truth_{shown.state}"), (shown.dose,))
    found = []
    for factor, names in zip((1.0, shown.factor, 1.0), columns, strict=True):
        values = np.concatenate(
            [d.rows[name].drop_nulls().to_numpy() * factor for d in diaries for name in names] + [[0.0, 1.0]]
        )
        if names[0] == shown.state:
            values = np.concatenate([values, *(np.array(d.thresholds) * factor for d in diaries)])
        room = 0.06 * (values.max() - values.min())
        found.append((values.min() - (room if values.min() < 0 else 0.0), values.max() + room))
    return found


def diary(entry: Diary, within: list[tuple[float, float]]) -> Figure:
    """Rain, the state of the soil as it was and as it was sensed, and what was given."""
    rows, shown = entry.rows, _SHOWN[entry.crop]
    days = np.array([day.toordinal() - _EPOCH for day in rows["date"]], dtype=np.float64)
    colour = look(entry.policy)[0]
    with canvas(4.6, rows=3, height_ratios=[1, 2.2, 1]) as (figure, axes):
        axes[0].bar(days - 1, rows["rain_mm"].fill_null(0.0).to_numpy(), color=SKY, width=1.0)
        axes[0].set_ylabel("rain,\nmm")
        axes[0].set_title(words.policy(entry.crop, entry.policy))
        _state_panel(axes[1], entry, days, shown)
        axes[2].bar(days, rows[shown.dose].to_numpy(), color=colour, width=1.6)
        axes[2].set_ylabel(shown.dose_label)
        _date_axes(axes, rows["date"].to_list())
        for ax, (low, high) in zip(axes, within, strict=True):
            ax.set_ylim(low, high)
        figure.align_ylabels(axes)
        legend_below(figure, axes[1], columns=3)
    return Figure(f"diary-{entry.crop}-{entry.policy}", svg(figure), *_diary_words(entry), SOURCES)


def _date_axes(axes: Sequence[Axes], days: Sequence[date]) -> None:
    """The same days along each panel, named under the last."""
    months = [day for day in days if day.day == 1]
    for ax in axes:
        ax.set_xlim(days[0].toordinal() - _EPOCH - 3, days[-1].toordinal() - _EPOCH + 3)
        ax.set_xticks([day.toordinal() - _EPOCH for day in months], [f"1 {MONTHS[day.month - 1]}" for day in months])
        ax.tick_params(labelbottom=ax is axes[-1])


def _state_panel(ax: Axes, entry: Diary, days: np.ndarray, shown: _Shown) -> None:
    ax.plot(days, entry.rows[f"truth_{shown.state}"].to_numpy() * shown.factor, color=BLACK, label="true")
    sensed = entry.rows[shown.state].to_numpy() * shown.factor
    ax.plot(days, sensed, ".", color=look(entry.policy)[0], markersize=3.5, label="sensed")
    if entry.thresholds:
        limit = np.array(entry.thresholds)
        ax.step(days, limit * shown.factor, where="mid", color=GREY, linestyle="--", linewidth=1.3, label="threshold")
    ax.set_ylabel(shown.label)


def _diary_words(entry: Diary) -> tuple[str, str]:
    """Alternative text and caption."""
    rows, who = entry.rows, words.policy(entry.crop, entry.policy)
    first, given = rows.row(0, named=True), rows[_SHOWN[entry.crop].dose].to_numpy()
    unit, what, began = ("mm", "irrigation", "sown") if entry.crop == "maize" else ("kg N/ha", "nitrogen", "emerged")
    doses = int((given > 0).sum())
    total = f"{words.number(float(given.sum()))} {unit} in {doses} dose{'' if doses == 1 else 's'}"
    place = f"{entry.crop} at {first['site'].capitalize()} {first['season']}, {words.soil(first['soil'])}"
    place = f"{place}, {began} {first['sowing_date']}"
    money = "" if entry.profit_usd_ha is None else f", profit {words.number(entry.profit_usd_ha)} USD/ha"
    harvest = f"{words.number(first['truth_yield_t_ha'], 2)} t/ha"
    alt = (
        f"Diary of one field of {place}, farmed by the {who}: rain, {_STATE_WORDS[entry.crop]} true and sensed, and "
        f"{what} day by day."
    )
    caption = f"One field’s season under the {who}: {place}. It gave {total} and harvested {harvest}{money}."
    return alt, caption


_STATE_WORDS = {"maize": "root-zone depletion", "wheat": "mineral nitrogen in the soil"}
