"""The page of seasons in a row: money, releases and bytes of a fleet that really ran, season by season."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tasks.durable import write_text
from tasks.report import words
from tasks.report.build import page
from tasks.report.drawing import BLUE, GREY, ORANGE, Figure, Kind, canvas, legend_below, look, svg
from tasks.report.section import Section
from tasks.report.tables import Table

_STRONG = {"maize": "tuned_day_curve", "wheat": "tuned_soil_test"}
_FARMED: tuple[tuple[Kind, str], ...] = (
    ("observed", "weather"),
    ("simulated", "crops and sensors"),
    ("measured", "advice of real device processes"),
)
_SENT: tuple[tuple[Kind, str], ...] = (("measured", "bytes of messages"), ("simulated", "what they tell of"))
_RAN: tuple[tuple[Kind, str], ...] = (("measured", "releases and rollouts"),)
History = Sequence[dict[str, Any]]


def write_page(folder: Path, history: History) -> Path:
    """Write ``index.html`` into ``folder``; returns its path.

    Args:
        folder: made if need be.
        history: seasons as ``tasks.fleet.season_loop.season`` returns them, at least one.
    """
    target = folder / "index.html"
    write_text(target, render(history))
    return target


def render(history: History) -> str:
    """The page's text."""
    first, last = history[0]["as_of"], history[-1]["as_of"]
    devices = len(history[-1]["rollout"]["running"])
    return page(
        title=f"Headland: seasons {first} to {last} of a fleet",
        lead=[
            f"{devices} device processes lived through {len(history)} seasons. Before each, the models were trained "
            "again, judged, signed and rolled out in waves; during it the devices advised without a network; after it "
            "they sent what their byte budget allows, and the next training learned from it."
        ],
        missing=[],
        sections=[_money(history), _sync(history), _releases(history)],
    )


def _crops(history: History) -> list[str]:
    return sorted({each["crop"] for season in history for each in season["played"]})


def _name(crop: str, policy: str) -> str:
    return words.POLICIES[crop][policy]


def _of(history: History, crop: str) -> list[tuple[int, dict[str, Any]]]:
    return [(season["as_of"], each) for season in history for each in season["played"] if each["crop"] == crop]


def _money(history: History) -> Section:
    points = []
    for crop in _crops(history):
        gains = np.array([np.mean(each["gain_usd_ha"]) for _, each in _of(history, crop)])
        error = f" ± {gains.std(ddof=1) / np.sqrt(len(gains)):.1f}" if len(gains) > 1 else ""
        points.append(
            f"{crop.capitalize()}: the devices earned {gains.mean():+.1f}{error} USD/ha against "
            f"{_name(crop, _STRONG[crop])} on the same fields (mean and standard error over {len(gains)} seasons)."
        )
    return Section(
        "money",
        "Money by season",
        ["Every fourth field lies on a soil that no training field had."],
        points=points,
        figures=[[_money_figure(history, crop) for crop in _crops(history)]],
        tables=[_money_table(history)],
    )


def _years(ax: Axes) -> None:
    """Whole years, written out, few enough to be read side by side."""
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    ax.ticklabel_format(axis="x", useOffset=False)


def _money_figure(history: History, crop: str) -> Figure:
    found = _of(history, crop)
    years = [as_of for as_of, _ in found]
    with canvas(2.8) as (figure, (ax,)):
        for policy in ("device", _STRONG[crop]):
            colour, marker = look(policy)
            money = [each["profit_usd_ha"][policy] for _, each in found]
            ax.plot(years, money, color=colour, marker=marker, label=_name(crop, policy))
        ax.set_title(crop)
        ax.set_xlabel("season")
        ax.set_ylabel("profit, USD/ha")
        _years(ax)
        legend_below(figure, ax)
    return Figure(
        f"money-{crop}",
        svg(figure),
        f"Profit of {crop} by season: devices and {_name(crop, _STRONG[crop])}.",
        f"{crop.capitalize()}: mean profit of the fleet’s fields in each season.",
        _FARMED,
    )


