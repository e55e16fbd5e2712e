"""Stage: the season's report, one self-contained HTML file for a grower's agronomist and an engineer.

``python -m tasks.report.build`` reads what the stages before it left and writes ``reports/<as_of>/index.html``:
no script, no link to elsewhere, the same bytes for the same inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from headland_edge.rules import DayCurveRule, FourStageRule
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks import params as params_module
from tasks.durable import write_text
from tasks.params import Params, ParamsError
from tasks.report import figures, model_figures, model_tables, study_section, tables, words
from tasks.report.inputs import Inputs, ReportError, gather
from tasks.report.section import Card, Section

PARAMS = (
    *("as_of", "test_seasons", "validation_every", "sites", "fields", "sensors"),
    *("prices", "models", "model", "compression"),
)
TEMPLATE = "template.html.j2"


def homes(inputs: Inputs) -> dict[str, dict[str, Any]]:
    """By crop, the closed loop where the crop was trained; crops without one are absent."""
    return {crop: found["home"] for crop, found in inputs.evaluation["closed_loop"].items() if "home" in found}


def absent(inputs: Inputs) -> list[str]:
    """Everything that the report should show and could not."""
    loops = inputs.evaluation["closed_loop"]
    missing = list(inputs.missing)
    missing += [f"closed loop of {crop}" for crop in ("maize", "wheat") if crop not in loops]
    for crop, found in loops.items():
        missing += [
            f"closed loop of {crop}: {words.scene(name)}" for name in ("home", "other_soil") if name not in found
        ]
        if not any(name.startswith("other_site/") for name in found):
            missing.append(f"closed loop of {crop}: another site")
    return missing + [
        f"scores of {model}" for model in inputs.params.models if model not in inputs.evaluation["models"]
    ]


def short(inputs: Inputs) -> Section:
    """What the season's models would have earned."""
    cards = []
    for crop, home in homes(inputs).items():
        strong = home["gain_usd_ha"].get(home["strong_baseline"])
        names = words.policies(crop, home["gain_usd_ha"])[::-1]
        points = [words.gain_sentence(crop, name, home["gain_usd_ha"][name]) for name in names]
        cards.append(
            Card(
                f"{crop.capitalize()}: {words.QUESTION.get(crop, 'advice')}",
                words.bottom_line(crop, home),
                words.headline(crop, home),
                [*points, words.fallback_sentence(home)],
                words.verdict(strong) if strong else "chance",
                tables.FARMED,
            )
        )
    asked = [model_tables.field_targets(inputs), model_tables.file_targets(inputs.compression)]
    return Section("short", "In short", _how(), cards=cards, tables=asked)


def _how() -> list[str]:
    return [
        "The bundle that ships was put into simulated fields, under weather that was really observed, in seasons no "
        "model and no rule "
        "had ever seen. Every morning it read the field’s noisy sensors and advised; the advice was followed. Each "
        "other way to farm "
        "had the same fields, the same weather and the same sensor errors. Differences are paired by season."
    ]


def money(inputs: Inputs) -> Section:
    """Closed loop, every season, every baseline, every scene."""
    groups, shown = [], []
    for crop, home in homes(inputs).items():
        drawn = [figures.gains(crop, home), figures.gain_by_season(crop, home), figures.money_by_season(crop, home)]
        groups.append([figure for figure in drawn if figure])
        shown += [
            tables.policies(crop, home),
            tables.by_season(crop, {"home": home}, f"{crop.capitalize()}: profit by season, USD/ha"),
        ]
    for crop, found in inputs.evaluation["closed_loop"].items():
        shown.append(tables.scenes(crop, found))
        if others := {name: value for name, value in found.items() if name != "home"}:
            shown.append(tables.by_season(crop, others, f"{crop.capitalize()} elsewhere: profit by season, USD/ha"))
    rivals = [words.RIVALS[crop] for crop in homes(inputs) if crop in words.RIVALS]
    return Section("money", "Money by season", points=rivals, figures=groups, tables=shown)


def water(inputs: Inputs) -> Section:
    """Water and nitrogen."""
    found = homes(inputs)
    drawn = [figures.use(crop, home) for crop, home in found.items()]
    points = [words.spared(crop, home) for crop, home in found.items()]
    return Section("water", "Water and nitrogen", points=points, figures=[drawn] if drawn else [])


def diary(inputs: Inputs) -> Section:
    """One field's season under the device, beside the strongest rule."""
    groups = []
    for crop in homes(inputs):
        entries = [_diary_entry(inputs, *key) for key in inputs.diaries if key[0] == crop]
        if entries:
            within = figures.limits(entries)
            groups.append([figures.diary(entry, within) for entry in entries])
    text = (
        "The same field, the same weather, the same sensor errors; only who decides differs. Dots are what the "
        "sensor said each morning "
        "(gaps are outages), the line is what was true and nobody on the field could know. Rain is as the field’s "
        "gauge read it."
    )
    if any(policy.advantage is not None for policy in inputs.bundle.manifest.policy.values()):
        text += (
            " Where the device gives water before its threshold or waits past it, its estimate, which is not drawn, or "
            "its advantage net had it so."
        )
    return Section("diary", "One field’s season", [text], figures=groups, tables=[tables.rules(inputs)])


def _diary_entry(inputs: Inputs, crop: str, policy: str) -> figures.Diary:
    rows = figures.one_field(inputs.diaries[crop, policy])
    rules = inputs.bundle.manifest.policy.get(crop)
    rule = rules and (rules.rule if policy == words.DEVICE else rules.sensor_rule)
    thresholds: tuple[float, ...] = ()
    if isinstance(rule, FourStageRule | DayCurveRule):
        thresholds = tuple(rule.threshold_frac(day) for day in rows["days_after_sowing"].to_list())
    return figures.Diary(crop, policy, rows, thresholds, _earned(inputs.closed_loop, policy, rows["field_id"][0]))


