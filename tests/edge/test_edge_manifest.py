from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from headland_edge.manifest import (
    Calibration,
    CropPolicy,
    ManifestError,
    Target,
    manifest_bytes,
    manifest_from_dict,
    parse_manifest,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.edge.small_bundle import IRRIGATION, IRRIGATION_BY_SENSOR, NITROGEN, NITROGEN_BY_SENSOR, TARGETS, manifest_of


def plain_manifest() -> dict[str, Any]:
    models = {
        name: {
            "file": f"models/{name}.onnx",
            "sha256": "a" * 64,
            "crops": crops,
            "window_days": 16,
            "target": {"name": target, "unit": unit, "offset": 0.5, "scale": scale},
            "golden": {"inputs": "i.npy", "outputs": "o.npy", "tolerance": 0.01},
            "kind": "int8",
        }
        for name, (target, unit, scale, crops) in TARGETS.items()
    }
    files = dict.fromkeys(("i.npy", "o.npy", *(model["file"] for model in models.values())), "a" * 64)
    return copy.deepcopy({**manifest_of(models), "files": files})


def paths(plain: Any, head: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path of every key with a fixed name; what is below lineage and files is free."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in items:
        yield (*head, key)
        if key not in ("lineage", "files"):
            yield from paths(value, (*head, key))


def at(plain: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        plain = plain[key]
    return plain


EVERY = list(paths(plain_manifest()))


def test_a_good_manifest_is_read_in_full() -> None:
    manifest = parse_manifest(manifest_bytes(plain_manifest()))
    assert manifest.release.counter == 2009000
    assert manifest.models["yield"].crops == ("maize", "wheat")
    assert manifest.policy["maize"] == CropPolicy(IRRIGATION, IRRIGATION_BY_SENSOR, IRRIGATION_BY_SENSOR)
    assert manifest.policy["wheat"] == CropPolicy(NITROGEN, NITROGEN_BY_SENSOR, NITROGEN)


def test_a_target_gives_values_in_its_unit() -> None:
    target = manifest_from_dict(plain_manifest()).models["nitrogen"].target
    assert target.value(np.array([0.0, 0.25], np.float32)).tolist() == [0.5, 25.5]


def named_keys() -> list[tuple[Any, ...]]:
    """Keys that must be there: all but names of models, crops, channels' positions and extra rules."""
    free = {("models",), ("policy",)}
    return [p for p in EVERY if isinstance(p[-1], str) and p[:-1] not in free and p[-1] != "fixed_rule"]


@pytest.mark.parametrize("path", named_keys(), ids=lambda path: ".".join(map(str, path)))
def test_a_missing_key_is_named(path: tuple[Any, ...]) -> None:
    plain = plain_manifest()
    del at(plain, path[:-1])[path[-1]]
    with pytest.raises(ManifestError) as caught:
        manifest_from_dict(plain)
    assert str(path[-1]) in str(caught.value)


def wrong_values(path: tuple[Any, ...]) -> list[Any]:
    """Values that no key takes; an empty lineage, a negative offset and negative rule numbers are fine."""
    values: list[Any] = [None, True, [], "", float("nan")]
    if path != ("lineage",):
        values.append({})
    if path[-1] != "offset" and path[0] != "policy":
        values.append(-1)
    return values


@pytest.mark.parametrize("path", EVERY, ids=lambda path: ".".join(map(str, path)))
def test_a_value_of_the_wrong_kind_is_refused(path: tuple[Any, ...]) -> None:
    for value in wrong_values(path):
        plain = plain_manifest()
        at(plain, path[:-1])[path[-1]] = value
        with pytest.raises(ManifestError):
            manifest_from_dict(plain)


@pytest.mark.parametrize("path", [(), ("release",), ("models", "yield"), ("models", "yield", "golden"), ("inputs", 0)])
def test_an_unknown_key_is_refused(path: tuple[Any, ...]) -> None:
    plain = plain_manifest()
    at(plain, path)["surprise"] = 1
    with pytest.raises(ManifestError, match="surprise"):
        manifest_from_dict(plain)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("schema_version",), 2, "this headland-edge reads 1"),
        (("models", "yield", "kind"), "fp16", "int8, fp32, control"),
        (("models", "yield", "crops"), ["rice"], "rice"),
        (("models", "yield", "file"), "models/none.onnx", "not among the bundle's files"),
        (("models", "yield", "sha256"), "b" * 64, "differs"),
        (("models", "yield", "sha256"), "A" * 64, "lower-case"),
        (("models", "yield", "target", "scale"), 0, "positive"),
        (("models", "yield", "target", "scale"), 10**400, "finite"),
        (("policy", "rice"), {}, "rice"),
        (("policy", "maize", "rule", "thresholds_frac"), [0.1], "thresholds_frac"),
    ],
)
def test_values_that_make_no_sense(path: tuple[Any, ...], value: Any, named: str) -> None:
    plain = plain_manifest()
    at(plain, path[:-1])[path[-1]] = value
    with pytest.raises(ManifestError, match=named):
        manifest_from_dict(plain)


