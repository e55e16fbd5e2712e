"""Rules that turn the state of a field into a dose: on the device, as baselines, and when they are tuned.

A rule serialises to a plain dict (in the manifest under ``policy``) and back without loss.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from headland_edge.features import gdd
from headland_edge.records import COLUMN_INFO, Records

_STAGES = 4
_SPLITS = 3


class RuleError(ValueError):
    """A rule is not usable; the message names the key and what is expected."""


@dataclass(frozen=True)
class FourStageRule:
    """Irrigate when depletion passes the threshold of the growth stage, and refill.

    The form of AquaCrop's soil-moisture-target irrigation with four stages, stages by days after sowing.

    Raises:
        RuleError: wrong number of stages, stages not ascending, or amounts that make no sense.
    """

    thresholds_frac: tuple[float, ...]
    """Four depletions, shares of total available water: irrigate above."""
    stage_end_days: tuple[int, ...]
    """Four days after sowing: last day of each stage. The last stage's threshold holds after its end, too."""
    max_irrigation_mm: float
    """Largest amount applied on one day."""
    min_irrigation_mm: float
    """Smaller amounts are not worth starting the pump: nothing is applied."""
    season_limit_mm: float | None = None
    """Most that the season may get altogether; None: as much as it takes."""

    def __post_init__(self) -> None:
        _check_numbers("thresholds_frac", self.thresholds_frac, _STAGES)
        _check_numbers("stage_end_days", self.stage_end_days, _STAGES)
        _check_ascending("stage_end_days", self.stage_end_days)
        _check_amounts(self.min_irrigation_mm, self.max_irrigation_mm, self.season_limit_mm)

    def threshold_frac(self, days_after_sowing: int) -> float:
        """Threshold of the stage that ``days_after_sowing`` lies in."""
        for threshold, end in zip(self.thresholds_frac, self.stage_end_days, strict=True):
            if days_after_sowing <= end:
                return threshold
        return self.thresholds_frac[-1]

    def irrigation_mm(
        self, days_after_sowing: int, depletion_frac: float, taw_mm: float, applied_mm: float = 0.0
    ) -> float:
        """Amount to apply today, mm, always finite; ``applied_mm`` is what the season has had.

        Raises:
            ValueError: depletion or total available water is not finite.
        """
        return _amount(self, days_after_sowing, depletion_frac, depletion_frac * taw_mm, applied_mm)

    def left_mm(self, applied_mm: float) -> float:
        """What the season may still get."""
        return _left_mm(self, applied_mm)

    def with_thresholds(self, thresholds_frac: tuple[float, ...]) -> FourStageRule:
        """The same rule with other thresholds."""
        return replace(self, thresholds_frac=thresholds_frac)

    def to_dict(self) -> dict[str, object]:
        """Plain form for JSON; ``rule_from_dict`` reads it."""
        return {
            "kind": "four_stage",
            "thresholds_frac": [float(x) for x in self.thresholds_frac],
            "stage_end_days": [int(x) for x in self.stage_end_days],
            "max_irrigation_mm": float(self.max_irrigation_mm),
            "min_irrigation_mm": float(self.min_irrigation_mm),
            **_limit(self.season_limit_mm),
        }


@dataclass(frozen=True)
class DayCurveRule:
    """Irrigate when depletion passes a threshold that changes from day to day, and give back a share of it.

    The threshold runs straight between knots, and stays where it is before the first and after the last.

    Raises:
        RuleError: as many thresholds as knots, knots ascending, and a share from 0 to 1 are asked for.
    """

    knot_days: tuple[int, ...]
    """Days after sowing."""
    thresholds_frac: tuple[float, ...]
    """Depletion at each knot, share of total available water: irrigate above."""
    refill_frac: float
    """Share of the depletion that is given back."""
    max_irrigation_mm: float
    """Largest amount applied on one day."""
    min_irrigation_mm: float
    """Smaller amounts are not worth starting the pump: nothing is applied."""
    season_limit_mm: float | None = None
    """Most that the season may get altogether; None: as much as it takes."""

    def __post_init__(self) -> None:
        _check_numbers("knot_days", self.knot_days, max(2, len(self.knot_days)))
        _check_numbers("thresholds_frac", self.thresholds_frac, len(self.knot_days))
        _check_ascending("knot_days", self.knot_days)
        if not 0.0 <= self.refill_frac <= 1.0:
            raise RuleError(f"refill_frac must lie in 0 to 1, got {self.refill_frac}")
        _check_amounts(self.min_irrigation_mm, self.max_irrigation_mm, self.season_limit_mm)

    def threshold_frac(self, days_after_sowing: int) -> float:
        """Threshold on that day."""
        right = bisect_right(self.knot_days, days_after_sowing)
        if right in (0, len(self.knot_days)):
            return self.thresholds_frac[min(right, len(self.knot_days) - 1)]
        (first, last), (low, high) = self.knot_days[right - 1 : right + 1], self.thresholds_frac[right - 1 : right + 1]
        return low + (high - low) * (days_after_sowing - first) / (last - first)

    def irrigation_mm(
        self, days_after_sowing: int, depletion_frac: float, taw_mm: float, applied_mm: float = 0.0
    ) -> float:
        """Amount to apply today, mm, always finite; ``applied_mm`` is what the season has had.

        Raises:
            ValueError: depletion or total available water is not finite.
        """
        refill_mm = self.refill_frac * depletion_frac * taw_mm
        return _amount(self, days_after_sowing, depletion_frac, refill_mm, applied_mm)

    def left_mm(self, applied_mm: float) -> float:
        """What the season may still get."""
        return _left_mm(self, applied_mm)

    def to_dict(self) -> dict[str, object]:
        """Plain form for JSON; ``rule_from_dict`` reads it."""
        return {
            "kind": "day_curve",
            "knot_days": [int(x) for x in self.knot_days],
            "thresholds_frac": [float(x) for x in self.thresholds_frac],
            "refill_frac": float(self.refill_frac),
            "max_irrigation_mm": float(self.max_irrigation_mm),
            "min_irrigation_mm": float(self.min_irrigation_mm),
            **_limit(self.season_limit_mm),
        }


