from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headland_edge.advisor import Advice, AdviceRefused, Advisor
from headland_edge.bundle import Bundle, BundleError
from headland_edge.features import clean, derive, window
from headland_edge.records import COLUMNS, Records
from headland_edge.runtime import Session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edge.small_bundle import WINDOW_DAYS, conv_net, histories, lost, make_bundle, season


def numbers(value: Any) -> list[float]:
    """Every number in the plain form of an advice."""
    if isinstance(value, dict | list):
        return [n for part in (value.values() if isinstance(value, dict) else value) for n in numbers(part)]
    return [value] if isinstance(value, int | float) else []


def advise_or_reason(bundle: Bundle, records: Records) -> Advice | str:
    try:
        return Advisor(bundle).advise(records)
    except AdviceRefused as refused:
        return refused.reason


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=histories(wild=True), which=st.sampled_from(["bundle", "nan_bundle"]))
def test_advice_is_finite_or_refused_on_any_history(
    request: pytest.FixtureRequest, records: Records, which: str
) -> None:
    found = advise_or_reason(request.getfixturevalue(which), records)
    if isinstance(found, str):
        assert found
        return
    assert all(math.isfinite(number) for number in numbers(found.to_dict()))
    json.dumps(found.to_dict(), allow_nan=False)
    assert 0.0 <= found.irrigation_mm <= 30.0
    assert 0.0 <= found.nitrogen_kg_ha <= 120.0
    for estimate in (found.estimate, found.yield_t_ha):
        if estimate is not None and estimate.q10 is not None and estimate.q90 is not None:
            assert estimate.q10 <= estimate.q50 <= estimate.q90
            assert estimate.q10 >= 0.0 or estimate.name == "depletion_frac"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=histories(), k=st.integers(0, 59))
def test_advice_does_not_depend_on_what_was_asked_before(bundle: Bundle, records: Records, k: int) -> None:
    advisor = Advisor(bundle)
    earlier = records.until(min(k, records.n_mornings - 1))
    for asked in (earlier, records):
        try:
            first = advisor.advise(asked)
        except AdviceRefused:
            continue
        assert first == Advisor(bundle).advise(asked)


def test_maize_with_everything_measured(known_bundle: Bundle) -> None:
    records = season("maize", 41, depletion_frac=0.1)
    advice = Advisor(known_bundle).advise(records)
    assert advice.irrigation_mm == 30.0  # the net says 0.5 of 100 mm; stage threshold 0.4; at most 30 mm
    assert advice.estimate is not None
    assert advice.estimate.source == "model"
    assert (advice.estimate.q10, advice.estimate.q50, advice.estimate.q90) == pytest.approx((0.3, 0.5, 0.8))
    assert advice.yield_t_ha is not None
    assert (advice.yield_t_ha.q10, advice.yield_t_ha.q50, advice.yield_t_ha.q90) == pytest.approx((3.0, 5.0, 8.0))
    assert (advice.fallbacks, advice.problems) == ([], [])
    assert (advice.date, advice.days_after_sowing) == (date(2009, 5, 30), 40)
    assert advice.models == {"irrigation": "fp32", "yield": "fp32"}


def test_json_carries_units_release_and_bundle(known_bundle: Bundle) -> None:
    plain = Advisor(known_bundle).advise(season("maize", 41)).to_dict()
    assert plain["irrigation_mm"] == 30.0
    assert plain["depletion_frac"] == {"q10": 0.3, "q50": 0.5, "q90": 0.8, "unit": "1", "source": "model"}
    assert plain["yield_t_ha"] == {"q10": 3.0, "q50": 5.0, "q90": 8.0, "unit": "t/ha", "source": "model"}
    assert plain["release"] == {"counter": 2009000, "as_of": 2009}
    assert plain["bundle_sha256"] == known_bundle.sha256
    assert "nitrogen_kg_ha" not in plain


def test_the_estimate_is_the_nets_median_on_the_last_window(bundle: Bundle) -> None:
    rng = np.random.default_rng(5)
    records = season("maize", 90, rain_mm=rng.uniform(0, 20, 90), depletion_frac=rng.uniform(0, 1, 90))
    net = Session(bundle.model_bytes("irrigation"))
    expected = np.sort(net.run(window(derive(records), 89, WINDOW_DAYS)[np.newaxis])[0])
    advice = Advisor(bundle).advise(records)
    assert advice.estimate is not None
    assert advice.estimate.q50 == pytest.approx(max(float(expected[1]), 0.0), abs=1e-6)


