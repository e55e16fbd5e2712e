"""The device in the loop: a policy that asks the shipped bundle, through the device's own code, every morning."""

from __future__ import annotations

import numpy as np
from headland_edge.advisor import AdviceRefused, Advisor
from headland_edge.records import Records

from tasks.crops.interface import BoolArray, Decision, Field, FloatArray


class Device:
    """One device stands in each field and advises from its own records; the grower follows the advice."""

    def __init__(self, advisor: Advisor) -> None:
        """Take the advisor of an opened bundle; it keeps no state between mornings."""
        self._advisor = advisor
        self.advised = 0
        self.fallbacks = 0
        self.refused = 0

    def decide(self, fields: tuple[Field, ...], records: FloatArray, active: BoolArray) -> Decision:
        """Ask for this morning's dose on every active field; a refusal means nothing is applied."""
        dose = np.zeros(len(fields))
        for i in np.flatnonzero(active):
            field = fields[i]
            try:
                advice = self._advisor.advise(Records(field.crop, field.sowing_date, records[i]), want=("dose",))
            except AdviceRefused:
                self.refused += 1
                continue
            self.advised += 1
            self.fallbacks += bool(advice.fallbacks)
            dose[i] = advice.irrigation_mm if field.crop == "maize" else advice.nitrogen_kg_ha
        nothing = np.zeros(len(fields))
        return Decision(dose, nothing) if fields[0].crop == "maize" else Decision(nothing, dose)
