"""What a season's run came to: its stages, and a short table of what the models gained and lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from tasks.registry.register import Registered


@dataclass(frozen=True)
class StageResult:
    """One stage of a run. ``status`` is ran, unchanged or failed; ``why`` it ran; ``seconds`` it took."""

    name: str
    status: str
    why: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class SeasonSummary:
    """A finished run; ``registered`` is None if registering was not asked for or there is no bundle."""

    stages: tuple[StageResult, ...]
    bundle: Path | None
    report: Path | None
    registered: Registered | None

    def named(self, status: str) -> tuple[str, ...]:
        """Names of the stages with this status."""
        return tuple(stage.name for stage in self.stages if stage.status == status)


def models_table(metrics: Path) -> Table | None:
    """Per model: metric, size and median latency, as trained and as shipped. None if there are no such metrics."""
    from rich import box
    from rich.table import Table

    table = Table("model", "metric", "trained → shipped", "size, kB", "p50, ms", "ships", box=box.SIMPLE)
    for column in table.columns[2:5]:
        column.justify = "right"
    for file in sorted((metrics / "compress").glob("*.json")):
        content = _read(file)
        shipped = str(content.get("shipped", ""))
        before, after = _section(content, "fp32"), _section(content, shipped)
        table.add_row(
            file.stem,
            str(content.get("metric_name", "")),
            _change(before, after, "metric"),
            _change(before, after, "size_bytes", 1e-3),
            _change(before, after, "latency_p50_ms"),
            shipped,
        )
    return table if table.row_count else None


def money_table(metrics: Path) -> Table | None:
    """Per crop: mean $/ha of each policy on the test seasons at home, best first, and what the device gains over it.

    None if ``evaluate.json`` holds no closed loop.
    """
    from rich import box
    from rich.table import Table

    table = Table("crop", "policy", "$/ha", "the device gains", box=box.SIMPLE)
    for column in table.columns[2:]:
        column.justify = "right"
    loops = _section(_read(metrics / "evaluate.json"), "closed_loop")
    for crop in loops:
        home = _section(_section(loops, crop), "home")
        money = {name: _number(row, "profit_usd_ha") for name, row in _sections(home, "policies")}
        gains = dict(_sections(home, "gain_usd_ha"))
        known = {name: mean for name, mean in money.items() if mean is not None}
        for name, mean in sorted(known.items(), key=lambda item: -item[1]):
            table.add_row(crop, name, f"{mean:.0f}", _gain(gains.get(name, {})))
    return table if table.row_count else None


def _gain(gain: Mapping[str, Any]) -> str:
    mean, error = _number(gain, "mean"), _number(gain, "standard_error")
    return "" if mean is None else f"{mean:+.0f}" + ("" if error is None else f" ± {error:.0f}")


def _sections(content: Mapping[str, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    inner = _section(content, key)
    yield from ((name, value) for name, value in inner.items() if isinstance(value, dict))


def _read(file: Path) -> Mapping[str, Any]:
    """A JSON object; empty if the file is missing or something else: the table is a view, the stages judge."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _section(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    inner = content.get(key)
    return inner if isinstance(inner, dict) else {}


def _number(content: Mapping[str, Any], key: str) -> float | None:
    value = content.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _change(before: Mapping[str, Any], after: Mapping[str, Any], key: str, factor: float = 1.0) -> str:
    numbers = [_number(content, key) for content in (before, after)]
    return " → ".join("–" if number is None else _three_digits(number * factor) for number in numbers)


def _three_digits(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
