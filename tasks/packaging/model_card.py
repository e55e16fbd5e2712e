"""The model card that travels inside the bundle (Mitchell et al. 2019), written from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.params import Params

_HEAD = """# Headland {as_of}: release {counter}

{count} small nets for a field device ({models}), and the rules that act on what they say.

## Intended use
Daily advice from a field's own records. A person or a controller with limits of its own acts on it. Not for crops,
soils or climates unlike those below; the device says when it falls back to a rule.

## Data
Weather: observed (sites: {sites}). Crops and sensors: simulated (AquaCrop maize,
LINTUL3 spring wheat, declared noise, drift and dropouts). Seasons from {as_of} on never reached training.

## Models
Metrics are pinball losses on validation seasons (before {as_of}, left out of training), in the target's unit.

| model | target | ships as | fp32 | shipped | bytes fp32 | bytes shipped | share lost |
|---|---|---|---|---|---|---|---|
"""

_TAIL = """
## Doses
A tuned rule turns the estimate of the field's state into a dose. Where the manifest names an advantage net, another
dose is given if that net, which learned from simulated training seasons followed to their end, finds it worth more.

## Limits
Trained on few real years and on simulated fields: what the simulators leave out (pests, hail, uneven stands, salt)
the models do not know. Quantiles are calibrated on left-out years of the same sites.
"""


def model_card(params: Params, counter: int, choices: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the card.

    Args:
        params: of the run.
        counter: release counter.
        choices: by model, ``choice.json`` of its compression.
    """
    rows = []
    for name in params.models:
        settings, choice = params.model[name], choices[name]
        trained, shipped = choice["variants"]["fp32"], choice["variants"][choice["shipped"]]
        rows.append(
            f"| {name} | {settings.target} [{settings.unit}] | {_ships_as(choice)} | {trained['metric']:.4g} "
            f"| {shipped['metric']:.4g} | {trained['size_bytes']} | {shipped['size_bytes']} "
            f"| {choice['loss_frac']:+.2%} |"
        )
    return (
        _HEAD.format(
            as_of=params.as_of,
            counter=counter,
            count=len(params.models),
            models=", ".join(params.models),
            sites=", ".join(params.sites),
        )
        + "\n".join(rows)
        + "\n"
        + _TAIL
    )


def _ships_as(choice: Mapping[str, Any]) -> str:
    """The kind of file, with the earlier release that it learned on from, if there is one."""
    based = choice.get("based_on")
    return f"{choice['shipped']}, from {based['counter']}" if based else str(choice["shipped"])
