"""Tables of the models: files before and after compression, scores, and what was asked for and reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tasks.report import words
from tasks.report.drawing import Kind
from tasks.report.inputs import Inputs
from tasks.report.model_figures import UNITS, VARIANTS
from tasks.report.tables import Table

MEASURED: tuple[tuple[Kind, str], ...] = (("measured", "sizes, latency, kernels"), ("simulated", "validation fields"))
_FLOAT_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv")
_INTEGER_CONVOLUTIONS = ("QLinearConv", "ConvInteger")


def compression(model: str, figures: Mapping[str, Any]) -> Table:
    """Every file of one model."""
    unit, trained = UNITS.get(figures.get("unit", ""), figures.get("unit", "")), figures["fp32"]
    rows: list[tuple[str, ...]] = []
    strong: set[int] = set()
    for name in VARIANTS:
        if name not in figures:
            continue
        row = figures[name]
        if name == figures["shipped"]:
            strong.add(len(rows))
        rows.append(
            (
                {"fp32": "trained (fp32)", "control": "control (onnxruntime)"}.get(name, name),
                f"{row['metric']:.4g}",
                f"{words.signed(100 * (row['metric'] / trained['metric'] - 1), 2)} %",
                words.number(row["size_bytes"] / 1e3, 1),
                words.number(trained["size_bytes"] / row["size_bytes"], 1),
                words.number(row["latency_p50_ms"], 3),
                words.number(row["latency_p99_ms"], 3),
                words.number(trained["latency_p50_ms"] / row["latency_p50_ms"], 1),
                str(row["parameters"]),
                ", ".join(f"{count} {kind}" for kind, count in sorted(row["kernels"].items())),
            )
        )
    header = (
        "file", f"error ({figures['metric_name']}, {unit})", "change", "size, kB", "times smaller", "p50, ms",
        "p99, ms", "times faster", "parameters", "kernels that run",
    )  # fmt: skip
    return Table(
        f"{model.capitalize()} before and after compression (bold: ships)",
        header,
        tuple(rows),
        MEASURED,
        frozenset(strong),
        frozenset({0, 9}),
    )


def frontier(compression: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every prune ratio tried, with the size and the error of each file made from it."""
    rows: list[tuple[str, ...]] = []
    taken: set[int] = set()
    for model, figures in compression.items():
        for rung in figures.get("frontier", []):
            if rung["prune_ratio"] == figures["prune_ratio"]:
                taken.add(len(rows))
            pairs = [
                (f"{rung[f'{name}_size_bytes'] / 1e3:.1f}", f"{words.signed(100 * rung[f'{name}_loss_frac'], 2)} %")
                for name in ("pruned", "int8", "control")
            ]
            rows.append(
                (model, f"{rung['prune_ratio']:g}", str(rung["parameters"]), *(cell for pair in pairs for cell in pair))
            )
    header = ("model", "channels pruned, share", "parameters")
    files = tuple(f"{name}, {what}" for name in ("pruned", "int8", "control") for what in ("kB", "error"))
    title = "Prune ratios tried, error against the trained net (bold: taken)"
    return Table(title, (*header, *files), tuple(rows), MEASURED, frozenset(taken))


def knowledge(model: str, found: Mapping[str, Any], key: str) -> Table:
    """Scores of one model by season or by soil."""
    unit = UNITS.get(found["unit"], found["unit"])
    entries = [("all", found), *found[key].items()]
    rows = tuple(
        (
            words.soil(name) if key == "by_soil" or name == "all" else name.capitalize(),
            str(row["mornings"]),
            f"{row['pinball']:.4f}",
            f"{row['mae']:.3f}",
            words.number(100 * row["coverage_frac"], 1),
            f"{row['width']:.3f}",
        )
        for name, row in entries
    )
    what = "site and season" if key == "by_season" else "soil"
    return Table(
        f"{model.capitalize()} by {what}, held-out seasons ({found['target']}, {unit})",
        (
            what,
            "mornings",
            f"pinball loss, {unit}",
            f"error of the median, {unit}",
            "truths in band, %",
            f"band width, {unit}",
        ),
        rows,
        (("observed", "weather"), ("simulated", "truth and sensors"), ("modelled", "estimates")),
        frozenset({0}),
    )


def mid_season(found: Mapping[str, Any]) -> Table:
    """Yield bands at mid-season beside climatology's."""
    rows = []
    for crop, row in found["mid_season"].items():
        for name, prefix in (("device", ""), ("past yields alone", "climatology_")):
            share, width, loss = (row[f"{prefix}{key}"] for key in ("coverage_frac", "width", "pinball"))
            rows.append((crop, name, words.number(100 * share, 1), words.number(width, 2), words.number(loss, 3)))
    return Table(
        "Yield bands at mid-season, every morning of it, held-out seasons",
        ("crop", "said by", "truths in band, %", "band width, t/ha", "pinball loss, t/ha"),
        tuple(rows),
        (("observed", "weather"), ("simulated", "truth and sensors"), ("modelled", "bands")),
        text_columns=frozenset({0, 1}),
    )


