"""Plain-language sentences of the report: what was earned, against whom, and whether chance could explain it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

Verdict = Literal["more", "less", "chance"]

DEVICE = "device"
# In the order they are shown, the device last.
POLICIES: dict[str, dict[str, str]] = {
    "maize": {
        "rainfed": "rainfed",
        "weekly_25mm": "25 mm a week",
        "threshold_70pct": "70 % threshold",
        "tuned_threshold": "tuned threshold",
        "tuned_day_curve": "tuned day curve",
        DEVICE: "device",
    },
    "wheat": {
        "zero": "no nitrogen",
        "best_fixed": "best fixed doses",
        "tuned_soil_test": "tuned soil test",
        DEVICE: "device",
    },
}
RIVALS = {
    "maize": (
        "Maize: rainfed; 25 mm a week from day 35 to 112 after sowing; the 70 % threshold, which refills the soil when "
        "less than 70 % of its available water is left; the tuned threshold, four depletions by growth stage; and the "
        "tuned day curve, a threshold that changes from day to day with a share to give back. Both are tuned on the "
        "training seasons and act on the raw probe, its last reading carried through outages by a water balance."
    ),
    "wheat": (
        "Wheat: no nitrogen; the three fixed doses that were best on the training seasons; and the tuned soil test, "
        "three "
        "doses less what the raw soil test says is there, tuned on the training seasons."
    ),
}
QUESTION = {"maize": "irrigation", "wheat": "nitrogen"}


def policies(crop: str, known: Iterable[str]) -> list[str]:
    """Names in ``known`` in the order of the report; names it has no words for come before the device."""
    found, named = set(known), POLICIES.get(crop, {})
    others = sorted(found - set(named))
    return [n for n in named if n in found and n != DEVICE] + others + ([DEVICE] if DEVICE in found else [])


def policy(crop: str, name: str) -> str:
    """A policy in the report's words."""
    return POLICIES.get(crop, {}).get(name, name.replace("_", " "))


def rival(crop: str, name: str) -> str:
    """A baseline inside a sentence."""
    said = {"rainfed": "rainfed farming", "weekly_25mm": "25 mm a week", "zero": "no nitrogen"}
    return said.get(name, f"the {policy(crop, name)}")


def soil(name: str) -> str:
    """A soil in words: SiltLoam and silt_loam are both silt loam."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower()


def scene(name: str) -> str:
    """A closed-loop scene in the report's words."""
    if name.startswith("other_site/"):
        return f"another site ({name.partition('/')[2].capitalize()})"
    return {"home": "where it was trained", "other_soil": "a soil never trained on"}.get(name, name.replace("_", " "))


def scene_short(name: str) -> str:
    """The same in a narrow column."""
    if name.startswith("other_site/"):
        return f"new site: {name.partition('/')[2].capitalize()}"
    return {"home": "trained here", "other_soil": "new soil"}.get(name, name.replace("_", " "))


def scenes(known: Iterable[str]) -> list[str]:
    """Scenes in the order of the report: from home outwards."""
    return sorted(known, key=lambda name: (name != "home", name != "other_soil", name))


def number(value: float, digits: int = 0) -> str:
    """A number with a true minus sign; a rounded zero has none."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign; a rounded zero has none."""
    text = number(value, digits)
    return f"+{text}" if float(text.replace("−", "-")) > 0 else text


def interval(gain: Mapping[str, float]) -> str:
    """The 95 % interval of a gain, USD/ha."""
    return f"{signed(gain['low_95'])} to {signed(gain['high_95'])}"


def verdict(gain: Mapping[str, float]) -> Verdict:
    """What the 95 % interval says; a single season never says more than chance."""
    if gain["seasons"] < 2 or gain["low_95"] <= 0 <= gain["high_95"]:
        return "chance"
    return "more" if gain["mean"] > 0 else "less"


def verdict_words(gain: Mapping[str, float]) -> str:
    """The verdict for a table."""
    return {"more": "earns more", "less": "earns less", "chance": "cannot be told from chance"}[verdict(gain)]


def gain_sentence(crop: str, baseline: str, gain: Mapping[str, float]) -> str:
    """One baseline in one sentence."""
    amount = f"{number(abs(gain['mean']), 1)} USD/ha {'more' if gain['mean'] >= 0 else 'less'}"
    tail = {
        "more": "more than chance explains",
        "less": "the device loses here, by more than chance explains",
        "chance": "cannot be told from chance",
    }[verdict(gain)]
    return f"{amount} than {rival(crop, baseline)} (95 % interval {interval(gain)}): {tail}."


def headline(crop: str, home: Mapping[str, Any]) -> str:
    """What the device would have earned where its crop is grown."""
    seasons = sorted(int(year) for year in home["profit_usd_ha_by_season"])
    earned = home["policies"][DEVICE]["profit_usd_ha"]
    kind = {"maize": "grain less water and the field’s fixed costs", "wheat": "grain less nitrogen"}[crop]
    return (
        f"In {len(seasons)} seasons the model never saw ({year_ranges(seasons)}; {home['fields']} field seasons) a "
        f"grower "
        f"who followed the device would have kept {number(earned)} USD/ha a season ({kind})."
    )


def bottom_line(crop: str, home: Mapping[str, Any]) -> str:
    """The answer to: is it better than the best rule a careful grower could run on the same sensors?"""
    strong = home["strong_baseline"]
    gain = home["gain_usd_ha"].get(strong)
    name = policy(crop, strong)
    if gain is None:
        return f"There is no comparison with the strongest rule ({name}) in this evaluation."
    return {
        "more": f"It beats the strongest rule on the same sensors, the {name}.",
        "less": f"It loses to the strongest rule on the same sensors, the {name}: for {crop} that rule is the better "
        f"advice.",
        "chance": f"Against the strongest rule on the same sensors, the {name}, these seasons cannot tell a gain or "
        f"a loss "
        "from chance.",
    }[verdict(gain)]