@dataclass(frozen=True)
class SplitRule:
    """Nitrogen in three splits, each dose falling with what the soil supplies by itself.

    Slope 0 gives fixed doses; with the soil test as supply it is a soil-test rule.

    Raises:
        RuleError: wrong number of splits, splits not ascending, or amounts that make no sense.
    """

    split_gdd: tuple[float, ...]
    """First split: days after sowing. Second and third: growing degree days, C d."""
    base_kg_ha: tuple[float, ...]
    """Dose of each split at no supply."""
    slope: tuple[float, ...]
    """Dose saved for each kg/ha of supply."""
    max_dose_kg_ha: float
    """Largest single dose."""

    def __post_init__(self) -> None:
        _check_numbers("split_gdd", self.split_gdd, _SPLITS)
        _check_numbers("base_kg_ha", self.base_kg_ha, _SPLITS)
        _check_numbers("slope", self.slope, _SPLITS)
        _check_numbers("max_dose_kg_ha", (self.max_dose_kg_ha,), 1)
        _check_ascending("split_gdd[1:]", self.split_gdd[1:])
        if self.split_gdd[0] < 0 or not 0 <= self.max_dose_kg_ha <= COLUMN_INFO["nitrogen_kg_ha"].high:
            most = f"{COLUMN_INFO['nitrogen_kg_ha'].high:g}"
            raise RuleError(f"split_gdd[0] must not be negative, max_dose_kg_ha must lie in 0 to {most}")

    def due_mornings(self, records: Records) -> tuple[int | None, ...]:
        """Morning (row of ``records``) on which each split was or is due, None where it still lies ahead."""
        known = gdd(records)
        day = math.ceil(self.split_gdd[0])
        first = day if day < records.n_mornings else None
        later = [int((known < threshold).sum()) for threshold in self.split_gdd[1:]]
        return (first, *(k if k < records.n_mornings else None for k in later))

    def due_split(self, records: Records) -> int | None:
        """Number of the split (0, 1, 2) due on the last morning of ``records``, None if none is."""
        due = self.due_mornings(records)
        today = records.n_mornings - 1
        return due.index(today) if today in due else None

    def dose_kg_ha(self, split: int, supply_kg_ha: float) -> float:
        """Dose of split number ``split``, kg N/ha, always finite.

        Raises:
            ValueError: the supply is not finite.
        """
        if not math.isfinite(supply_kg_ha):
            raise ValueError(f"nitrogen supply {supply_kg_ha} kg/ha is not finite")
        dose = self.base_kg_ha[split] - self.slope[split] * supply_kg_ha
        return float(min(max(dose, 0.0), self.max_dose_kg_ha))

    def to_dict(self) -> dict[str, object]:
        """Plain form for JSON; ``rule_from_dict`` reads it."""
        return {
            "kind": "split",
            "split_gdd": [float(x) for x in self.split_gdd],
            "base_kg_ha": [float(x) for x in self.base_kg_ha],
            "slope": [float(x) for x in self.slope],
            "max_dose_kg_ha": float(self.max_dose_kg_ha),
        }


IrrigationRule = FourStageRule | DayCurveRule
Rule = IrrigationRule | SplitRule
_OPTIONAL = {"four_stage": {"season_limit_mm"}, "day_curve": {"season_limit_mm"}, "split": set[str]()}
_KEYS: dict[str, dict[str, bool]] = {
    "four_stage": {
        "thresholds_frac": True, "stage_end_days": True, "max_irrigation_mm": False, "min_irrigation_mm": False
    },
    "day_curve": {
        "knot_days": True, "thresholds_frac": True, "refill_frac": False, "max_irrigation_mm": False,
        "min_irrigation_mm": False,
    },
    "split": {"split_gdd": True, "base_kg_ha": True, "slope": True, "max_dose_kg_ha": False},
}  # fmt: skip
"""Keys of each kind of rule, True for lists."""