@pytest.mark.parametrize("out", [0, 6])
def test_a_short_outage_leaves_the_net_in_charge(known_bundle: Bundle, out: int) -> None:
    advice = Advisor(known_bundle).advise(lost(season("maize", 41), "depletion_frac", out))
    assert advice.estimate is not None
    assert advice.estimate.source == "model"
    assert advice.fallbacks == []


@pytest.mark.parametrize("out", [7, 13])
def test_a_longer_outage_falls_back_to_the_water_balance_and_says_so(known_bundle: Bundle, out: int) -> None:
    records = lost(season("maize", 41, depletion_frac=0.66, et0_mm=4.0), "depletion_frac", out)
    advice = Advisor(known_bundle).advise(records)
    assert advice.estimate is not None
    assert advice.estimate.source == "water_balance"
    assert advice.estimate.q50 == pytest.approx(min(1.0, 0.66 + 0.04 * out))
    assert advice.estimate.q10 is None
    assert advice.irrigation_mm == 20.0  # by the sensor rule: threshold 0.9, at most 20 mm
    assert f"{out} mornings old" in advice.fallbacks[0]


def test_the_sensor_rule_decides_on_readings(known_bundle: Bundle) -> None:
    records = lost(season("maize", 41, depletion_frac=0.5, et0_mm=4.0), "depletion_frac", 7)
    assert Advisor(known_bundle).advise(records).irrigation_mm == 0.0  # 0.78 is above rule's 0.4, below 0.9


def test_after_fourteen_mornings_irrigation_is_refused(known_bundle: Bundle) -> None:
    for records in (lost(season("maize", 41), "depletion_frac", 14), lost(season("maize", 3), "depletion_frac", 3)):
        with pytest.raises(AdviceRefused, match="depletion_frac"):
            Advisor(known_bundle).advise(records)


def test_no_probe_and_no_weather_is_refused(known_bundle: Bundle) -> None:
    records = lost(lost(season("maize", 41), "depletion_frac", 8), "et0_mm", 14)
    with pytest.raises(AdviceRefused, match="et0_mm"):
        Advisor(known_bundle).advise(records)


def test_total_available_water_is_remembered_or_asked_for(known_bundle: Bundle) -> None:
    advice = Advisor(known_bundle).advise(lost(season("maize", 41, taw_mm=44.0), "taw_mm", 20))
    assert advice.irrigation_mm == pytest.approx(22.0)
    assert "taw_mm" in advice.fallbacks[0]
    with pytest.raises(AdviceRefused, match="taw_mm"):
        Advisor(known_bundle).advise(season("maize", 41, taw_mm=np.nan))


def test_faulty_readings_are_named_and_not_used(known_bundle: Bundle) -> None:
    records = season("maize", 41)
    records.values[-8:, COLUMNS.index("depletion_frac")] = 55.0
    advice = Advisor(known_bundle).advise(records)
    assert "depletion_frac" in advice.problems[0]
    assert advice.estimate is not None
    assert advice.estimate.source == "water_balance"
    assert np.isnan(clean(records)[0].column("depletion_frac")[-1])


def test_wheat_is_fed_on_split_mornings_only(known_bundle: Bundle) -> None:
    advisor = Advisor(known_bundle)
    whole = season("wheat", 60)
    doses = {k: advisor.advise(whole.until(k), want=("dose",)).nitrogen_kg_ha for k in range(60)}
    # The net's median supply is 50 kg/ha: 100 - 25, 60 - 25, 50 - 25.
    assert {k: dose for k, dose in doses.items() if dose} == pytest.approx({7: 75.0, 32: 35.0, 47: 25.0})


def test_wheat_between_splits_is_told_when_the_next_one_comes(known_bundle: Bundle) -> None:
    advisor = Advisor(known_bundle)
    assert "split 1 of 3 is due 7 days after sowing" in advisor.advise(season("wheat", 3)).notes[0]
    # Day 22: 330 of 480 degree days at 15 a day.
    assert (
        "split 2 of 3 is due at 480 degree days, 330 so far, in about 10 day"
        in advisor.advise(season("wheat", 23)).notes[0]
    )
    assert "all 3 splits" in advisor.advise(season("wheat", 60)).notes[0]
    assert "split 3" in advisor.advise(season("wheat", 48)).notes[0]


