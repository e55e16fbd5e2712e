"""Advice for one field on one morning: a dose, what it rests on, and how sure it is.

1. Readings out of their plausible range are dropped and named.
2. A net estimates the field's state from its history, with a 10-90 % band; a tuned rule turns the estimate's
   median into a dose, and where the bundle has an advantage net, another dose may be given that is worth more
   (``headland_edge.advantage``).
3. If the reading the net leans on is stale, the dose comes from the last reading instead, by the rule tuned for
   raw readings, and the advice says so.
4. If that is too old as well, the advice is refused with a reason.

Nothing is kept between mornings: the same records always give the same advice.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property

import numpy as np

from headland_edge.advantage import MAPS, choose, foreign, inputs_for, inputs_of
from headland_edge.bundle import Bundle, BundleError
from headland_edge.features import clean, derive, gdd, window
from headland_edge.manifest import CropPolicy, Model
from headland_edge.readings import WEATHER, Reading, carry_depletion, last_seen
from headland_edge.records import Records
from headland_edge.rules import SplitRule
from headland_edge.runtime import Float32Array, ModelError, Session

FRESH_DEPLETION_MORNINGS = 7
"""The irrigation net is trusted if the soil water probe was read within as many mornings, this one included."""
FRESH_SOIL_N_MORNINGS = 14
"""The same for the nitrogen net and the soil test."""
LAST_MORNINGS = 14
"""Soil water or weather not measured within as many mornings is taken as unknown."""
WANTS = ("dose", "yield")

_DOSE_TARGET = {"maize": "depletion_frac", "wheat": "n_supply_kg_ha"}
_YIELD_TARGET = "yield_t_ha"
_ARCH = {"amd64": "x86_64", "arm64": "aarch64"}


class AdviceRefused(Exception):  # noqa: N818  # a refusal is an answer, not an error of the program
    """Nothing can honestly be said this morning."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Estimate:
    """What is thought of one quantity, with a band if a net says it."""

    name: str
    unit: str
    q10: float | None
    q50: float
    q90: float | None
    source: str
    """``model``, ``water_balance`` or ``last_reading``; only a model has a band."""

    def to_dict(self) -> dict[str, object]:
        """Plain form for JSON."""
        band = {key: None if value is None else round(value, 4) for key, value in self._quantiles().items()}
        return {**band, "unit": self.unit, "source": self.source}

    def _quantiles(self) -> dict[str, float | None]:
        return {"q10": self.q10, "q50": self.q50, "q90": self.q90}


