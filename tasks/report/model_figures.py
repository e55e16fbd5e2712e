"""Figures of the models themselves: learning, size and latency against error, yield bands against truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tasks.evaluation.predictions import MID_SEASON_DAYS
from tasks.report import words
from tasks.report.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, RED, Figure, Kind, canvas, legend_below, svg

VARIANTS = {"fp32": (BLACK, "o"), "pruned": (GREEN, "^"), "int8": (BLUE, "s"), "control": (ORANGE, "D")}
VARIANT_WORDS = {"fp32": "trained", "pruned": "pruned", "int8": "int8", "control": "control"}
UNITS = {"1": "share of available water", "kg/ha": "kg/ha", "t/ha": "t/ha"}
_SAID: tuple[tuple[Kind, str], ...] = (
    ("observed", "weather"),
    ("simulated", "true yield and sensors"),
    ("modelled", "predicted yield"),
)


def learning(model: str, history: pl.DataFrame, trained: Mapping[str, Any]) -> Figure:
    """Losses by epoch."""
    epochs = history["epoch"].to_numpy()
    best = int(trained.get("best_epoch", epochs[int(np.argmin(history["validation_loss"].to_numpy()))]))
    with canvas(2.5) as (figure, (ax,)):
        ax.plot(epochs, history["train_loss"].to_numpy(), color=GREY, marker="o", label="training seasons")
        ax.plot(epochs, history["validation_loss"].to_numpy(), color=BLUE, marker="s", label="validation seasons")
        ax.axvline(best, color=BLACK, linestyle=":", linewidth=1.2)
        ax.set_title(model)
        ax.set_xlabel(f"epoch (dotted: {best}, the one kept)")
        ax.set_ylabel("pinball loss, scaled")
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(figure, ax)
    losses = history["validation_loss"].to_numpy()
    first, last = float(losses[0]), float(losses.min())
    return Figure(
        f"learning-{model}",
        svg(figure),
        f"Learning curve of {model}: validation loss from {first:.4g} to {last:.4g} at best over {len(epochs)} epochs.",
        f"{model.capitalize()}: loss while learning, in units of the target's scale. Validation seasons are left out "
        f"of training.",
        (("observed", "weather"), ("simulated", "crop and sensors"), ("modelled", "the net's estimates")),
    )


def frontier(model: str, figures: Mapping[str, Any], most_loss_frac: float) -> Figure:
    """Error against size and against latency of every file made."""
    with canvas(4.4, rows=2) as (figure, axes):
        for ax, key, factor, label in (
            (axes[0], "size_bytes", 1e-3, "size, kB"),
            (axes[1], "latency_p50_ms", 1.0, "latency, ms (median, one thread)"),
        ):
            _frontier_panel(ax, figures, key, factor, label)
            ax.axhline(
                figures["fp32"]["metric"] * (1 + most_loss_frac),
                color=GREY,
                linestyle="--",
                linewidth=1.2,
                label="most allowed",
            )
        _other_ratios(axes[0], figures)
        axes[0].set_title(f"{model}: lower left is better")
        legend_below(figure, axes[0], columns=3)
    return Figure(f"frontier-{model}", svg(figure), *_frontier_words(model, figures, most_loss_frac), _MEASURED)


_MEASURED: tuple[tuple[Kind, str], ...] = (
    ("measured", "size and latency"),
    ("simulated", "validation fields"),
    ("modelled", "estimates"),
)


def _frontier_panel(ax: Axes, figures: Mapping[str, Any], key: str, factor: float, label: str) -> None:
    values = []
    for name, (colour, marker) in VARIANTS.items():
        if name in figures:
            row = figures[name]
            values.append(row[key] * factor)
            size = 9.0 if name == figures["shipped"] else 6.5
            text = f"{VARIANT_WORDS[name]}{' (ships)' if name == figures['shipped'] else ''}"
            ax.plot(values[-1], row["metric"], marker, color=colour, markersize=size, label=text)
    ax.set_xlim(0, 1.1 * max(values))
    ax.margins(y=0.25)
    ax.set_xlabel(label)
    ax.set_ylabel(f"error, {_short(figures.get('unit', ''))}")


def _other_ratios(ax: Axes, figures: Mapping[str, Any]) -> None:
    """Files of the prune ratios that were tried and not taken: hollow, and not timed."""
    label = "other ratio tried"
    for rung in figures.get("frontier", []):
        if rung["prune_ratio"] == figures["prune_ratio"]:
            continue
        for name, (colour, marker) in VARIANTS.items():
            if name != "fp32" and f"{name}_size_bytes" in rung:
                error = figures["fp32"]["metric"] * (1 + rung[f"{name}_loss_frac"])
                size = rung[f"{name}_size_bytes"] * 1e-3
                ax.plot(size, error, marker, markerfacecolor="none", color=colour, markersize=6.5, label=label)
                label = "_again"


def _short(unit: str) -> str:
    return {"1": "share"}.get(unit, unit)


def _frontier_words(model: str, figures: Mapping[str, Any], most_loss_frac: float) -> tuple[str, str]:
    listed = "; ".join(
        f"{VARIANT_WORDS[name]} {figures[name]['metric']:.4g} at {figures[name]['size_bytes'] / 1e3:.1f} kB and "
        f"{figures[name]['latency_p50_ms']:.3f} ms"
        for name in VARIANTS
        if name in figures
    )
    unit = UNITS.get(figures.get("unit", ""), figures.get("unit", ""))
    return (
        f"Error of {model} ({figures['metric_name']} loss, {unit}) against size and latency: {listed}.",
        f"{model.capitalize()}: error ({figures['metric_name']} loss on validation seasons, {unit}) against file size "
        f"and latency. Dashed: {100 * most_loss_frac:g} % worse than the trained net, the most a smaller file may be. "
        "“Control” is onnxruntime’s own quantization. Hollow: other prune ratios, tried and not timed.",
    )


def mid_morning(crop: str) -> int:
    """The morning in the middle of mid-season, days after sowing (wheat: after emergence)."""
    return sum(MID_SEASON_DAYS[crop]) // 2


def yields(crop: str, rows: pl.DataFrame) -> Figure | None:
    """Predicted against true yield of each held-out field on one mid-season morning."""
    day = mid_morning(crop)
    here = rows.filter(pl.col("crop") == crop, pl.col("days_after_sowing") == day).sort("field_id")
    if here.is_empty():
        return None
    truth, low, mid, high = (here[name].to_numpy() for name in ("truth", "q10", "q50", "q90"))
    inside = (truth >= low) & (truth <= high)
    with canvas(3.5) as (figure, (ax,)):
        for mask, colour, marker, label in (
            (inside, BLUE, "o", "band holds truth"),
            (~inside, RED, "s", "band misses"),
        ):
            bars = np.maximum(0.0, np.stack([mid - low, high - mid]))[:, mask]
            ax.errorbar(
                truth[mask],
                mid[mask],
                yerr=bars,
                fmt=marker,
                color=colour,
                elinewidth=0.8,
                markersize=3.2,
                alpha=0.8,
                label=label,
            )
        ends = [min(truth.min(), low.min()), max(truth.max(), high.max())]
        ax.plot(ends, ends, color=BLACK, linewidth=1.0, linestyle="--", label="exact")
        ax.set_xlabel("true yield, t/ha")
        ax.set_ylabel("predicted, t/ha")
        ax.set_title(f"{crop}, morning {day}")
        legend_below(figure, ax)
    return Figure(
        f"yield-{crop}",
        svg(figure),
        f"Predicted against true yield of {here.height} held-out {crop} fields on morning {day}; the 10 to 90 % band "
        f"holds "
        f"{int(inside.sum())} of them.",
        f"{crop.capitalize()}: median and 10–90 % band on morning {day} {_since(crop)}, against the final yield of "
        f"{here.height} held-out fields; {int(inside.sum())} lie inside their band.",
        _SAID,
    )


def _since(crop: str) -> str:
    return "after sowing" if crop == "maize" else "after emergence"


def bands(crop: str, rows: pl.DataFrame, mid: Mapping[str, float] | None) -> Figure | None:
    """Width and coverage of the yield band through the season."""
    here = rows.filter(pl.col("crop") == crop)
    if here.is_empty():
        return None
    weekly = (
        here.with_columns(
            week=pl.col("days_after_sowing") // 7,
            held=(pl.col("truth") >= pl.col("q10")) & (pl.col("truth") <= pl.col("q90")),
        )
        .group_by("week")
        .agg(pl.col("held").mean(), width=(pl.col("q90") - pl.col("q10")).mean(), fields=pl.col("field_id").n_unique())
        .filter(pl.col("fields") >= 0.5 * here["field_id"].n_unique())
        .sort("week")
    )
    days = weekly["week"].to_numpy() * 7 + 3
    with canvas(3.5, rows=2) as (figure, axes):
        axes[0].plot(days, weekly["width"].to_numpy(), color=BLUE, label="device")
        axes[0].set_ylabel("band width, t/ha")
        axes[0].set_title(crop)
        axes[1].plot(days, 100 * weekly["held"].to_numpy(), color=BLUE)
        axes[1].axhspan(75, 85, color=GREY, alpha=0.3, linewidth=0)
        axes[1].set_ylim(0, 102)
        for ax in axes:
            ax.set_xlim(0, days[-1] + 4)
        axes[0].tick_params(labelbottom=False)
        axes[1].set_ylabel("truths inside, %")
        axes[1].set_xlabel(f"days {_since(crop)}")
        if mid:
            first, last = MID_SEASON_DAYS[crop]
            axes[0].plot(
                [first, last], [mid["climatology_width"]] * 2, color=RED, linestyle="--", label="past yields alone"
            )
            axes[1].plot([first, last], [100 * mid["climatology_coverage_frac"]] * 2, color=RED, linestyle="--")
        axes[0].set_ylim(0, 1.08 * axes[0].get_ylim()[1])
        legend_below(figure, axes[0])
    return Figure(
        f"bands-{crop}",
        svg(figure),
        f"Width of the 10 to 90 % yield band of {crop} through the season, from "
        f"{words.number(weekly['width'][0], 2)} to "
        f"{words.number(weekly['width'][-1], 2)} t/ha, and the share of truths inside it.",
        f"{crop.capitalize()}: how wide the yield band is through the season, and how many true yields it holds "
        f"(grey: 75–85 %). "
        "Dashed: the band of past yields alone, at mid-season.",
        _SAID,
    )
