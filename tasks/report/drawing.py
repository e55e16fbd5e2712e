"""How every figure looks, and how it becomes part of the page.

Figures are 3.5 inches wide, the width of a phone, so that their 9 point letters are 9 points there; on a wide
screen they stand side by side. Letters are drawn as paths: no font is needed, and the bytes are the same each time.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

Kind = Literal["observed", "simulated", "modelled", "measured"]

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (  # Okabe and Ito 2008
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#767676"
# Colour and marker: never colour alone.
LOOK: dict[str, tuple[str, str]] = {
    "device": (BLUE, "o"),
    "tuned_day_curve": (RED, "s"),
    "tuned_threshold": (PINK, "P"),
    "tuned_soil_test": (RED, "s"),
    "threshold_70pct": (GREEN, "^"),
    "best_fixed": (GREEN, "^"),
    "weekly_25mm": (ORANGE, "D"),
    "rainfed": (GREY, "v"),
    "zero": (GREY, "v"),
}
WIDTH_IN = 3.5
_SVG_DPI = 72
STYLE: Any = {
    "svg.hashsalt": "headland",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.0,
    "legend.borderaxespad": 0.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "timezone": "UTC",
}


@dataclass(frozen=True)
class Figure:
    """A figure with its words."""

    name: str
    """For anchors and tests."""
    svg: bytes = field(repr=False)
    alt: str
    """What it shows, for those who cannot see it."""
    caption: str
    tags: tuple[tuple[Kind, str], ...]
    """Which parts are observed, simulated, modelled or measured."""

    @property
    def uri(self) -> str:
        """The figure as a data URI."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@contextmanager
def canvas(height_in: float, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple[Canvas, list[Axes]]]:
    """An empty figure in the report's style and its axes, row by row; drawing happens inside the ``with``."""
    with mpl.rc_context(STYLE):
        figure = Canvas(figsize=(WIDTH_IN, height_in), dpi=_SVG_DPI, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
        yield figure, list(np.ravel(axes))


def svg(figure: Canvas) -> bytes:
    """The figure's bytes, without date and without the drawing program's version."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        _settle(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _settle(figure: Canvas) -> None:
    """Lay the figure out and round the places of its axes: the solver's last digits differ from run to run."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:
        left, bottom, width, height = (round(float(value), 5) for value in ax.get_position().bounds)
        ax.set_position((left, bottom, width, height))


def look(policy: str) -> tuple[str, str]:
    """Colour and marker of a policy."""
    return LOOK.get(policy, (PINK, "P"))


def legend_below(figure: Canvas, ax: Axes, columns: int = 2) -> None:
    """A legend under the whole figure, where it covers nothing."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
