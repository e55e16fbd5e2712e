"""What a device would think of many fields this morning: the shipped net, run by the device's own runtime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from headland_edge.features import Float32Array
from headland_edge.manifest import Calibration, Target
from headland_edge.runtime import Session

from tasks.crops.interface import Crop, FloatArray
from tasks.params import Params

STATE: dict[Crop, str] = {"maize": "depletion_frac", "wheat": "n_supply_kg_ha"}


@dataclass(frozen=True)
class Estimator:
    """One shipped net of a field's state; can be sent to another process."""

    onnx: bytes
    target: Target
    window_days: int
    crop: Crop
    season: int

    @cached_property
    def _session(self) -> Session:
        return Session(self.onnx, self.target.name)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def quantiles(self, features: Float32Array) -> FloatArray:
        """Estimates in the target's unit, shape (n, 3), from the season so far, (n, n_mornings, len(FEATURES))."""
        n, mornings, channels = features.shape
        known = min(mornings, self.window_days)
        windows = np.zeros((n, channels, self.window_days), np.float32)
        windows[:, :, self.window_days - known :] = features[:, mornings - known :].transpose(0, 2, 1)
        return np.asarray(self.target.quantiles(self._session.run(windows), self.crop, self.season))


def model_of(crop: Crop, params: Params) -> str | None:
    """Name of the model that estimates the state of ``crop``; None if none is trained."""
    fitting = (n for n in params.models if params.model[n].target == STATE[crop] and crop in params.model[n].crops)
    return next(fitting, None)


def shipped_estimator(crop: Crop, params: Params, root: Path) -> Estimator:
    """The net that the compress stage chose; KeyError if params train none for ``crop``."""
    name = model_of(crop, params)
    if name is None:
        raise KeyError(f"no model of {STATE[crop]} for {crop} in models of params.yaml")
    folder, settings = root / "data/models" / name / "compressed", params.model[name]
    bands = json.loads((folder / "choice.json").read_text())["bands"]
    calibration = {
        crop: Calibration(params.as_of, params.as_of, 0.0, band["lower"], band["upper"]) for crop, band in bands.items()
    }
    target = Target(settings.target, settings.unit, settings.offset, settings.scale, calibration)
    return Estimator((folder / "shipped.onnx").read_bytes(), target, settings.window_days, crop, params.as_of)
