"""The manifest: what a bundle holds, what it fits, and what is promised of it.

Plain JSON with a fixed set of keys. Parsing checks every key, type and range, so that code past this module
works with typed values only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from headland_edge.advantage import Belief, inputs_for
from headland_edge.records import COLUMN_INFO, CROPS, MAX_MORNINGS
from headland_edge.rules import DayCurveRule, FourStageRule, Rule, RuleError, SplitRule, rule_from_dict

SCHEMA_VERSION = 1
KINDS = ("int8", "fp32", "control")
_RULES_OF_CROP: dict[str, tuple[type[Rule], ...]] = {"maize": (FourStageRule, DayCurveRule), "wheat": (SplitRule,)}
T = TypeVar("T")
FloatArray = NDArray[np.floating[Any]]


class ManifestError(ValueError):
    """The manifest is not usable; the message names the key and what is expected."""


@dataclass(frozen=True)
class Release:
    """Which release this is; devices never go back to a lower counter."""

    counter: int
    as_of: int
    """Season the models were prepared for; they learned from earlier ones only."""


@dataclass(frozen=True)
class Hardware:
    """What a device needs."""

    min_ram_mb: int
    arch: tuple[str, ...]
    """Machine names as the kernel gives them: x86_64, aarch64."""


@dataclass(frozen=True)
class InputChannel:
    """One input channel of the models; must equal the device's own feature."""

    name: str
    unit: str
    scale: float


@dataclass(frozen=True)
class Calibration:
    """What training taught about one crop besides the net: a trend over years, and how wide the band must be."""

    reference_season: int
    last_season: int
    """The trend is carried on to this season and no further: later ones take its value there."""
    trend_per_year_frac: float
    """Values grow by this share of the reference season's each year; 0 for none."""
    lower: float
    """Factor on the lower half of the band, around the median."""
    upper: float
    """Factor on the upper half."""

    def growth(self, season: int) -> float:
        """The trend's factor in ``season``."""
        return 1.0 + self.trend_per_year_frac * (min(season, self.last_season) - self.reference_season)

    def apply(self, quantiles: NDArray[np.float64], season: int) -> NDArray[np.float64]:
        """Sorted quantiles of shape (..., 3) in the target's unit, calibrated for ``season``."""
        low, median, high = np.moveaxis(quantiles, -1, 0)
        band = np.stack([median - self.lower * (median - low), median, median + self.upper * (high - median)], axis=-1)
        return np.asarray(band * self.growth(season))


@dataclass(frozen=True)
class Target:
    """What a model estimates: value = offset + scale * output, in ``unit``, calibrated where the crop has one."""

    name: str
    unit: str
    offset: float
    scale: float
    calibration: dict[str, Calibration] = field(default_factory=dict)
    """By crop; a crop without one takes the net's band as it is."""

    def value(self, output: FloatArray) -> NDArray[np.float64]:
        """Outputs of the net in this target's unit, same shape, not calibrated."""
        return np.asarray(self.offset + self.scale * np.asarray(output, np.float64))

    def quantiles(self, output: FloatArray, crop: str, season: int) -> NDArray[np.float64]:
        """Outputs of shape (..., 3) as sorted quantiles of ``crop`` in ``season``, in this target's unit.

        Only a depletion may be negative: soil wetter than field capacity. A net may say so of the others by a hair.
        """
        ordered = np.sort(self.value(output), axis=-1)
        calibration = self.calibration.get(crop)
        known = ordered if calibration is None else calibration.apply(ordered, season)
        return known if self.name == "depletion_frac" else np.asarray(np.maximum(known, 0.0))


@dataclass(frozen=True)
class Golden:
    """Inputs with known outputs; a device must reproduce them within ``tolerance`` (in scaled units)."""

    inputs: str
    outputs: str
    tolerance: float


@dataclass(frozen=True)
class Model:
    """One ONNX model of the bundle."""

    file: str
    sha256: str
    crops: tuple[str, ...]
    window_days: int
    target: Target
    golden: Golden
    kind: str


@dataclass(frozen=True)
class Advantage:
    """A net that may better a crop's rule; see ``headland_edge.advantage``."""

    file: str
    sha256: str
    belief: Belief
    golden: Golden
    """Tolerance in USD/ha."""