def _money_table(history: History) -> Table:
    rows = []
    for season in history:
        for each in season["played"]:
            strong = _STRONG[each["crop"]]
            gains = np.array(each["gain_usd_ha"])
            rows.append(
                (
                    str(season["as_of"]),
                    f"{each['crop']} ({each['season']})",
                    str(each["fields"]),
                    f"{each['profit_usd_ha']['device']:.0f}",
                    f"{each['profit_usd_ha'][strong]:.0f}",
                    f"{gains.mean():+.1f}",
                    f"{each['irrigation_mm']['device']:.0f}",
                    f"{each['nitrogen_kg_ha']['device']:.0f}",
                    str(each["refused"]),
                )
            )
    header = ("season", "crop (weather of)", "fields", "device, USD/ha", "tuned rule, USD/ha", "gain, USD/ha")
    more = ("irrigation, mm", "nitrogen, kg/ha", "mornings refused")
    return Table("Every season", (*header, *more), tuple(rows), _FARMED, text_columns=frozenset({0, 1}))


def _sync(history: History) -> Section:
    rows = []
    for season in history:
        everything = sum(each["everything_bytes"] for each in season["played"])
        sent = season["sync"]["bytes"].get("record", 0)
        rows.append(
            (
                str(season["as_of"]),
                f"{everything / 1000:.0f}",
                f"{sent / 1000:.0f}",
                f"{sent / everything:.1%}" if everything else "-",
                str(season["sync"]["messages"].get("record", 0)),
                f"{(season['sync']['bytes'].get('advice', 0)) / 1000:.0f}",
                str(season["sync"]["events"].get("drift", 0)),
                str(season["sync"]["rows"]),
            )
        )
    header = ("season", "all records, kB", "records sent, kB", "share", "messages", "advice, kB", "drift events")
    table = Table("What was sent", (*header, "mornings in the data"), tuple(rows), _SENT)
    text = (
        "A device chooses at the end of its season. A tenth of what it sends is drawn by a hash, whatever it says: the "
        "honest control."
    )
    measured = [(season["as_of"], season["sync"]["worth"]) for season in history if season["sync"].get("worth")]
    if not measured:
        return Section("sync", "What came back", [text], figures=[[_bytes_figure(history)]], tables=[table])
    how = (
        "What the records are worth is measured in each season: the yield net learns from them for a short time and is "
        "judged by its pinball loss on the next season’s fields, which nobody has farmed yet. The same net learns from "
        "every record, and from a random draw of as many bytes as were sent."
    )
    return Section(
        "sync",
        "What came back",
        [text, how],
        points=_worth_points(measured),
        figures=[[_bytes_figure(history), _worth_figure(measured)]],
        tables=[table, _worth_table(measured)],
    )


_Worth = Sequence[tuple[int, dict[str, Any]]]
_TAUGHT: tuple[tuple[Kind, str], ...] = (
    ("observed", "weather"),
    ("simulated", "fields of both seasons"),
    ("measured", "what devices sent, bytes and losses"),
)
_CHOICES = (("sent", "what devices sent", BLUE, "o"), ("random", "random, as many bytes", ORANGE, "s"))


def _worth_points(measured: _Worth) -> list[str]:
    points = []
    for name, words_of_it in (("everything", "every record"), ("random", "a random draw of as many bytes")):
        losses = np.array([_less(worth, "sent", name) for _, worth in measured])
        error = f" ± {100 * losses.std(ddof=1) / np.sqrt(len(losses)):.2f}" if len(losses) > 1 else ""
        points.append(
            f"With what devices sent, the next season’s loss is {100 * losses.mean():+.2f}{error} % against that with "
            f"{words_of_it} (mean and standard error over {len(losses)} seasons; below 0 is better)."
        )
    return points


def _less(worth: dict[str, Any], choice: str, other: str) -> float:
    """Loss with one choice less that with another, as a share of that with every record."""
    loss = worth["loss_t_ha"]
    return float((loss[choice] - loss[other]) / loss["everything"])