def test_a_rule_of_the_other_crop_is_refused() -> None:
    plain = plain_manifest()
    plain["policy"]["maize"]["rule"] = copy.deepcopy(plain["policy"]["wheat"]["rule"])
    with pytest.raises(
        ManifestError, match=r"policy\.maize\.rule: a maize rule must be a FourStageRule or DayCurveRule"
    ):
        manifest_from_dict(plain)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b'{"a": 1, "a": 1}', b"[" * 100_000, b"1" * 5000]
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_json_is_refused_as_a_manifest_error(value: Any) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(json.dumps(value).encode())


def test_manifest_bytes_do_not_depend_on_the_order_of_keys() -> None:
    plain = plain_manifest()
    assert manifest_bytes(dict(reversed(plain.items()))) == manifest_bytes(plain)
    with pytest.raises(ValueError, match="JSON"):
        manifest_bytes({"a": float("nan")})


def test_calibration_stretches_each_half_and_carries_the_trend_no_further_than_it_says() -> None:
    calibration = Calibration(reference_season=2000, last_season=2010, trend_per_year_frac=0.01, lower=2.0, upper=0.5)
    quantiles = np.array([4.0, 5.0, 7.0])
    assert calibration.apply(quantiles, 2000).tolist() == [3.0, 5.0, 6.0]
    np.testing.assert_allclose(calibration.apply(quantiles, 2010), np.array([3.0, 5.0, 6.0]) * 1.1)
    np.testing.assert_array_equal(calibration.apply(quantiles, 2050), calibration.apply(quantiles, 2010))


def test_a_crop_without_calibration_takes_the_nets_band_sorted() -> None:
    known = Calibration(2000, 2010, 0.0, 2.0, 1.0)
    target = Target("yield_t_ha", "t/ha", 0.0, 10.0, {"maize": known})
    output = np.array([[0.7, 0.4, 0.5]], np.float32)
    np.testing.assert_allclose(target.quantiles(output, "wheat", 2005), [[4.0, 5.0, 7.0]], rtol=1e-6)
    np.testing.assert_allclose(target.quantiles(output, "maize", 2005), [[3.0, 5.0, 7.0]], rtol=1e-6)


def test_a_calibration_is_read_from_the_manifest_and_a_bad_one_named() -> None:
    plain = plain_manifest()
    wanted = {"reference_season": 2000, "last_season": 2010, "trend_per_year_frac": 0.01, "lower": 1.2, "upper": 1.1}
    plain["models"]["yield"]["target"]["calibration"] = {"maize": wanted}
    assert manifest_from_dict(plain).models["yield"].target.calibration["maize"] == Calibration(**wanted)
    wanted["lower"] = 0.0
    with pytest.raises(ManifestError, match=r"calibration\.maize\.lower"):
        manifest_from_dict(plain)