@dataclass(frozen=True)
class CropPolicy:
    """How a dose follows from a state, as rules."""

    rule: Rule
    """Acts on a net's estimate."""
    sensor_rule: Rule
    """Acts on raw readings, in fallbacks."""
    fixed_rule: Rule | None = None
    """A plainer rule, for comparison; the device does not use it. Wheat: fixed doses, without any reading. Maize: the
    four-stage threshold on raw readings."""
    advantage: Advantage | None = None
    """A net that may better the rule's dose; none in bundles without one."""


@dataclass(frozen=True)
class SketchMember:
    """Where the sketch of the training data lies; see ``headland_edge.sketch``."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Budgets:
    """What advice may cost on the device."""

    latency_p99_ms: float
    peak_rss_mb: float


@dataclass(frozen=True)
class Manifest:
    """The whole manifest; ``parse_manifest`` makes one from bytes."""

    schema_version: int
    release: Release
    hardware: Hardware
    features_version: int
    inputs: tuple[InputChannel, ...]
    models: dict[str, Model]
    policy: dict[str, CropPolicy]
    """By crop."""
    budgets: Budgets
    lineage: dict[str, object]
    """Where the bundle comes from; free-form, read by people and the registry."""
    files: dict[str, str]
    """SHA-256 of every member but the manifest and its own hash."""
    sketch: SketchMember | None = None
    """None in bundles of before there were sketches."""


def parse_manifest(data: bytes) -> Manifest:
    """Parse and check manifest JSON.

    Raises:
        ManifestError: not JSON, or a key is missing, unknown, of the wrong type or out of range.
    """
    try:
        plain = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"not valid JSON: {error}") from None
    return manifest_from_dict(plain)


def manifest_from_dict(plain: object) -> Manifest:
    """Check the plain form of a manifest; raises ManifestError naming the key."""
    top = _Node(plain, "manifest")
    version = top.whole("schema_version", 1)
    if version != SCHEMA_VERSION:
        top.fail(
            "schema_version", f"is {version}, this headland-edge reads {SCHEMA_VERSION}; install a fitting release"
        )
    manifest = Manifest(
        schema_version=version,
        release=_release(top.node("release")),
        hardware=_hardware(top.node("hardware")),
        features_version=top.whole("features_version", 1),
        inputs=tuple(_input(node) for node in top.nodes("inputs")),
        models={name: _model(node) for name, node in top.children("models").items()},
        policy={crop: _policy(crop, node) for crop, node in top.children("policy").items()},
        budgets=_budgets(top.node("budgets")),
        lineage=dict(top.get("lineage", Mapping, "an object")),
        files={name: _sha256(value, f"files.{name}") for name, value in top.get("files", Mapping, "an object").items()},
        sketch=_sketch(top.node("sketch")) if top.has("sketch") else None,
    )
    top.done()
    _check_references(manifest)
    return manifest


def manifest_bytes(plain: Mapping[str, object]) -> bytes:
    """Canonical JSON: sorted keys, two spaces, a final newline. Raises ValueError on NaN."""
    return (json.dumps(plain, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _check_references(manifest: Manifest) -> None:
    for name, model in manifest.models.items():
        for key, file in (("file", model.file), ("golden", model.golden.inputs), ("golden", model.golden.outputs)):
            if file not in manifest.files:
                raise ManifestError(f"models.{name}.{key}: {file!r} is not among the bundle's files")
        if manifest.files[model.file] != model.sha256:
            raise ManifestError(f"models.{name}.sha256: differs from files.{model.file}")
    for crop, policy in manifest.policy.items():
        if (net := policy.advantage) is not None:
            for file in (net.file, net.golden.inputs, net.golden.outputs):
                if file not in manifest.files:
                    raise ManifestError(f"policy.{crop}.advantage: {file!r} is not among the bundle's files")
            if manifest.files[net.file] != net.sha256:
                raise ManifestError(f"policy.{crop}.advantage.sha256: differs from files.{net.file}")
    sketch = manifest.sketch
    if sketch is not None and manifest.files.get(sketch.file) != sketch.sha256:
        raise ManifestError(f"sketch: {sketch.file!r} is not among the bundle's files with that hash")


def _release(node: _Node) -> Release:
    return node.finish(Release(counter=node.whole("counter", 0), as_of=node.whole("as_of", 1)))


def _hardware(node: _Node) -> Hardware:
    return node.finish(Hardware(min_ram_mb=node.whole("min_ram_mb", 0), arch=node.texts("arch")))


def _input(node: _Node) -> InputChannel:
    channel = InputChannel(name=node.text("name"), unit=node.text("unit"), scale=node.number("scale", positive=True))
    return node.finish(channel)


def _model(node: _Node) -> Model:
    model = Model(
        file=node.text("file"),
        sha256=_sha256(node.text("sha256"), f"{node.path}.sha256"),
        crops=node.texts("crops"),
        window_days=node.whole("window_days", 1),
        target=_target(node.node("target")),
        golden=_golden(node.node("golden")),
        kind=node.text("kind"),
    )
    if model.window_days > MAX_MORNINGS:
        node.fail("window_days", f"must be at most {MAX_MORNINGS}, got {model.window_days}")
    if model.kind not in KINDS:
        node.fail("kind", f"must be one of {', '.join(KINDS)}, got {model.kind!r}")
    if not set(model.crops) <= set(CROPS):
        node.fail("crops", f"must be among {', '.join(CROPS)}, got {list(model.crops)}")
    return node.finish(model)


def _target(node: _Node) -> Target:
    target = Target(
        name=node.text("name"),
        unit=node.text("unit"),
        offset=node.number("offset"),
        scale=node.number("scale", positive=True),
        calibration=(
            {crop: _calibration(child) for crop, child in node.children("calibration").items()}
            if node.has("calibration")
            else {}
        ),
    )
    return node.finish(target)


def _calibration(node: _Node) -> Calibration:
    calibration = Calibration(
        reference_season=node.whole("reference_season", 1),
        last_season=node.whole("last_season", 1),
        trend_per_year_frac=node.number("trend_per_year_frac"),
        lower=node.number("lower", positive=True),
        upper=node.number("upper", positive=True),
    )
    return node.finish(calibration)


def _golden(node: _Node) -> Golden:
    tolerance = node.number("tolerance", positive=True)
    return node.finish(Golden(inputs=node.text("inputs"), outputs=node.text("outputs"), tolerance=tolerance))


def _policy(crop: str, node: _Node) -> CropPolicy:
    if crop not in _RULES_OF_CROP:
        raise ManifestError(f"{node.path}: crop {crop!r} is not known; use one of {', '.join(CROPS)}")
    fixed = _rule(crop, node, "fixed_rule") if node.has("fixed_rule") else None
    net = _advantage(crop, node.node("advantage")) if node.has("advantage") else None
    return node.finish(CropPolicy(_rule(crop, node, "rule"), _rule(crop, node, "sensor_rule"), fixed, net))


def _advantage(crop: str, node: _Node) -> Advantage:
    names = [feature.name for feature in inputs_for(crop)]
    if list(node.texts("inputs")) != names:
        node.fail("inputs", f"this headland-edge tells the net {', '.join(names)}; install the release that fits")
    made = Advantage(
        file=node.text("file"),
        sha256=_sha256(node.text("sha256"), f"{node.path}.sha256"),
        belief=_belief(crop, node.node("belief")),
        golden=_golden(node.node("golden")),
    )
    return node.finish(made)


def _belief(crop: str, node: _Node) -> Belief:
    count = len(inputs_for(crop))
    low, high, doses = node.numbers("low"), node.numbers("high"), node.numbers("doses")
    if not len(low) == len(high) == count or any(a > b for a, b in zip(low, high, strict=True)):
        node.fail("low", f"low and high need {count} numbers each, low not above high")
    most = COLUMN_INFO["irrigation_mm" if crop == "maize" else "nitrogen_kg_ha"].high
    if any(b <= a for a, b in pairwise(doses)) or not 0 <= doses[0] <= doses[-1] <= most:
        node.fail("doses", f"must ascend within 0 to {most:g}, got {list(doses)}")
    margin, reach = node.number("margin_usd_ha", positive=True), node.number("reach", positive=True)
    return node.finish(Belief(doses, margin, reach, low, high))


def _rule(crop: str, node: _Node, key: str) -> Rule:
    try:
        rule = rule_from_dict(node.get(key, Mapping, "an object"))
    except RuleError as error:
        node.fail(key, str(error))
    if not isinstance(rule, _RULES_OF_CROP[crop]):
        node.fail(key, f"a {crop} rule must be a {' or '.join(kind.__name__ for kind in _RULES_OF_CROP[crop])}")
    return rule


def _sketch(node: _Node) -> SketchMember:
    return node.finish(SketchMember(node.text("file"), _sha256(node.text("sha256"), f"{node.path}.sha256")))


def _budgets(node: _Node) -> Budgets:
    latency, memory = node.number("latency_p99_ms", positive=True), node.number("peak_rss_mb", positive=True)
    return node.finish(Budgets(latency_p99_ms=latency, peak_rss_mb=memory))


def _sha256(value: object, path: str) -> str:
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise ManifestError(f"{path}: must be a SHA-256 in lower-case hex, got {value!r}")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key stands twice among {sorted(key for key, _ in pairs)}")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


class _Node:
    """An object of the manifest that knows where it stands and which of its keys were read."""

    def __init__(self, plain: object, path: str) -> None:
        if not isinstance(plain, Mapping):
            raise ManifestError(f"{path}: must be an object, got {type(plain).__name__}")
        self.path = path
        self._plain = plain
        self._read: set[str] = set()

    def fail(self, key: str, why: str) -> NoReturn:
        """Raise ManifestError for ``key``."""
        raise ManifestError(f"{self.path}.{key}: {why}")

    def get(self, key: str, kind: type | tuple[type, ...], expected: str) -> Any:
        """Value of ``key``, which must be of ``kind``; a truth value is never a number."""
        self._read.add(key)
        if key not in self._plain:
            self.fail(key, f"is missing; it must be {expected}")
        value = self._plain[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            self.fail(key, f"must be {expected}, got {value!r}")
        return value

    def has(self, key: str) -> bool:
        """Whether an optional key is there."""
        return key in self._plain

    def text(self, key: str) -> str:
        """A non-empty text."""
        value: str = self.get(key, str, "a text")
        return value if value else self.fail(key, "must not be empty")

    def texts(self, key: str) -> tuple[str, ...]:
        """A non-empty list of texts."""
        values = self.get(key, list, "a list of texts")
        if not values or not all(isinstance(value, str) and value for value in values):
            self.fail(key, f"must be a list of texts, got {values!r}")
        return tuple(values)

    def whole(self, key: str, least: int) -> int:
        """A whole number not below ``least``."""
        value: int = self.get(key, int, "a whole number")
        return value if value >= least else self.fail(key, f"must be at least {least}, got {value}")

    def number(self, key: str, *, positive: bool = False) -> float:
        """A finite number."""
        value = self.get(key, (int, float), "a number")
        number = _finite(value)
        if number is None or (positive and number <= 0):
            self.fail(key, f"must be a {'positive ' if positive else ''}finite number, got {value!r}")
        return number

    def numbers(self, key: str) -> tuple[float, ...]:
        """A non-empty list of finite numbers."""
        values: list[Any] = self.get(key, list, "a list of numbers")
        found = [_finite(value) if isinstance(value, int | float) and value is not True else None for value in values]
        numbers = tuple(number for number in found if number is not None)
        return numbers if values and len(numbers) == len(values) else self.fail(key, "must be a list of finite numbers")

    def node(self, key: str) -> _Node:
        """An object below this one."""
        return _Node(self.get(key, Mapping, "an object"), f"{self.path}.{key}")

    def nodes(self, key: str) -> list[_Node]:
        """A list of objects below this one, at least one."""
        values: list[object] = self.get(key, list, "a list of objects")
        if not values:
            self.fail(key, "must not be empty")
        return [_Node(value, f"{self.path}.{key}[{index}]") for index, value in enumerate(values)]

    def children(self, key: str) -> dict[str, _Node]:
        """An object of objects below this one, at least one."""
        node = self.node(key)
        if not node._plain:
            self.fail(key, "must not be empty")
        return {name: _Node(value, f"{node.path}.{name}") for name, value in node._plain.items()}

    def done(self) -> None:
        """Raise ManifestError if a key was not read."""
        unknown = sorted(set(self._plain) - self._read)
        if unknown:
            self.fail(unknown[0], "is not a known key; remove it or install a newer headland-edge")

    def finish(self, made: T) -> T:
        """``made``, after checking that no key is left unread."""
        self.done()
        return made


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
