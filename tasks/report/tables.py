"""Tables of the report, as rows of text: every number formatted once, every column with its unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headland_edge.advantage import Belief
from headland_edge.rules import DayCurveRule, FourStageRule, Rule

from tasks.params import Params
from tasks.report import words
from tasks.report.drawing import Kind
from tasks.report.inputs import Inputs

FARMED: tuple[tuple[Kind, str], ...] = (
    ("observed", "weather"),
    ("simulated", "crop and sensors"),
    ("modelled", "the device's advice"),
)


@dataclass(frozen=True)
class Table:
    """A table with its words."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    tags: tuple[tuple[Kind, str], ...] = ()
    strong: frozenset[int] = frozenset()
    """Rows that stand out."""
    text_columns: frozenset[int] = frozenset({0})
    """Columns of words; the others are numbers and stand to the right."""


def policies(crop: str, home: Mapping[str, Any]) -> Table:
    """Means of each policy, and the device's gain over it."""
    rows: list[tuple[str, ...]] = []
    names = words.policies(crop, home["policies"])
    for name in names:
        row, gain = home["policies"][name], home["gain_usd_ha"].get(name)
        compared = (
            (words.signed(gain["mean"]), words.interval(gain), words.verdict_words(gain)) if gain else ("", "", "")
        )
        amounts = (
            words.number(row["profit_usd_ha"]),
            words.number(row["yield_t_ha"], 2),
            words.number(row["irrigation_mm"]),
            words.number(row["nitrogen_kg_ha"]),
        )
        rows.append((words.policy(crop, name), *amounts, *compared))
    return Table(
        f"{crop.capitalize()}: every way to farm, means over the held-out seasons where it was trained",
        (
            "way to farm",
            "profit, USD/ha",
            "grain, t/ha",
            "water, mm",
            "nitrogen, kg/ha",
            "device earns more by, USD/ha",
            "95 % interval",
            "so the device",
        ),
        tuple(rows),
        FARMED,
        frozenset({len(rows) - 1}),
        frozenset({0, 7}),
    )


def by_season(crop: str, scenes: Mapping[str, Any], title: str) -> Table:
    """Profit of every policy in every season of ``scenes``."""
    names = words.policies(crop, {name for found in scenes.values() for name in found["policies"]})
    several = len(scenes) > 1 or "home" not in scenes
    rows: list[tuple[str, ...]] = []
    for scene in words.scenes(scenes):
        found = scenes[scene]
        for year in sorted(found["profit_usd_ha_by_season"], key=int):
            money = found["profit_usd_ha_by_season"][year]
            cells = [words.number(money[name]) if name in money else "" for name in names]
            strong = found["strong_baseline"]
            gain = words.signed(money[words.DEVICE] - money[strong]) if strong in money else ""
            rows.append((*((words.scene_short(scene),) if several else ()), year, *cells, gain))
    header = (
        *(("scene",) if several else ()),
        "season",
        *(words.policy(crop, n) for n in names),
        "device − strongest rule",
    )
    return Table(title, header, tuple(rows), FARMED, text_columns=frozenset({0, 1} if several else {0}))


def scenes(crop: str, found: Mapping[str, Any]) -> Table:
    """The device against every baseline in every scene."""
    rows: list[tuple[str, ...]] = []
    strong: set[int] = set()
    for name in words.scenes(found):
        scene = found[name]
        for baseline in words.policies(crop, scene["gain_usd_ha"]):
            gain = scene["gain_usd_ha"][baseline]
            if baseline == scene["strong_baseline"]:
                strong.add(len(rows))
            rows.append(
                (
                    words.scene_short(name),
                    words.policy(crop, baseline),
                    str(gain["seasons"]),
                    str(scene["fields"]) + (f" ({len(cut)} not ripe)" if (cut := scene.get("cut_off_fields")) else ""),
                    words.number(scene["policies"][words.DEVICE]["profit_usd_ha"]),
                    words.signed(gain["mean"]),
                    words.interval(gain),
                    words.verdict_words(gain),
                )
            )
    return Table(
        f"{crop.capitalize()}: the device over each other way to farm, here and elsewhere (bold: the strongest rule)",
        (
            "scene",
            "compared with",
            "seasons",
            "field seasons",
            "device, USD/ha",
            "gain, USD/ha",
            "95 % interval",
            "so the device",
        ),
        tuple(rows),
        FARMED,
        frozenset(strong),
        frozenset({0, 1, 7}),
    )