def _earned(rows: pl.DataFrame | None, policy: str, field_id: str) -> float | None:
    if rows is None:
        return None
    here = rows.filter(pl.col("scene") == "home", pl.col("policy") == policy, pl.col("field_id") == field_id)
    return float(here["profit_usd_ha"][0]) if here.height else None


def yields(inputs: Inputs) -> Section:
    """Yield quantiles against truth."""
    model = next((m for m, found in inputs.evaluation["models"].items() if found.get("mid_season")), None)
    if model is None:
        return Section("yield", "Yield forecast", ["No yield scores were found in this evaluation."])
    mid: Mapping[str, Any] = inputs.evaluation["models"][model]["mid_season"]
    groups = []
    if inputs.predictions is not None:
        rows = inputs.predictions.filter(pl.col("model") == model)
        for crop in mid:
            drawn = [model_figures.yields(crop, rows), model_figures.bands(crop, rows, mid[crop])]
            groups.append([figure for figure in drawn if figure])
    points = [words.coverage_sentence(crop, row) for crop, row in mid.items()]
    return Section(
        "yield",
        "Yield forecast",
        points=points,
        figures=groups,
        tables=[model_tables.mid_season(inputs.evaluation["models"][model])],
    )


def compression(inputs: Inputs) -> Section:
    """Before and after compression."""
    most = inputs.params.compression.max_metric_loss_frac
    drawn = [model_figures.frontier(model, found, most) for model, found in inputs.compression.items()]
    points = [words.shipped_sentence(model, found) for model, found in inputs.compression.items()]
    listed = [model_tables.compression(model, found) for model, found in inputs.compression.items()]
    listed.append(model_tables.frontier(inputs.compression))
    return Section("compression", "Smaller and faster", points=points, figures=[drawn], tables=listed)


def learning(inputs: Inputs) -> Section:
    """Learning curves."""
    drawn = [model_figures.learning(model, rows, inputs.training[model]) for model, rows in inputs.history.items()]
    points = [
        f"{model.capitalize()}: {found['parameters']} parameters, {found['training_windows']} windows of history to "
        f"learn from, "
        f"{found['validation_windows']} to be judged on; {found['epochs_run']} epochs run."
        for model, found in inputs.training.items()
    ]
    return Section("learning", "How the models learned", points=points, figures=[drawn] if drawn else [])


def knowledge(inputs: Inputs) -> Section:
    """Scores by season and soil."""
    text = (
        "How well each shipped model knew the field, on seasons it never saw. Units are in the column heads; "
        "smaller errors are better."
    )
    found = inputs.evaluation["models"].items()
    shown = [model_tables.knowledge(model, row, key) for model, row in found for key in ("by_season", "by_soil")]
    return Section("scores", "Scores by season and soil", [text], tables=shown)


def data(inputs: Inputs) -> Section:
    """Weather, seasons, sensors, prices."""
    text = (
        "Weather is observed. Crops are simulated: maize by AquaCrop, spring wheat by LINTUL3. What a device reads "
        "is simulated with the "
        "errors below. A site’s own years play the part of the reference site’s seasons."
    )
    shown = [
        tables.weather(inputs),
        tables.splits(inputs),
        tables.fields(inputs.params),
        tables.sensors(inputs.params),
        tables.prices(inputs.params),
    ]
    return Section("data", "Weather and seasons", [text], tables=shown)


def studied(inputs: Inputs) -> list[Section]:
    """The study, where one was made."""
    return [study_section.section(inputs.study)] if inputs.study else []


def closing(inputs: Inputs) -> list[Section]:
    """What to do next, and where it all comes from."""
    bundle = f"data/bundle/{inputs.bundle.path.name}"
    steps = words.next_steps(inputs.evaluation["closed_loop"], inputs.evaluation["models"])
    return [
        Section("next", "What to do next", points=steps, commands=words.commands(bundle)),
        Section("lineage", "Lineage", tables=[tables.lineage(inputs)]),
    ]


def render(inputs: Inputs) -> str:
    """The page."""
    manifest = inputs.bundle.manifest
    parts = (short, money, water, diary, yields, compression, learning, knowledge, data)
    nets = sum(policy.advantage is not None for policy in manifest.policy.values())
    return page(
        title=f"Headland: report for season {manifest.release.as_of}",
        lead=[
            f"Release {manifest.release.counter}: {len(manifest.models)} small models and {nets} advantage nets for a "
            f"device in the field, trained on seasons before {manifest.release.as_of} and tried on up to "
            f"{inputs.params.test_seasons} seasons from "
            f"{manifest.release.as_of} on "
            f"(or the years that play their part at other sites). Bundle {inputs.bundle.sha256[:12]}."
        ],
        missing=absent(inputs),
        sections=[*(part(inputs) for part in parts), *studied(inputs), *closing(inputs)],
    )


def page(title: str, lead: list[str], missing: list[str], sections: list[Section]) -> str:
    """A self-contained page of sections."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(title=title, lead=lead, missing=missing, sections=sections)


def build(root: Path, params: Params) -> Path:
    """Write the report of the project in ``root``; returns the page's path.

    Raises:
        ReportError: a required input is absent or damaged; names it.
    """
    target = root / "reports" / str(params.as_of) / "index.html"
    write_text(target, render(gather(root, params)))
    return target


def main() -> int:
    """Run the stage in the current folder; 0 done, 1 an input is missing or damaged."""
    try:
        target = build(Path(), params_module.load())
    except (ParamsError, ReportError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"report: {target}, {target.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
