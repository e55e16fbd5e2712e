"""How past growers farmed: practices that vary from field to field, so that a model sees more than one way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from headland_edge.records import COLUMNS

from tasks.crops.fields import field_rng
from tasks.crops.interface import BoolArray, Decision, Field, FloatArray

PracticeName = Literal["rainfed", "weekly", "threshold", "whim", "unfertilised", "split"]
_MAIZE: tuple[PracticeName, ...] = ("rainfed", "weekly", "threshold", "threshold", "whim")
_WHEAT: tuple[PracticeName, ...] = ("unfertilised", "split", "split", "split", "whim")
MOST_IRRIGATION_MM = 60.0
"""What a sprinkler system brings out in a day at most."""
_DEPLETION, _TAW = COLUMNS.index("depletion_frac"), COLUMNS.index("taw_mm")


@dataclass(frozen=True)
class Practice:
    """One field's practice, drawn from its name."""

    name: PracticeName
    threshold_frac: float
    """Depletion above which a threshold grower irrigates."""
    refill_frac: float
    """Share of the depletion a threshold grower gives back."""
    calendar: FloatArray
    """Irrigation (maize, mm) or nitrogen (wheat, kg/ha) by days after sowing, for the calendar practices."""


def draw_practice(field: Field, seed: int) -> Practice:
    """Draw the practice of ``field``; the same field and seed always give the same one."""
    rng = field_rng(seed, field.field_id, "practice")
    names = _MAIZE if field.crop == "maize" else _WHEAT
    name = names[int(rng.integers(len(names)))]
    calendar = np.zeros(field.season_days + 1)
    if name == "weekly":
        calendar[int(rng.integers(7)) :: 7] = rng.uniform(10.0, 30.0)
    elif name == "whim":
        days = rng.choice(field.season_days, size=int(rng.integers(2, 9)), replace=False)
        calendar[days] = rng.uniform(5.0, 40.0, days.size)
    elif name == "split":
        days = np.array([7, 45, 62]) + rng.integers(-5, 6, 3)
        calendar[days] = rng.uniform(0.0, 80.0, 3)
    return Practice(name, float(rng.uniform(0.3, 0.8)), float(rng.uniform(0.5, 1.0)), calendar)


class Practices:
    """The policy of a batch of past growers, each with a practice of their own."""

    def __init__(self, practices: tuple[Practice, ...]) -> None:
        """Take one practice for each field of the batch, in its order."""
        self._practices = practices

    def decide(self, fields: tuple[Field, ...], records: FloatArray, active: BoolArray) -> Decision:
        """Follow the calendars; threshold growers look at this morning's probe and wait when it is out."""
        day = records.shape[1] - 1
        amount = np.array([practice.calendar[day] for practice in self._practices])
        for i, practice in enumerate(self._practices):
            if practice.name == "threshold" and records[i, day, _DEPLETION] > practice.threshold_frac:
                wanted = practice.refill_frac * max(0.0, records[i, day, _DEPLETION] * records[i, day, _TAW])
                amount[i] = min(wanted, MOST_IRRIGATION_MM)
        nothing = np.zeros(len(fields))
        return Decision(amount, nothing) if fields[0].crop == "maize" else Decision(nothing, amount)