@dataclass(frozen=True)
class Advice:
    """Advice for one morning. Every number is finite."""

    crop: str
    date: date
    days_after_sowing: int
    irrigation_mm: float
    """To apply today; 0 for wheat, whose irrigation is not advised on."""
    nitrogen_kg_ha: float
    """To apply today; 0 for maize, whose nitrogen is not advised on."""
    estimate: Estimate | None
    """State of the field behind the dose; None if no dose was asked for or nothing is known and none is due."""
    yield_t_ha: Estimate | None
    models: dict[str, str]
    """Models that spoke, and their kind (int8, fp32, control)."""
    release_counter: int
    as_of: int
    bundle_sha256: str
    wanted: tuple[str, ...] = WANTS
    fallbacks: list[str] = field(default_factory=list)
    """What was replaced by something simpler, and why."""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Readings that were dropped."""

    def to_dict(self) -> dict[str, object]:
        """Plain form for JSON; holds only what was asked for and concerns the crop."""
        plain: dict[str, object] = {
            "crop": self.crop,
            "date": self.date.isoformat(),
            "days_after_sowing": self.days_after_sowing,
        }
        if "dose" in self.wanted:
            name = "irrigation_mm" if self.crop == "maize" else "nitrogen_kg_ha"
            plain[name] = round(getattr(self, name), 2)
            state = self.estimate
            plain[state.name if state else _DOSE_TARGET[self.crop]] = state.to_dict() if state else None
        if "yield" in self.wanted:
            plain[_YIELD_TARGET] = self.yield_t_ha.to_dict() if self.yield_t_ha else None
        return {
            **plain,
            "fallbacks": self.fallbacks,
            "notes": self.notes,
            "problems": self.problems,
            "models": self.models,
            "release": {"counter": self.release_counter, "as_of": self.as_of},
            "bundle_sha256": self.bundle_sha256,
        }


class Advisor:
    """Advises from an opened bundle. A net is loaded when it is first needed."""

    def __init__(self, bundle: Bundle) -> None:
        """Take an opened bundle; raises BundleError if it is not made for this machine."""
        machine = platform.machine().lower()
        arch = bundle.manifest.hardware.arch
        if _ARCH.get(machine, machine) not in arch:
            raise BundleError(f"{bundle.path}: made for {', '.join(arch)}, this machine is {machine}")
        self._bundle = bundle
        self._sessions: dict[str, Session] = {}

    def advise(self, records: Records, want: tuple[str, ...] = WANTS) -> Advice:
        """Advise for the last morning of ``records``.

        Args:
            records: of one field since sowing.
            want: any of ``dose`` and ``yield``; what is not wanted is not computed.

        Raises:
            AdviceRefused: nothing can be said; the reason names the sensor or the crop.
            BundleError: a model of the bundle does not run here.
            ValueError: an unknown want.
        """
        if not want or not set(want) <= set(WANTS):
            raise ValueError(f"want must be some of {', '.join(WANTS)}, got {want}")
        morning = _Morning(records)
        irrigation_mm = nitrogen_kg_ha = 0.0
        estimate = None
        if "dose" in want and records.crop == "maize":
            irrigation_mm, estimate = self._irrigation(morning)
        elif "dose" in want:
            nitrogen_kg_ha, estimate = self._nitrogen(morning)
        harvest = self._yield(morning) if "yield" in want else None
        manifest = self._bundle.manifest
        return Advice(
            crop=records.crop,
            date=records.last_date,
            days_after_sowing=records.days_after_sowing,
            irrigation_mm=irrigation_mm,
            nitrogen_kg_ha=nitrogen_kg_ha,
            estimate=estimate,
            yield_t_ha=harvest,
            models=morning.models,
            release_counter=manifest.release.counter,
            as_of=manifest.release.as_of,
            bundle_sha256=self._bundle.sha256,
            wanted=want,
            fallbacks=morning.fallbacks,
            notes=morning.notes,
            problems=morning.problems,
        )

    def _irrigation(self, morning: _Morning) -> tuple[float, Estimate]:
        policy = self._policy("maize")
        reading = last_seen(morning.records, "depletion_frac")
        if reading is None or reading.age >= LAST_MORNINGS:
            raise AdviceRefused(
                f"no soil water reading (depletion_frac) in the last {LAST_MORNINGS} mornings: check the probe"
            )
        taw_mm = _total_available_water(morning)
        rule, estimate = policy.rule, None
        if reading.age < FRESH_DEPLETION_MORNINGS:
            estimate = self._ask(morning, "depletion_frac")
        else:
            morning.fallbacks.append(f"irrigation: last soil water reading is {reading.age} mornings old; {_BALANCE}")
        if estimate is None:
            rule, estimate = policy.sensor_rule, _balance(morning, reading, taw_mm)
        assert not isinstance(rule, SplitRule)  # checked when the manifest was parsed
        day = morning.records.days_after_sowing
        applied_mm = float(np.nansum(morning.records.column("irrigation_mm")))
        dose_mm = rule.irrigation_mm(day, estimate.q50, taw_mm, applied_mm)
        past = estimate.q50 - rule.threshold_frac(day)
        if (better := self._bettered(morning, estimate, dose_mm, past)) is not None:
            dose_mm = min(better, rule.left_mm(applied_mm))
        return dose_mm, estimate

    def _bettered(self, morning: _Morning, estimate: Estimate, rule_dose: float, past: float) -> float | None:
        """A dose that the advantage net finds worth more than the rule's, None where the rule's stands."""
        crop = morning.records.crop
        net = self._policy(crop).advantage
        if net is None or estimate.source != "model" or estimate.q10 is None or estimate.q90 is None:
            return None
        known = np.array([[estimate.q10, estimate.q50, estimate.q90]])
        inputs = inputs_of(crop, morning.features[np.newaxis], known, np.array([rule_dose]))
        if (strange := foreign(net.belief, inputs)[0]).any():
            names = [each.name for each, odd in zip(inputs_for(crop), strange, strict=True) if odd]
            morning.notes.append(f"the rule's dose stands: {', '.join(names)} unlike anything the net learned from")
            return None
        name = f"advantage/{crop}"
        try:
            if name not in self._sessions:
                self._sessions[name] = Session(self._bundle.members[net.file], net.file, MAPS, len(net.belief.doses))
            gains = self._sessions[name].run(inputs[..., np.newaxis])
        except ModelError as error:
            raise BundleError(f"{self._bundle.path}, member {error}") from None
        dose, gain = choose(crop, net.belief, gains, np.array([rule_dose]), np.array([past]))
        morning.models[name] = "int8"
        if gain[0] == 0.0:
            return None
        morning.notes.append(
            f"{dose[0]:.0f} instead of the rule's {rule_dose:.0f}: worth about {gain[0]:.0f} USD/ha more"
        )
        return float(dose[0])

    def _nitrogen(self, morning: _Morning) -> tuple[float, Estimate | None]:
        policy = self._policy("wheat")
        rule, records = policy.rule, morning.records
        assert isinstance(rule, SplitRule)  # checked when the manifest was parsed
        _note_old_temperature(morning)
        due = rule.due_split(records)
        reading = last_seen(records, "soil_mineral_n_kg_ha")
        if due is not None and reading is None:
            raise AdviceRefused(
                f"nitrogen split {due + 1} is due, but soil mineral nitrogen (soil_mineral_n_kg_ha) was never read: "
                "enter a soil test"
            )
        estimate = self._supply(morning, reading) if reading else None
        if due is None or estimate is None:
            morning.notes.append(_next_split(rule, records))
            return 0.0, estimate
        if estimate.source != "model":
            assert isinstance(policy.sensor_rule, SplitRule)  # as above
            rule = policy.sensor_rule
        morning.notes.append(f"nitrogen split {due + 1} of {len(rule.split_gdd)} is due this morning")
        dose_kg_ha = rule.dose_kg_ha(due, estimate.q50)
        better = self._bettered(morning, estimate, dose_kg_ha, 0.0)
        return dose_kg_ha if better is None else better, estimate

    def _supply(self, morning: _Morning, reading: Reading) -> Estimate:
        """Nitrogen supply: the net's if the soil test is fresh, else the last soil test itself."""
        if reading.age < FRESH_SOIL_N_MORNINGS:
            if estimate := self._ask(morning, "n_supply_kg_ha"):
                return estimate
        else:
            morning.fallbacks.append(
                f"nitrogen: last soil test is {reading.age} mornings old; it is used as it was read"
            )
        return Estimate("soil_mineral_n_kg_ha", "kg/ha", None, reading.value, None, "last_reading")

    def _yield(self, morning: _Morning) -> Estimate | None:
        weather = last_seen(morning.records, *WEATHER)
        if weather is None or weather.age >= LAST_MORNINGS:
            morning.fallbacks.append(f"yield: no complete weather in the last {LAST_MORNINGS} mornings; not estimated")
            return None
        try:
            return self._ask(morning, _YIELD_TARGET)
        except AdviceRefused as refused:
            morning.fallbacks.append(f"yield: {refused.reason}; not estimated")
            return None

    def _ask(self, morning: _Morning, target: str) -> Estimate | None:
        """The net's estimate of ``target``; None, with the fallback noted, if it is not finite."""
        name, model = self._model(morning.records.crop, target)
        history = window(morning.features, morning.records.days_after_sowing, model.window_days)
        try:
            output = self._session(name, model).run(history[np.newaxis])[0]
        except ModelError as error:
            raise BundleError(f"{self._bundle.path}, member {error}") from None
        crop, season = morning.records.crop, morning.records.sowing_date.year
        low, middle, high = model.target.quantiles(output, crop, season).tolist()
        if not np.isfinite([low, middle, high]).all():
            morning.fallbacks.append(f"{name}: the model gave no finite number; the last reading is used, if any")
            return None
        morning.models[name] = model.kind
        return Estimate(target, model.target.unit, low, middle, high, "model")

    def _model(self, crop: str, target: str) -> tuple[str, Model]:
        for name, model in self._bundle.manifest.models.items():
            if model.target.name == target and crop in model.crops:
                return name, model
        raise AdviceRefused(f"this bundle has no model of {target} for {crop}")

    def _session(self, name: str, model: Model) -> Session:
        if name not in self._sessions:
            self._sessions[name] = Session(self._bundle.model_bytes(name), model.file)
        return self._sessions[name]

    def _policy(self, crop: str) -> CropPolicy:
        if crop not in self._bundle.manifest.policy:
            raise AdviceRefused(f"this bundle does not advise on {crop}")
        return self._bundle.manifest.policy[crop]