def rule_from_dict(plain: object) -> Rule:
    """Read a rule from its plain form.

    Raises:
        RuleError: unknown kind, a missing or unknown key, or a value that is not a number.
    """
    if not isinstance(plain, Mapping):
        raise RuleError(f"a rule must be an object, got {type(plain).__name__}")
    kind = plain.get("kind")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise RuleError(f"kind {kind!r} is not known; use one of {', '.join(_KEYS)}")
    wrong = {"kind", *_KEYS[kind]} ^ (set(plain) - _OPTIONAL[kind])
    if wrong:
        raise RuleError(f"keys missing or unknown: {', '.join(sorted(map(str, wrong)))}")
    if kind == "four_stage":
        return FourStageRule(
            thresholds_frac=_numbers(plain, "thresholds_frac"),
            stage_end_days=tuple(_whole(plain, "stage_end_days")),
            max_irrigation_mm=_number(plain, "max_irrigation_mm"),
            min_irrigation_mm=_number(plain, "min_irrigation_mm"),
            season_limit_mm=_number(plain, "season_limit_mm") if "season_limit_mm" in plain else None,
        )
    if kind == "day_curve":
        return DayCurveRule(
            knot_days=tuple(_whole(plain, "knot_days")),
            thresholds_frac=_numbers(plain, "thresholds_frac"),
            refill_frac=_number(plain, "refill_frac"),
            max_irrigation_mm=_number(plain, "max_irrigation_mm"),
            min_irrigation_mm=_number(plain, "min_irrigation_mm"),
            season_limit_mm=_number(plain, "season_limit_mm") if "season_limit_mm" in plain else None,
        )
    return SplitRule(
        split_gdd=_numbers(plain, "split_gdd"),
        base_kg_ha=_numbers(plain, "base_kg_ha"),
        slope=_numbers(plain, "slope"),
        max_dose_kg_ha=_number(plain, "max_dose_kg_ha"),
    )


def _left_mm(rule: IrrigationRule, applied_mm: float) -> float:
    return math.inf if rule.season_limit_mm is None else max(0.0, rule.season_limit_mm - applied_mm)


def _limit(season_limit_mm: float | None) -> dict[str, object]:
    return {} if season_limit_mm is None else {"season_limit_mm": float(season_limit_mm)}


def _amount(
    rule: IrrigationRule, days_after_sowing: int, depletion_frac: float, refill_mm: float, applied_mm: float
) -> float:
    """``refill_mm`` within the rule's amounts if the depletion is past today's threshold."""
    if not math.isfinite(refill_mm):
        raise ValueError(f"depletion {depletion_frac} would take {refill_mm} mm, which is not a finite amount")
    if depletion_frac <= rule.threshold_frac(days_after_sowing):
        return 0.0
    amount = min(rule.max_irrigation_mm, refill_mm, rule.left_mm(applied_mm))
    return float(amount) if amount > 0.0 and amount >= rule.min_irrigation_mm else 0.0


def _check_amounts(least_mm: float, most_mm: float, season_mm: float | None) -> None:
    _check_numbers("max_irrigation_mm, min_irrigation_mm", (most_mm, least_mm), 2)
    if season_mm is not None and not 0.0 <= season_mm < math.inf:
        raise RuleError(f"season_limit_mm must be a finite amount from 0 up, got {season_mm}")
    if not 0.0 <= least_mm <= most_mm <= COLUMN_INFO["irrigation_mm"].high:
        most = f"{COLUMN_INFO['irrigation_mm'].high:g}"
        raise RuleError(f"irrigation amounts must satisfy 0 <= min_irrigation_mm <= max_irrigation_mm <= {most}")


def _number(plain: Mapping[str, object], key: str) -> float:
    value = plain[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RuleError(f"{key} must be a number, got {value!r}")
    return float(value)


def _numbers(plain: Mapping[str, object], key: str) -> tuple[float, ...]:
    values = plain[key]
    if not isinstance(values, list | tuple):
        raise RuleError(f"{key} must be a list of numbers, got {values!r}")
    return tuple(_number({key: value}, key) for value in values)


def _whole(plain: Mapping[str, object], key: str) -> list[int]:
    values = _numbers(plain, key)
    if any(not value.is_integer() for value in values):
        raise RuleError(f"{key} must be whole numbers, got {list(values)}")
    return [int(value) for value in values]


def _check_numbers(key: str, values: tuple[float, ...], count: int) -> None:
    if len(values) != count:
        raise RuleError(f"{key} needs {count} numbers, got {len(values)}")
    if not all(math.isfinite(value) for value in values):
        raise RuleError(f"{key} must be finite, got {list(values)}")


def _check_ascending(key: str, values: tuple[float, ...]) -> None:
    if any(after <= before for before, after in pairwise(values)):
        raise RuleError(f"{key} must ascend, got {list(values)}")
