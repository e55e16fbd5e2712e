"""The advantage net on a device: what it is told, when it may speak, and what happens where it may not."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headland_edge.advantage import MAPS, Belief, choose, foreign, inputs_for, inputs_of
from headland_edge.advisor import Advisor
from headland_edge.bundle import BundleError, encode_bundle, open_bundle, write_bundle
from headland_edge.features import derive, derive_many
from headland_edge.records import COLUMNS, Records
from headland_edge.runtime import Session
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.edge.small_bundle import conv_net, npy, parts

DOSES = (0.0, 10.0, 20.0, 30.0)


def gain_net(gains: tuple[float, ...], crop: str = "maize", seed: int | None = None) -> bytes:
    """A net that always says ``gains``, or with ``seed`` something that its inputs move about them."""
    count = len(inputs_for(crop))
    shape = (count, len(gains))
    weight = np.zeros(shape) if seed is None else np.random.default_rng(seed).normal(0, 20, shape)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", [MAPS[0]], ["flat"]),
            helper.make_node("Gemm", ["flat", "weight", "bias"], [MAPS[1]]),
        ],
        "gains",
        [helper.make_tensor_value_info(MAPS[0], TensorProto.FLOAT, ["n", count, 1])],
        [helper.make_tensor_value_info(MAPS[1], TensorProto.FLOAT, ["n", len(gains)])],
        [
            numpy_helper.from_array(weight.astype(np.float32), "weight"),
            numpy_helper.from_array(np.array(gains, np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def entry(crop: str = "maize", **changes: Any) -> dict[str, Any]:
    """The manifest's entry of a net that is believed everywhere."""
    count = len(inputs_for(crop))
    belief = {
        "doses": list(DOSES),
        "margin_usd_ha": 1.0,
        "reach": 0.2,
        "low": [-99.0] * count,
        "high": [99.0] * count,
    }
    return {
        "file": f"advantage/{crop}.onnx",
        "inputs": changes.pop("inputs", [each.name for each in inputs_for(crop)]),
        "belief": belief | changes,
        "golden": {"inputs": "advantage/i.npy", "outputs": "advantage/o.npy", "tolerance": 0.5},
    }


def bundle_parts(
    gains: tuple[float, ...] = (0.0, 5.0, 9.0, 2.0), depletion: float = 0.35, **changes: Any
) -> tuple[dict[str, Any], dict[str, bytes]]:
    nets = {"irrigation": conv_net(quantiles=(depletion - 0.05, depletion, depletion + 0.05))}
    manifest, members = parts(nets)
    net = gain_net(gains)
    inputs = np.zeros((3, len(inputs_for("maize")), 1), np.float32)
    members |= {"advantage/maize.onnx": net, "advantage/i.npy": npy(inputs)}
    members["advantage/o.npy"] = npy(Session(net, "n", MAPS, len(gains)).run(inputs))
    maize = {**manifest["policy"]["maize"], "advantage": entry(**changes)}
    return {**manifest, "policy": {**manifest["policy"], "maize": maize}}, members


def season(mornings: int = 40, **columns: float) -> Records:
    usual = {"rain_mm": 1.0, "et0_mm": 5.0, "tmin_c": 12.0, "tmax_c": 26.0, "irrigation_mm": 0.0, "lai": 2.0}
    usual |= {"depletion_frac": 0.35, "taw_mm": 100.0, "nitrogen_kg_ha": 0.0} | columns
    values = np.tile([usual.get(name, np.nan) for name in COLUMNS], (mornings, 1))
    return Records("maize", date(2010, 5, 1), values)


def advice(tmp_path: Path, records: Records, **how: Any) -> Any:
    manifest, members = bundle_parts(**how)
    write_bundle(tmp_path / "b.tar", manifest, members)
    return Advisor(open_bundle(tmp_path / "b.tar")).advise(records, ("dose",))


def test_a_dose_that_is_worth_more_is_given_and_the_note_says_so(tmp_path: Path) -> None:
    said = advice(tmp_path, season())  # the rule's threshold on this day is 0.4: it would give nothing
    assert said.irrigation_mm == 20.0
    assert "20 instead of the rule's 0: worth about 9 USD/ha more" in said.notes
    assert said.models["advantage/maize"] == "int8"


def test_a_gain_within_the_margin_is_not_acted_on(tmp_path: Path) -> None:
    assert advice(tmp_path, season(), gains=(0.0, 0.5, 0.9, 0.2)).irrigation_mm == 0.0


def test_water_is_not_given_far_before_the_threshold_nor_withheld_far_past_it(tmp_path: Path) -> None:
    assert advice(tmp_path, season(), depletion=0.15).irrigation_mm == 0.0
    dry = advice(tmp_path, season(), depletion=0.75, gains=(9.0, -1.0, -1.0, -1.0))
    assert dry.irrigation_mm == 30.0


def test_what_the_net_never_saw_is_left_to_the_rule(tmp_path: Path) -> None:
    high = [99.0] * len(inputs_for("maize"))
    high[[each.name for each in inputs_for("maize")].index("et0_7d_mm")] = 0.3
    said = advice(tmp_path, season(), high=high)
    assert said.irrigation_mm == 0.0
    assert any("et0_7d_mm unlike anything the net learned from" in note for note in said.notes)


def test_a_canopy_that_was_not_read_lately_is_left_to_the_rule(tmp_path: Path) -> None:
    assert advice(tmp_path, season(lai=np.nan)).irrigation_mm == 0.0


