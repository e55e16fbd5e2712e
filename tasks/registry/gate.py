"""The gate: whether a candidate may replace the champion, judged on seasons that neither of them learned from.

Both bundles answer the same validation windows, each by its own calibration, through the device's own runtime. Every
``validation_every``-th season is left out of training whatever ``as_of`` is, so a champion of an earlier season has not
learned from them either.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from headland_edge.bundle import Bundle
from headland_edge.runtime import ModelError, Session

from tasks.features.trend import Trend
from tasks.training.quantiles import score

if TYPE_CHECKING:
    from tasks.training.windows import Windows

_BATCH = 256


class GateError(Exception):
    """The gate cannot judge; the message says what is missing."""


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Args:
        passed: whether the candidate may be published.
        reasons: why not, in sentences; empty if it passed.
        pinball: by model, ``candidate`` and, where there is one, ``champion``, in the target's unit.
        earned_usd_ha: by crop and who decides, as ``tasks.registry.money`` counts it; empty if it did not.
    """

    passed: bool
    reasons: tuple[str, ...]
    pinball: dict[str, dict[str, float]]
    earned_usd_ha: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return asdict(self)


def judge(candidate: Bundle, champion: Bundle | None, windows: Path, max_worse_frac: float) -> Verdict:
    """Compare two bundles model by model.

    Args:
        candidate: what wants to be published.
        champion: what is published; None for a first release.
        windows: folder of windows, one folder for each model.
        max_worse_frac: greatest share by which a model's pinball loss may exceed the champion's.

    Raises:
        GateError: there are no windows for a model.
    """
    # It brings torch, ten seconds that only who judges has to wait for.
    from tasks.training.windows import open_windows

    reasons, pinball = [], {}
    if champion and candidate.manifest.release.counter <= champion.manifest.release.counter:
        ours, theirs = candidate.manifest.release.counter, champion.manifest.release.counter
        reasons.append(f"release counter {ours} is not above the champion's {theirs}: raise release.minor")
    for name in sorted(candidate.manifest.models):
        try:
            data = open_windows(windows / name)
        except Exception as error:
            raise GateError(f"{name}: {error}") from error
        pinball[name] = {"candidate": loss(candidate, name, data, windows / name)}
        if not np.isfinite(pinball[name]["candidate"]):
            reasons.append(f"{name}: the candidate answers with what is no number")
        elif champion and name in champion.manifest.models:
            before = pinball[name]["champion"] = loss(champion, name, data, windows / name)
            worse = pinball[name]["candidate"] / before - 1 if before > 0 else 0.0
            if worse > max_worse_frac:
                reasons.append(f"{name}: error {worse:+.1%} against the champion, at most {max_worse_frac:.0%} allowed")
    return Verdict(not reasons, tuple(reasons), pinball)


def loss(bundle: Bundle, model: str, data: Windows, folder: Path) -> float:
    """Pinball loss of one model of a bundle on the validation windows, in the target's unit."""
    entry = bundle.manifest.models[model]
    session = _session(bundle, model)
    wheat = data.channels.index("is_wheat")
    trends = {
        crop: Trend(**plain) for crop, plain in json.loads((folder / "meta.json").read_text()).get("trends", {}).items()
    }
    said, true = [], []
    for start in range(0, len(data.validation), _BATCH):
        which = data.validation[start : start + _BATCH]
        batch = data.gather(which)
        outputs = session.run(batch)
        for i, window in enumerate(which):
            crop, season = "wheat" if batch[i, wheat, -1] > 0.5 else "maize", int(data.group[window])
            said.append(entry.target.quantiles(outputs[i], crop, season))
            true.append(_truth(data, int(window), trends.get(crop), season))
    return score(np.array(said), np.array(true), 1.0).pinball


def _truth(data: Windows, window: int, trend: Trend | None, season: int) -> float:
    scaled = float(data.targets[window])
    value = data.target.offset + data.target.scale * scaled
    return value * (trend.factor(season) if trend else 1.0)


def _session(bundle: Bundle, model: str) -> Session:
    try:
        return Session(bundle.model_bytes(model), model)
    except ModelError as error:
        raise GateError(str(error)) from None