def weather(inputs: Inputs) -> Table:
    """What each site's weather is."""
    rows = tuple(
        (
            name.capitalize(),
            f"{card['first']} to {card['last']}",
            str(card["days"]),
            str(card["missing_days"]),
            str(sum(card["rejected"].values())),
            ", ".join(card["observed"]),
            "; ".join(f"{column} on {row['days']} days ({row['by']})" for column, row in card["modelled"].items())
            or "nothing",
            f"{card['source']} ({card['licence']})",
        )
        for name, card in inputs.cards.items()
    )
    header = (
        "site",
        "span",
        "days",
        "days missing",
        "rows set aside",
        "observed",
        "modelled where not observed",
        "source",
    )
    return Table(
        "Weather",
        header,
        rows,
        (("observed", "stations"), ("modelled", "gaps, by FAO-56")),
        text_columns=frozenset({0, 1, 5, 6, 7}),
    )


def splits(inputs: Inputs) -> Table:
    """Which seasons were used for what, by site and crop."""
    rows = []
    for name, site in inputs.params.sites.items():
        for crop in (*site.crops, *site.held_out_crops):
            ranges = inputs.params.fields.of(crop)
            split = inputs.params.split(name, inputs.sites[name].seasons(ranges.sowing_day[1] + ranges.season_days))
            learned = crop in site.crops
            rows.append(
                (
                    name.capitalize(),
                    crop,
                    str(inputs.params.season_of(name)),
                    words.year_ranges(split.train) if learned else "none: never trained on",
                    words.year_ranges(split.validation) if learned else "none",
                    words.year_ranges(split.test),
                )
            )
    return Table(
        "Seasons: no season is in two columns, and none from the prepared one on reached training",
        ("site", "crop", "season prepared", "trained", "validated", "tested"),
        tuple(rows),
        (("observed", "weather"), ("simulated", "crop and sensors")),
        text_columns=frozenset(range(6)),
    )


def fields(params: Params) -> Table:
    """What the simulated fields are like."""
    rows: list[tuple[str, ...]] = []
    for crop, found in (("maize", params.fields.maize), ("wheat", params.fields.wheat)):
        water, sown = (f"{found.initial_water_frac[i]:g}" for i in (0, 1)), found.sowing_day
        cells = (str(found.per_season), ", ".join(map(words.soil, found.soils)), words.soil(found.held_out_soil))
        days = (f"{sown[0]} to {sown[1]}", str(found.season_days))
        rows.append((crop, *cells, " to ".join(water), *days, *(_range(getattr(found, name)) for name in _NITROGEN)))
    header = (
        "crop", "fields a season", "soils", "soil held out", "water at sowing, share", "sowing, day of year",
        "longest season, days", "mineral N at start, kg/ha", "mineralised, kg/ha a day",
    )  # fmt: skip
    text = frozenset({0, 2, 3})
    return Table("Fields past seasons were made of", header, tuple(rows), (("simulated", "fields"),), text_columns=text)


_NITROGEN = ("mineral_n_kg_ha", "mineralisation_kg_ha_d")


def _range(values: tuple[float, float]) -> str:
    return f"{values[0]:g} to {values[1]:g}" if any(values) else ""


def sensors(params: Params) -> Table:
    """Errors the simulated sensors make."""
    rows = []
    for name in type(params.sensors).model_fields:
        if name == "dropout":
            continue
        sensor = params.sensors.of("tmin_c" if name == "temperature_c" else name)
        unit = "share" if sensor.relative or name == "depletion_frac" else {"temperature_c": "°C"}.get(name, "kg/ha")
        rows.append((name, f"{sensor.noise:g} {unit}", f"{sensor.drift_per_day:g} {unit}", f"{sensor.survey_error:g}"))
    out = params.sensors.dropout
    return Table(
        f"Sensor errors, standard deviations. Outages start on {100 * out.starts_per_day:g} % of days and last "
        f"{out.mean_days:g} days on average",
        ("reading", "noise of a reading", "drift a day", "fixed error of a field, share"),
        tuple(rows),
        (("simulated", "sensors"),),
        text_columns=frozenset({0}),
    )