def test_gains_that_are_no_numbers_change_nothing() -> None:
    broken = Belief(DOSES, 1.0, 0.2, (), ())
    dose, gain = choose("maize", broken, np.full((1, 4), np.nan), np.array([12.0]), np.array([0.1]))
    assert (dose[0], gain[0]) == (12.0, 0.0)


def test_the_season_limit_holds_for_the_net_too(tmp_path: Path) -> None:
    manifest, members = bundle_parts()
    manifest["policy"]["maize"]["rule"]["season_limit_mm"] = 50.0
    write_bundle(tmp_path / "b.tar", manifest, members)
    records = season()
    records.values[5, COLUMNS.index("irrigation_mm")] = 45.0
    assert Advisor(open_bundle(tmp_path / "b.tar")).advise(records, ("dose",)).irrigation_mm == 5.0


@given(
    rule=st.floats(0, 30),
    past=st.floats(-1, 1),
    gains=st.lists(st.floats(-50, 50), min_size=4, max_size=4),
    reach=st.floats(0.01, 0.5),
)
def test_a_chosen_dose_is_the_rules_or_one_within_reach_worth_the_margin(
    rule: float, past: float, gains: list[float], reach: float
) -> None:
    net = Belief(DOSES, 1.0, reach, (), ())
    dose, gain = choose("maize", net, np.array([gains]), np.array([rule]), np.array([past]))
    if gain[0] == 0.0:
        assert dose[0] == rule
    else:
        assert gain[0] > 1.0
        assert gains[DOSES.index(dose[0])] == gain[0]
        assert not (dose[0] < rule and past > reach)
        assert not (dose[0] > rule and past < -reach / 2)


@given(dose=st.floats(0, 120), gains=st.lists(st.floats(-50, 50), min_size=4, max_size=4))
def test_nitrogen_stays_within_reach_of_the_rule(dose: float, gains: list[float]) -> None:
    net = Belief(DOSES, 1.0, 15.0, (), ())
    chosen, _ = choose("wheat", net, np.array([gains]), np.array([dose]), np.array([0.0]))
    assert abs(chosen[0] - dose) <= 15.0


def test_one_morning_is_told_as_many_mornings_are() -> None:
    rng = np.random.default_rng(3)
    records = [season(30, rain_mm=float(rng.gamma(1, 5)), lai=float(rng.uniform(0, 5))) for _ in range(4)]
    many = derive_many("maize", np.stack([each.values for each in records]))
    quantiles, doses = rng.random((4, 3)), rng.uniform(0, 30, 4)
    together = inputs_of("maize", many, quantiles, doses)
    for i, each in enumerate(records):
        np.testing.assert_array_equal(derive(each), many[i])
        alone = inputs_of("maize", derive(each)[None], quantiles[i : i + 1], doses[i : i + 1])
        np.testing.assert_array_equal(alone[0], together[i])


def test_foreign_is_what_lies_outside_or_is_not_known() -> None:
    net = Belief(DOSES, 1.0, 0.2, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(foreign(net, np.array([[0.5, 1.5, np.nan]], np.float32)), [[False, True, True]])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"inputs": ["depletion_frac"]}, "advantage.inputs"),
        ({"doses": [10.0, 10.0]}, "belief.doses"),
        ({"doses": [-1.0, 10.0]}, "belief.doses"),
        ({"margin_usd_ha": 0.0}, "belief.margin_usd_ha"),
        ({"reach": "far"}, "belief.reach"),
        ({"low": [1.0]}, "belief.low"),
        ({"high": [True]}, "belief.high"),
        ({"surprise": 1}, "belief.surprise"),
    ],
)
def test_a_bad_entry_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    manifest, members = bundle_parts(**changes)
    with pytest.raises(BundleError, match=named):
        encode_bundle(manifest, members)


def test_a_net_that_is_not_in_the_bundle_is_refused() -> None:
    manifest, members = bundle_parts()
    manifest["policy"]["maize"]["advantage"]["file"] = "advantage/other.onnx"
    with pytest.raises(BundleError, match=r"policy\.maize\.advantage"):
        encode_bundle(manifest, members)


def test_golden_gains_that_do_not_match_are_refused(tmp_path: Path) -> None:
    manifest, members = bundle_parts()
    members["advantage/o.npy"] = npy(np.full((3, 4), 99.0, np.float32))
    write_bundle(tmp_path / "b.tar", manifest, members)
    with pytest.raises(BundleError, match=r"advantage/maize\.onnx: golden outputs differ"):
        open_bundle(tmp_path / "b.tar").verify_golden()


def test_a_net_of_another_form_is_named(tmp_path: Path) -> None:
    manifest, members = bundle_parts()
    members["advantage/maize.onnx"] = conv_net()
    write_bundle(tmp_path / "b.tar", manifest, members)
    with pytest.raises(BundleError, match="must map 'inputs'"):
        Advisor(open_bundle(tmp_path / "b.tar")).advise(season(), ("dose",))


def test_a_bundle_without_a_net_advises_by_the_rule(tmp_path: Path) -> None:
    manifest, members = parts({"irrigation": conv_net(quantiles=(0.3, 0.35, 0.4))})
    write_bundle(tmp_path / "b.tar", manifest, members)
    said = Advisor(open_bundle(tmp_path / "b.tar")).advise(season(), ("dose",))
    assert said.irrigation_mm == 0.0
    assert "advantage/maize" not in said.models