def _worth_figure(measured: _Worth) -> Figure:
    years = [as_of for as_of, _ in measured]
    with canvas(2.6) as (figure, (ax,)):
        ax.axhline(0.0, color=GREY, linewidth=1.0, label="every record")
        for choice, name, colour, marker in _CHOICES:
            losses = [100 * _less(worth, choice, "everything") for _, worth in measured]
            ax.plot(years, losses, color=colour, marker=marker, label=name)
        ax.set_xlabel("season")
        ax.set_ylabel("difference in loss, %")
        _years(ax)
        legend_below(figure, ax)
    return Figure(
        "worth",
        svg(figure),
        "Loss of the next season’s yield estimates with what devices sent and with a random draw, against all records.",
        "Loss on the next season’s fields, against that of a net taught by every record. Lower is better.",
        _TAUGHT,
    )


def _worth_table(measured: _Worth) -> Table:
    rows = []
    for as_of, worth in measured:
        loss, size = worth["loss_t_ha"], worth["bytes"]
        rows.append(
            (
                str(as_of),
                f"{loss['nothing']:.4f}",
                f"{loss['everything']:.4f}",
                f"{loss['sent']:.4f}",
                f"{loss['random']:.4f}",
                f"{100 * worth['sent_less_random_frac']:+.2f} ± {100 * worth['sent_less_random_frac_se']:.2f}",
                f"{size['sent'] / 1000:.1f}",
                f"{size['random'] / 1000:.1f}",
            )
        )
    header = ("season", "no record, t/ha", "every record, t/ha", "sent, t/ha", "random, t/ha")
    more = ("sent less random, % (± over draws)", "sent, kB", "random, kB")
    return Table("Pinball loss on the next season’s fields", (*header, *more), tuple(rows), _TAUGHT)


def _bytes_figure(history: History) -> Figure:
    everything = [sum(each["everything_bytes"] for each in season["played"]) / 1000 for season in history]
    sent = [season["sync"]["bytes"].get("record", 0) / 1000 for season in history]
    return Figure(
        "bytes",
        _kilobytes(history, ("all records", GREY, everything), ("records sent", BLUE, sent)),
        f"Bytes of records sent, {sum(sent):.0f} kB, against all records, {sum(everything):.0f} kB.",
        "Bytes of record messages, before they are packed, against those of all records in the same form.",
        _SENT,
    )


def _kilobytes(history: History, *series: tuple[str, str, list[float]]) -> bytes:
    """Bars of name, colour and kB by season, each before those that came first."""
    with canvas(2.6) as (figure, (ax,)):
        for name, colour, values in series:
            ax.bar([season["as_of"] for season in history], values, color=colour, label=name)
        ax.set_xlabel("season")
        ax.set_ylabel("kB")
        _years(ax)
        legend_below(figure, ax)
    return svg(figure)


def _releases(history: History) -> Section:
    rows = []
    for season in history:
        release, rollout = season["release"], season["rollout"]
        patch = release["patch_bytes"]
        runs = [counter for counter in rollout["running"] if counter is not None]
        rows.append(
            (
                str(season["as_of"]),
                str(release["counter"]),
                season["commit"][:10],
                rollout["status"],
                f"{sum(counter == release['counter'] for counter in runs)} of {len(rollout['running'])}",
                str(season["sync"]["events"].get("rolled_back", 0)),
                str(season["sync"]["events"].get("refused", 0)),
                f"{release['bytes'] / 1000:.0f}",
                f"{patch / 1000:.0f}" if patch else "-",
                f"{patch / release['bytes']:.0%}" if patch else "-",
            )
        )
    header = ("season", "release", "commit", "rollout", "devices on it", "rollbacks", "refusals")
    table = Table(
        "Releases",
        (*header, "bundle, kB", "patch, kB", "share"),
        tuple(rows),
        _RAN,
        text_columns=frozenset({0, 1, 2, 3}),
    )
    return Section("releases", "Releases", figures=[[_release_figure(history)]], tables=[table])


def _release_figure(history: History) -> Figure:
    whole = [season["release"]["bytes"] / 1000 for season in history]
    patch = [(season["release"]["patch_bytes"] or season["release"]["bytes"]) / 1000 for season in history]
    return Figure(
        "updates",
        _kilobytes(history, ("whole bundle", GREY, whole), ("what a device fetches", ORANGE, patch)),
        "Size of each season's bundle and of the patch that devices fetched.",
        "Size of each release, and of the patch by which a device gets it from the release before.",
        _RAN,
    )