_BALANCE = "depletion is carried on by a water balance with et0 as crop water use"


class _Morning:
    """What is known this morning, and what has to be said about it."""

    def __init__(self, records: Records) -> None:
        self.records, problems = clean(records)
        self.problems = list(problems)
        self.fallbacks: list[str] = []
        self.notes: list[str] = []
        self.models: dict[str, str] = {}

    @cached_property
    def features(self) -> Float32Array:
        return derive(self.records)


def _total_available_water(morning: _Morning) -> float:
    reading = last_seen(morning.records, "taw_mm")
    if reading is None:
        raise AdviceRefused("total available water (taw_mm) was never given: enter it from the soil survey")
    if reading.age:
        morning.fallbacks.append(f"taw_mm is missing; the value of {reading.age} mornings ago is used")
    return reading.value


def _balance(morning: _Morning, reading: Reading, taw_mm: float) -> Estimate:
    reckoned = carry_depletion(morning.records, reading, taw_mm, LAST_MORNINGS)
    if reckoned is None:
        raise AdviceRefused(
            f"the last soil water reading is {reading.age} mornings old and et0_mm is missing for "
            f"{LAST_MORNINGS} mornings: check the probe and the weather station"
        )
    if reckoned.missing_et0:
        morning.fallbacks.append(f"et0_mm is missing on {reckoned.missing_et0} day(s); the value before is used")
    if reckoned.missing_rain:
        morning.fallbacks.append(f"rain_mm is missing on {reckoned.missing_rain} day(s), taken as dry")
    source = "water_balance" if reading.age else "last_reading"
    return Estimate("depletion_frac", "1", None, reckoned.depletion_frac, None, source)