def field_targets(inputs: Inputs) -> Table:
    """What was asked for in the field and what was found."""
    rows = list(_field_targets(inputs.evaluation))
    return Table(
        "In the field: asked for and reached",
        ("what", "asked", "found", ""),
        tuple((what, asked, found, mark(good)) for what, asked, found, good in rows),
        (("observed", "weather"), ("simulated", "crop and sensors"), ("modelled", "estimates and advice")),
        frozenset(i for i, row in enumerate(rows) if not row[3]),
        frozenset(range(4)),
    )


def file_targets(compression: Mapping[str, Mapping[str, Any]]) -> Table:
    """What was asked of the compressed files and what was found, a column for each model."""
    columns = [list(_file_targets(figures)) for figures in compression.values()]
    rows = tuple(
        (cells[0][0], cells[0][1], *(f"{found} {mark(good)}" for _, _, found, good in cells))
        for cells in zip(*columns, strict=True)
    )
    bold = frozenset(i for i, cells in enumerate(zip(*columns, strict=True)) if not all(cell[3] for cell in cells))
    header = ("what", "asked", *compression)
    return Table("In the files: asked for and reached", header, rows, MEASURED, bold, frozenset({0, 1}))


def mark(good: bool) -> str:
    """Reached or not."""
    return "✓" if good else "✗ missed"


Target = tuple[str, str, str, bool]


def _field_targets(evaluation: Mapping[str, Any]) -> Iterable[Target]:
    for crop, found in evaluation["closed_loop"].items():
        home = found.get("home", {})
        gain = home.get("gain_usd_ha", {}).get(home.get("strong_baseline"))
        if gain:
            said = f"{words.signed(gain['mean'])} USD/ha ({words.interval(gain)})"
            what = f"{crop}: device against {words.rival(crop, home['strong_baseline'])}"
            yield what, "no worse beyond chance", said, words.verdict(gain) != "less"
    for found in evaluation["models"].values():
        parts = found.get("mid_season", {})
        every = {"all crops": found["mid_season_all"]} if len(parts) > 1 and "mid_season_all" in found else {}
        for crop, mid in (every | parts).items():
            share = mid["coverage_frac"]
            yield (
                f"{crop}: true yields in the mid-season band",
                "75 to 85 %",
                f"{words.number(100 * share, 1)} %",
                0.75 <= share <= 0.85,
            )
        for crop, mid in parts.items():
            width, past = mid["width"], mid["climatology_width"]
            said = f"{words.number(width, 2)} against {words.number(past, 2)} t/ha"
            yield f"{crop}: width of that band", "narrower than past yields", said, width < past


def _file_targets(figures: Mapping[str, Any]) -> Iterable[Target]:
    trained, pruned, small, shipped = (figures[key] for key in ("fp32", "pruned", "int8", figures["shipped"]))
    for what, before, after, size, speed in (
        ("int8 against fp32, the pruned net", pruned, small, 3.0, 2.5),
        ("shipped against the trained net", trained, shipped, 6.0, 5.0),
    ):
        smaller, faster = before["size_bytes"] / after["size_bytes"], before["latency_p50_ms"] / after["latency_p50_ms"]
        yield f"{what}: times smaller", f"{size:g}", words.number(smaller, 3), smaller >= size
        yield f"{what}: times faster", f"{speed:g}", words.number(faster, 3), faster >= speed
    ratios = figures.get("ratios", {})
    if "trained_int8_faster" in ratios:
        what = "int8 against fp32, the trained net, not pruned"
        for key, asked in (("smaller", 3.0), ("faster", 2.5)):
            times = ratios[f"trained_int8_{key}"]
            yield f"{what}: times {key}", f"{asked:g}", words.number(times, 3), times >= asked
    loss = shipped["metric"] / trained["metric"] - 1
    yield "error added by compression", "at most 1 %", f"{words.signed(100 * loss, 2)} %", loss <= 0.01
    floats = sum(shipped["kernels"].get(kind, 0) for kind in _FLOAT_CONVOLUTIONS)
    whole = sum(shipped["kernels"].get(kind, 0) for kind in _INTEGER_CONVOLUTIONS)
    yield (
        "shipped convolutions on integer kernels",
        "all but one",
        f"{whole} of {whole + floats}",
        whole > 0 and floats <= 1,
    )
