from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from headland_edge.features import FEATURES, clean, derive, gdd, gdd_of_many, window
from headland_edge.records import COLUMN_INFO, COLUMNS, Records
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edge.small_bundle import histories, lost, season

AT = {feature.name: index for index, feature in enumerate(FEATURES)}


def channel(records: Records, name: str) -> np.ndarray:
    """A channel in its own unit."""
    return derive(records)[:, AT[name]] * FEATURES[AT[name]].scale


@given(histories(wild=True), st.data())
def test_a_row_does_not_depend_on_later_mornings_bit_for_bit(records: Records, data: st.DataObject) -> None:
    whole = derive(records)
    k = data.draw(st.integers(0, records.n_mornings - 1))
    np.testing.assert_array_equal(derive(records.until(k)).view(np.int32), whole[: k + 1].view(np.int32))
    np.testing.assert_array_equal(gdd(records.until(k)).view(np.int64), gdd(records)[: k + 1].view(np.int64))


@settings(max_examples=30)
@given(histories(max_mornings=300))
def test_every_prefix_of_a_season_matches(records: Records) -> None:
    whole = derive(records)
    last_rows = np.stack([derive(records.until(k))[-1] for k in range(0, records.n_mornings, 7)])
    np.testing.assert_array_equal(last_rows.view(np.int32), whole[::7].view(np.int32))


@given(histories(wild=True))
def test_features_are_always_finite(records: Records) -> None:
    features = derive(records)
    assert features.dtype == np.float32
    assert features.shape == (records.n_mornings, len(FEATURES))
    assert np.isfinite(features).all()


@given(histories(wild=True))
def test_cleaning_changes_no_feature(records: Records) -> None:
    cleaned, problems = clean(records)
    np.testing.assert_array_equal(derive(cleaned), derive(records))
    assert (cleaned is records) == (not problems)
    again, none_left = clean(cleaned)
    assert none_left == ()
    assert again is cleaned


@given(histories(wild=True))
def test_cleaning_drops_exactly_what_is_out_of_range(records: Records) -> None:
    cleaned, problems = clean(records)
    for index, info in enumerate(COLUMN_INFO.values()):
        values = records.values[:, index]
        expected = np.where((values < info.low) | (values > info.high), np.nan, values)
        np.testing.assert_array_equal(cleaned.values[:, index], expected)
    named = {problem.split(":")[0] for problem in problems}
    changed = ~((cleaned.values == records.values) | np.isnan(records.values))
    assert named == {COLUMNS[i] for i in np.flatnonzero(changed.any(axis=0))}


def test_a_problem_names_column_value_and_date() -> None:
    records = season("maize", 5)
    records.values[3, COLUMNS.index("et0_mm")] = 77.0
    (problem,) = clean(records)[1]
    for part in ("et0_mm", "1 reading", "77", "2009-04-23", "mm"):
        assert part in problem


def test_sensed_values_are_scaled_and_zero_when_missing() -> None:
    records = lost(season("wheat", 3, soil_mineral_n_kg_ha=50.0), "soil_mineral_n_kg_ha", 1)
    features = derive(records)
    assert channel(records, "soil_mineral_n_kg_ha") == pytest.approx([50.0, 50.0, 0.0])
    assert features[0, AT["soil_mineral_n_kg_ha"]] == pytest.approx(50.0 / FEATURES[AT["soil_mineral_n_kg_ha"]].scale)
    assert features[:, AT["soil_mineral_n_seen"]].tolist() == [1.0, 1.0, 0.0]
    assert features[:, AT["is_wheat"]].tolist() == [1.0] * 3
    assert channel(records, "days_after_sowing") == pytest.approx([0.0, 1.0, 2.0])


@pytest.mark.parametrize("column", ["rain_mm", "et0_mm", "tmin_c", "tmax_c"])
def test_weather_counts_as_seen_only_if_complete(column: str) -> None:
    assert derive(lost(season("maize", 3), column, 1))[:, AT["weather_seen"]].tolist() == [1.0, 1.0, 0.0]


def test_totals_start_on_the_day_of_sowing() -> None:
    records = season("maize", 4, rain_mm=np.array([50.0, 1.0, np.nan, 2.0]), irrigation_mm=np.array([0, 10.0, 0, 5.0]))
    assert channel(records, "rain_total_mm") == pytest.approx([0.0, 1.0, 1.0, 3.0])
    assert channel(records, "irrigation_total_mm") == pytest.approx([0.0, 10.0, 10.0, 15.0])
    assert channel(records, "et0_total_mm") == pytest.approx([0.0, 4.0, 8.0, 12.0])


def test_growing_degree_days_by_hand() -> None:
    tmax = np.array([np.nan, 20.0, np.nan, 2.0, -30.0])
    assert gdd(season("wheat", 5, tmin_c=10.0, tmax_c=tmax)).tolist() == [0.0, 15.0, 30.0, 36.0, 36.0]
    assert gdd(season("maize", 5, tmin_c=10.0, tmax_c=tmax)).tolist() == [0.0, 7.0, 14.0, 14.0, 14.0]
    unknown = season("wheat", 3, tmin_c=np.nan)
    assert gdd(unknown).tolist() == [0.0, 15.0, 30.0]


@given(st.lists(histories(wild=True, max_mornings=20), min_size=1, max_size=4), st.sampled_from(["maize", "wheat"]))
def test_degree_days_of_many_fields_equal_those_of_each(fields: list[Records], crop: str) -> None:
    mornings = min(records.n_mornings for records in fields)
    values = np.stack([records.values[:mornings] for records in fields])
    each = [gdd(Records(crop, date(2009, 4, 20), field)) for field in values]
    np.testing.assert_array_equal(gdd_of_many(crop, values), np.stack(each))


@given(histories(), st.integers(1, 80), st.data())
def test_a_window_is_the_padded_history(records: Records, length: int, data: st.DataObject) -> None:
    features = derive(records)
    end = data.draw(st.integers(0, records.n_mornings - 1))
    padded = np.vstack([np.zeros((length - 1, len(FEATURES)), np.float32), features])
    taken = window(features, end, length)
    np.testing.assert_array_equal(taken, padded[end : end + length].T)
    assert taken.flags.c_contiguous
    assert taken[AT["grown"]].sum() == min(end + 1, length)


@pytest.mark.parametrize("end", [-1, 3])
def test_a_window_past_the_records_is_refused(end: int) -> None:
    with pytest.raises(IndexError, match="morning"):
        window(derive(season("maize", 3)), end, 4)


def test_features_have_names_of_their_own_and_positive_scales() -> None:
    assert len(AT) == len(FEATURES)
    assert all(feature.scale > 0 for feature in FEATURES)