def _note_old_temperature(morning: _Morning) -> None:
    reading = last_seen(morning.records, "tmin_c", "tmax_c")
    if reading is None or reading.age >= LAST_MORNINGS:
        since = "was never measured" if reading is None else f"is missing for {reading.age} mornings"
        morning.fallbacks.append(f"nitrogen: temperature {since}; split dates are reckoned with an assumed mean")


def _next_split(rule: SplitRule, records: Records) -> str:
    """When the next split is to be expected, at the pace of the last seven days."""
    due = rule.due_mornings(records)
    ahead = [split for split, morning in enumerate(due) if morning is None]
    if not ahead:
        return f"no nitrogen today; all {len(due)} splits were due earlier"
    split = ahead[0]
    head = f"no nitrogen today; split {split + 1} of {len(due)} is due"
    if split == 0:
        return f"{head} {rule.split_gdd[0]:g} days after sowing"
    known = gdd(records)
    week = min(7, len(known) - 1)
    pace = float(known[-1] - known[-1 - week]) / week if week else 0.0
    missing = rule.split_gdd[split] - float(known[-1])
    when = f", in about {max(1, round(missing / pace))} day(s) at last week's pace" if pace > 0.0 else ""
    return f"{head} at {rule.split_gdd[split]:g} degree days, {known[-1]:.0f} so far{when}"