def test_an_old_soil_test_goes_into_the_sensor_rule(known_bundle: Bundle) -> None:
    fresh = Advisor(known_bundle).advise(lost(season("wheat", 33), "soil_mineral_n_kg_ha", 13))
    assert fresh.nitrogen_kg_ha == pytest.approx(35.0)
    assert fresh.fallbacks == []
    old = Advisor(known_bundle).advise(lost(season("wheat", 33), "soil_mineral_n_kg_ha", 14))
    assert old.nitrogen_kg_ha == pytest.approx(50.0 - 40.0)
    assert old.estimate is not None
    assert old.estimate.name == "soil_mineral_n_kg_ha"
    assert "14 mornings old" in old.fallbacks[0]
    assert old.to_dict()["soil_mineral_n_kg_ha"]["source"] == "last_reading"  # type: ignore[index]


def test_without_any_soil_test_a_split_is_refused_and_other_mornings_are_not(known_bundle: Bundle) -> None:
    advisor = Advisor(known_bundle)
    untested = season("wheat", 33, soil_mineral_n_kg_ha=np.nan)
    for k in (7, 32):
        with pytest.raises(AdviceRefused, match=r"split \d is due.*soil_mineral_n_kg_ha"):
            advisor.advise(untested.until(k))
    advice = advisor.advise(untested.until(20))
    assert (advice.nitrogen_kg_ha, advice.estimate) == (0.0, None)
    assert advice.to_dict()["n_supply_kg_ha"] is None


def test_split_dates_reckoned_without_temperature_are_stated(known_bundle: Bundle) -> None:
    advice = Advisor(known_bundle).advise(lost(season("wheat", 40), "tmax_c", 14))
    assert any("temperature is missing for 14 mornings" in said for said in advice.fallbacks)


@pytest.mark.parametrize("crop", ["maize", "wheat"])
def test_yield_needs_recent_weather(known_bundle: Bundle, crop: str) -> None:
    advice = Advisor(known_bundle).advise(lost(season(crop, 40), "rain_mm", 14))
    assert advice.yield_t_ha is None
    assert any(said.startswith("yield: no complete weather") for said in advice.fallbacks)
    assert Advisor(known_bundle).advise(lost(season(crop, 40), "rain_mm", 13)).yield_t_ha is not None


def test_a_net_that_says_nan_is_replaced_and_named(nan_bundle: Bundle) -> None:
    maize = Advisor(nan_bundle).advise(season("maize", 41, depletion_frac=0.95))
    assert maize.irrigation_mm == 20.0
    assert maize.yield_t_ha is None
    assert [said.split(":")[0] for said in maize.fallbacks] == ["irrigation", "yield"]
    wheat = Advisor(nan_bundle).advise(season("wheat", 33))
    assert wheat.nitrogen_kg_ha == pytest.approx(10.0)
    assert maize.models == wheat.models == {}


def test_only_what_is_wanted_is_said(known_bundle: Bundle) -> None:
    advisor = Advisor(known_bundle)
    dose = advisor.advise(season("maize", 41), want=("dose",))
    assert dose.yield_t_ha is None
    assert "yield_t_ha" not in dose.to_dict()
    harvest = advisor.advise(season("maize", 41, taw_mm=np.nan), want=("yield",))
    assert harvest.yield_t_ha is not None
    assert "irrigation_mm" not in harvest.to_dict()
    for nonsense in ((), ("dose", "weather")):
        with pytest.raises(ValueError, match="want must be some of"):
            advisor.advise(season("maize", 41), want=nonsense)


def test_a_crop_the_bundle_does_not_serve_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b.tar", {"irrigation": conv_net(quantiles=(0.1, 0.2, 0.3))})
    with pytest.raises(AdviceRefused, match="no model of n_supply_kg_ha for wheat"):
        Advisor(bundle).advise(season("wheat", 8))
    advice = Advisor(bundle).advise(season("maize", 8))
    assert advice.yield_t_ha is None
    assert "no model of yield_t_ha" in advice.fallbacks[0]
    no_wheat = replace(bundle, manifest=replace(bundle.manifest, policy={"maize": bundle.manifest.policy["maize"]}))
    with pytest.raises(AdviceRefused, match="does not advise on wheat"):
        Advisor(no_wheat).advise(season("wheat", 8))


def test_a_bundle_for_another_machine_is_refused(bundle: Bundle) -> None:
    other = replace(bundle.manifest.hardware, arch=("sparc",))
    with pytest.raises(BundleError, match="sparc"):
        Advisor(replace(bundle, manifest=replace(bundle.manifest, hardware=other)))


def test_a_model_that_does_not_load_names_its_member(bundle: Bundle) -> None:
    broken = replace(bundle, members={**bundle.members, "models/irrigation.onnx": b"x"})
    with pytest.raises(BundleError, match=r"models/irrigation\.onnx: does not load"):
        Advisor(broken).advise(season("maize", 8))
