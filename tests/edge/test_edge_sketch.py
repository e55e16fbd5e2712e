"""The sketch: strict to read, blind to what is missing, and a drift that begins and ends."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from headland_edge.bundle import BundleError, decode_bundle, encode_bundle
from headland_edge.features import derive
from headland_edge.manifest import ManifestError, manifest_from_dict
from headland_edge.sketch import (
    BINS,
    LEVELS,
    MAX_BYTES,
    MOST_SURPRISE,
    SUMMARY,
    CropSketch,
    Drift,
    Limits,
    SketchError,
    parse_sketch,
    sketch_bytes,
    summarise,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edge.small_bundle import histories, lost, parts, season

LIMITS = Limits(1.5, 1.2)
K = len(SUMMARY)


def made_up(mean: float = 0.3, spread: float = 0.2) -> CropSketch:
    return CropSketch(
        mean=np.full((BINS, K), mean),
        spread=np.full((BINS, K), spread),
        axes=np.eye(K)[:, :3],
        variance=np.array([2.0, 1.0, 1.0]),
        rest=0.5,
        novelty=np.linspace(0.0, 12.0, len(LEVELS)),
        widths={"yield_t_ha": np.tile(np.linspace(0.5, 3.0, len(LEVELS)), (BINS, 1))},
        limits=LIMITS,
    )


def plain() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sketch_bytes({"maize": made_up()}))
    return found


def test_what_is_written_is_read_back_and_has_one_form() -> None:
    data = sketch_bytes({"maize": made_up(), "wheat": made_up(0.2)})
    assert sketch_bytes(parse_sketch(data)) == data
    assert set(parse_sketch(data)) == {"maize", "wheat"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("summary",), ["rain_mm"]),
        (("crops",), {}),
        (("crops",), {"rice": {}}),
        (("crops", "maize", "mean"), [[0.0]]),
        (("crops", "maize", "mean"), "many"),
        (("crops", "maize", "spread"), [[-1.0] * K] * BINS),
        (("crops", "maize", "axes"), [[]] * K),
        (("crops", "maize", "variance"), [1.0, 0.0, 1.0]),
        (("crops", "maize", "rest"), True),
        (("crops", "maize", "rest"), 1e300),
        (("crops", "maize", "novelty"), [3.0, *[2.0] * (len(LEVELS) - 1)]),
        (("crops", "maize", "widths"), {"yield_t_ha": [[1.0]]}),
        (("crops", "maize", "limits"), {"start": 1.0, "over": 1.0}),
        (("crops", "maize", "limits"), {"start": MOST_SURPRISE, "over": 1.0}),
        (("crops", "maize", "more"), 1),
    ],
)
def test_whatever_is_wrong_is_refused(path: tuple[str, ...], value: object) -> None:
    changed = plain()
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(SketchError):
        parse_sketch(json.dumps(changed).encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises(SketchError):
        parse_sketch(data)


def test_a_flood_is_refused_before_it_is_read() -> None:
    with pytest.raises(SketchError, match=str(MAX_BYTES)):
        parse_sketch(b" " * (MAX_BYTES + 1))
    with pytest.raises(SketchError, match="NaN"):
        parse_sketch(sketch_bytes({"maize": made_up()}).replace(b'"rest":0.5', b'"rest":NaN'))


@given(histories(wild=True))
@settings(max_examples=60, deadline=None)
def test_novelty_is_a_share_or_unknown_and_needs_no_future(records: Any) -> None:
    features = derive(records)
    found = made_up().novelties(features)
    assert found.shape == (records.n_mornings,)
    known = found[~np.isnan(found)]
    assert ((known >= 0) & (known <= 1)).all()
    half = made_up().novelties(derive(records.until(records.n_mornings // 2)))
    np.testing.assert_array_equal(found[: len(half)], half)


def test_a_silent_sensor_is_not_novel_and_a_foreign_soil_is() -> None:
    usual = season("maize", 60)
    rows = summarise(derive(usual))
    spread = np.full((BINS, K), 0.05)
    known = CropSketch(**{**vars(made_up()), "mean": np.tile(rows[-1], (BINS, 1)), "spread": spread})
    at_the_end = [
        known.novelties(derive(records))[-1]
        for records in (usual, lost(usual, "lai", 20), season("maize", 60, taw_mm=300.0))
    ]
    assert at_the_end[1] <= at_the_end[0] + 0.05
    assert at_the_end[2] > at_the_end[0] + 0.3


def test_uncertainty_is_the_share_of_narrower_bands() -> None:
    known = made_up()
    assert known.uncertainty("yield_t_ha", 40, 0.1) == 0.0
    assert known.uncertainty("yield_t_ha", 4000, 9.0) == 1.0
    assert 0.0 < known.uncertainty("yield_t_ha", -1, 1.0) < known.uncertainty("yield_t_ha", 3, 2.0) < 1.0
    assert math.isnan(known.uncertainty("depletion_frac", 3, 2.0))


novelties = st.lists(st.floats(0.0, 1.0) | st.just(math.nan), max_size=300)


@given(novelties)
def test_drift_stays_in_bounds_and_changes_only_at_its_limits(seen: list[float]) -> None:
    state = Drift()
    for novelty in seen:
        after = state.next(novelty, LIMITS)
        assert 0.0 <= after.level <= MOST_SURPRISE
        if math.isnan(novelty):
            assert after == state
        if after.drifting and not state.drifting:
            assert after.level > LIMITS.start
        if state.drifting and not after.drifting:
            assert after.level <= LIMITS.over
        state = after


@given(st.integers(1, 200), novelties)
def test_what_stays_foreign_drifts_and_what_is_ordinary_again_is_over(mornings: int, before: list[float]) -> None:
    state = Drift()
    for novelty in before:
        state = state.next(novelty, LIMITS)
    for _ in range(10):
        state = state.next(1.0, LIMITS)
    assert state.drifting
    for _ in range(40):
        state = state.next(0.5, LIMITS)
    assert not state.drifting
    for _ in range(mornings):
        state = state.next(0.5, LIMITS)
        assert not state.drifting


def test_a_bundle_with_a_sketch_opens_and_a_wrong_one_does_not(tmp_path: Any) -> None:
    manifest, members = parts()
    path = tmp_path / "bundle.tar"
    assert decode_bundle(encode_bundle(manifest, members), path).sketch == {}
    told = {**manifest, "sketch": {"file": "sketch.json"}}
    good = {**members, "sketch.json": sketch_bytes({"maize": made_up()})}
    bundle = decode_bundle(encode_bundle(told, good), path)
    assert bundle.manifest.sketch is not None
    assert set(bundle.sketch) == {"maize"}
    with pytest.raises(BundleError, match=r"sketch\.json"):
        encode_bundle(told, {**members, "sketch.json": b"{}"})
    with pytest.raises(BundleError, match="sketch"):
        encode_bundle(told, members)


def test_a_manifest_names_only_a_sketch_it_holds() -> None:
    manifest, _ = parts()
    named = {"file": "sketch.json", "sha256": "a" * 64}
    files = {each["file"]: "b" * 64 for each in manifest["models"].values()}
    golden = {each["golden"][key]: "c" * 64 for each in manifest["models"].values() for key in ("inputs", "outputs")}
    models = {name: {**each, "sha256": "b" * 64} for name, each in manifest["models"].items()}
    whole = {**manifest, "models": models, "files": {**files, **golden, "sketch.json": "a" * 64}, "sketch": named}
    assert manifest_from_dict(whole).sketch is not None
    with pytest.raises(ManifestError, match="sketch"):
        manifest_from_dict({**whole, "sketch": {**named, "sha256": "d" * 64}})