def fallback_sentence(home: Mapping[str, Any]) -> str:
    """How often the device had to do without its model."""
    mornings, refused = float(home["fallback_mornings_per_field"]), float(home.get("refused_mornings_per_field", 0.0))
    silent = f" On {number(refused, 1)} it refused to advise, and nothing was applied." if refused else ""
    if mornings == 0:
        return f"The device never had to fall back on a rule for want of readings.{silent}"
    return (
        f"On {number(mornings, 1)} mornings of a season the device fell back on a stated rule for want of readings."
        f"{silent}"
    )


def spared(crop: str, home: Mapping[str, Any]) -> str:
    """Water or nitrogen of the device against the strongest rule."""
    column, unit, what = (
        ("irrigation_mm", "mm", "water") if crop == "maize" else ("nitrogen_kg_ha", "kg/ha", "nitrogen")
    )
    device, strong = home["policies"][DEVICE], home["policies"][home["strong_baseline"]]
    more = device[column] - strong[column]
    grain = device["yield_t_ha"] - strong["yield_t_ha"]
    return (
        f"{crop.capitalize()}: the device gave {number(device[column])} {unit} of {what} a season, the "
        f"{policy(crop, home['strong_baseline'])} {number(strong[column])} {unit} ({signed(more, 0)} {unit}), and "
        f"harvested "
        f"{number(device['yield_t_ha'], 2)} t/ha ({signed(grain, 2)} t/ha)."
    )


def year_ranges(years: Iterable[int]) -> str:
    """Years as ranges: 1982–1984, 1986."""
    parts: list[list[int]] = []
    for year in sorted(years):
        if parts and year == parts[-1][-1] + 1:
            parts[-1].append(year)
        else:
            parts.append([year])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}–{p[-1]}" for p in parts)


def coverage_sentence(crop: str, mid: Mapping[str, float]) -> str:
    """Mid-season yield band of one crop against climatology."""
    share, width, known = mid["coverage_frac"], mid["width"], mid["climatology_width"]
    inside = "within" if 0.75 <= share <= 0.85 else "outside"
    compared = "narrower" if width < known else "not narrower"
    return (
        f"{crop.capitalize()} at mid-season: the 10–90 % band held {number(100 * share, 1)} % of the true yields "
        f"({inside} the "
        f"75–85 % asked for). It is {number(width, 2)} t/ha wide, {compared} than that of past yields alone "
        f"({number(known, 2)} t/ha, which held {number(100 * mid['climatology_coverage_frac'], 1)} %)."
    )


def shipped_sentence(model: str, figures: Mapping[str, Any]) -> str:
    """What ships and what it cost."""
    before, after = figures["fp32"], figures[figures["shipped"]]
    smaller = before["size_bytes"] / after["size_bytes"]
    faster = before["latency_p50_ms"] / after["latency_p50_ms"]
    loss = 100 * (after["metric"] / before["metric"] - 1)
    change = f"{'grew' if loss > 0 else 'fell'} by {number(abs(loss), 2)} %" if round(loss, 2) else "stayed the same"
    return (
        f"{model.capitalize()}: the {figures['shipped']} file ships, {number(smaller, 1)} times smaller and "
        f"{number(faster, 1)} times faster "
        f"than the trained net; its error {change}. Why: {figures['reason']}."
    )


def next_steps(loops: Mapping[str, Any], models: Mapping[str, Any]) -> list[str]:
    """What a reader should do with this report."""
    steps = []
    for crop, scenes in loops.items():
        home = scenes.get("home")
        gain = home and home["gain_usd_ha"].get(home["strong_baseline"])
        if gain:
            steps.append(_step(crop, policy(crop, home["strong_baseline"]), verdict(gain)))
        steps += [
            f"{crop.capitalize()}: do not carry the advice to {name}; there it earned less than the strongest rule."
            for name, found in ((scene(key), value) for key, value in scenes.items() if key != "home")
            if (g := found["gain_usd_ha"].get(found["strong_baseline"])) and verdict(g) == "less"
        ]
    for name, found in models.items():
        for crop, mid in found.get("mid_season", {}).items():
            if not 0.75 <= mid["coverage_frac"] <= 0.85:
                steps.append(
                    f"Read the {name} band of {crop} with care: it held {number(100 * mid['coverage_frac'], 1)} % of "
                    f"the "
                    "truths, not 80 %."
                )
    return steps


def commands(bundle: str) -> list[tuple[str, str]]:
    """What an engineer can type next, and what it does."""
    return [
        (
            "Try the advice on a field’s own records, as a device does:",
            f"headland-edge advise --bundle {bundle} --records FILE.csv",
        ),
        (
            "Farm your own weather with it, beside the same rivals:",
            f"python -m tasks.evaluation.closed_loop --bundle {bundle} --weather FILE --json",
        ),
        ("See what has changed since this release:", "headland status"),
    ]


def _step(crop: str, strong: str, found: Verdict) -> str:
    return {
        "more": f"{crop.capitalize()}: release the device’s advice; it earned more than the {strong}, by more than "
        f"chance explains.",
        "less": f"{crop.capitalize()}: keep the {strong} and do not release the device’s advice; look first at the "
        f"seasons it lost.",
        "chance": f"{crop.capitalize()}: the advice does no measurable harm against the {strong}, and no measurable "
        f"good; more test "
        "seasons or a field trial would have to tell.",
    }[found]
