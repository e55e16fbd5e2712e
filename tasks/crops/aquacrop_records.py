"""Structures of an initialised ``aquacrop`` model as records of one fixed form, for compiled code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

COMPARTMENTS = 12
"""Of every soil the package knows by name."""
_INDICES = frozenset({"time_step_counter"})
Record = NDArray[np.void]
"""Shape (1,) or (n,) of one of the forms below."""


def form_of(example: Any) -> np.dtype[np.void]:
    """The form of an object's records: its numbers as float64, its flags as bool, its arrays of numbers as they are."""
    fields: list[tuple[Any, ...]] = []
    for name, value in vars(example).items():
        if isinstance(value, bool | np.bool_):
            fields.append((name, np.bool_))
        elif isinstance(value, int | float | np.integer | np.floating):
            fields.append((name, np.int64 if name in _INDICES else np.float64))
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fi":
            fields.append((name, value.dtype, value.shape))
    return np.dtype(fields)


def record_of(value: Any, form: np.dtype[np.void] | None = None) -> Record:
    """One record, shape (1,), of an object. Raises KeyError where it lacks a field of ``form``."""
    record = np.zeros(1, form or form_of(value))
    held: Mapping[str, Any] = vars(value)
    for name in record.dtype.names or ():
        record[name] = held[name]
    return record


def refuse_uncovered(parameters: Any) -> None:
    """Raise ValueError, with the reason, for what the compiled day does not simulate."""
    soil, field = parameters.Soil, parameters.FieldMngt
    uncovered = {
        "groundwater": parameters.water_table != 0,
        "tile drainage": bool(soil.tile_drainage),
        "bunds": bool(field.bunds),
        "mulches": bool(field.mulches),
        "irrigation methods other than a depth each day": parameters.IrrMngt.irrigation_method != 5,
        f"soils of other than {COMPARTMENTS} compartments": len(soil.Profile.dz) != COMPARTMENTS,
        "crops whose calendar counts degree-days": parameters.Seasonal_Crop_List[0].CalendarType != 1,
        "more than one season in a row": len(parameters.Seasonal_Crop_List) != 1,
    }
    found = [name for name, is_there in uncovered.items() if is_there]
    if found:
        raise ValueError(f"the compiled maize model does not cover {', '.join(found)}")