def prices(params: Params) -> Table:
    """Money."""
    unit = {"t": "USD/t", "mm": "USD/ha per mm", "kg": "USD/kg", "ha": "USD/ha"}
    rows = tuple(
        (name.partition("_usd")[0].replace("_", " "), f"{value:g}", unit[name.rpartition("_")[2]])
        for name, value in params.prices.model_dump().items()
    )
    return Table(
        "Prices, the same in every season", ("what", "price", "unit"), rows, (), text_columns=frozenset({0, 2})
    )


def lineage(inputs: Inputs) -> Table:
    """Where the bundle comes from."""
    manifest, bundle = inputs.bundle.manifest, inputs.bundle
    plain = dict(manifest.lineage)
    versions = plain.pop("data_versions", {})
    rows = [
        ("release", f"{manifest.release.counter}, prepared for season {manifest.release.as_of}"),
        ("bundle", bundle.path.name),
        ("SHA-256 of the bundle", bundle.sha256),
        ("models", ", ".join(f"{name} ({model.kind})" for name, model in manifest.models.items())),
        *((name.replace("_", " "), str(value)) for name, value in plain.items()),
    ]
    if isinstance(versions, Mapping):
        rows += [(f"data: {path}", str(version)) for path, version in sorted(versions.items())]
    return Table("This bundle", ("what", "which"), tuple(rows), (), text_columns=frozenset({0, 1}))


def rules(inputs: Inputs) -> Table:
    """The tuned rules that travel in the bundle."""
    rows = []
    for crop, found in inputs.bundle.manifest.policy.items():
        for name, label in _RULE_WORDS.items():
            rule: Rule | None = getattr(found, name)
            earned = inputs.training_usd_ha.get(crop, {}).get(name)
            if rule is not None:
                rows.append((crop, label, _rule_text(rule), "" if earned is None else words.number(earned, 1)))
        if found.advantage is not None:
            rows.append((crop, "device, where a net finds more", _belief_text(crop, found.advantage.belief), ""))
    return Table(
        "Rules in the bundle, tuned on training seasons, and where the device departs from its own",
        ("crop", "rule", "what it does", "mean there, USD/ha"),
        tuple(rows),
        (("observed", "weather"), ("simulated", "crop and sensors")),
        text_columns=frozenset({0, 1, 2}),
    )


_RULE_WORDS = {
    "rule": "device, on the model's estimate",
    "sensor_rule": "strongest rule, on raw readings",
    "fixed_rule": "plain rule, for comparison",
}


def _belief_text(crop: str, belief: Belief) -> str:
    doses = ", ".join(f"{dose:g}" for dose in belief.doses)
    if crop == "maize":
        unit, past, before = "mm", f"{100 * belief.reach:.0f}", f"{50 * belief.reach:.0f}"
        bound = f"less only up to {past} points of depletion past the threshold, more only from {before} before it"
    else:
        unit, bound = "kg N/ha", f"at most {belief.reach:g} kg N/ha from the rule's"
    return f"{doses} {unit} instead, if worth more than {belief.margin_usd_ha:g} USD/ha to the season; {bound}"


def _rule_text(rule: Rule) -> str:
    if isinstance(rule, FourStageRule):
        stages = zip(rule.thresholds_frac, rule.stage_end_days, strict=True)
        said = ", ".join(f"{100 * share:.0f} % to day {end}" for share, end in stages)
        amounts = f"{rule.min_irrigation_mm:g} to {rule.max_irrigation_mm:g} mm"
        return f"irrigate above a depletion of {said}; {amounts} at a time"
    if isinstance(rule, DayCurveRule):
        knots = zip(rule.thresholds_frac, rule.knot_days, strict=True)
        said = ", ".join(f"{100 * share:.0f} % on day {day}" for share, day in knots)
        amounts = f"{rule.min_irrigation_mm:g} to {rule.max_irrigation_mm:g} mm"
        return (
            f"irrigate above a depletion of {said}, straight between; {100 * rule.refill_frac:.0f} % of it, {amounts}"
        )
    first, *later = rule.split_gdd
    when = [f"day {first:g}", *(f"{gdd:g} °C d" for gdd in later)]
    doses = [
        f"{at}: {base:.0f}" + (f" − {slope:.2f} × supply" if slope else "")
        for at, base, slope in zip(when, rule.base_kg_ha, rule.slope, strict=True)
    ]
    return "; ".join(doses) + f" kg N/ha, each 0 to {rule.max_dose_kg_ha:g}"
