from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from headland_edge.records import (
    COLUMN_INFO,
    COLUMNS,
    MAX_MORNINGS,
    RecordError,
    Records,
    parse_csv,
    read_csv,
    to_csv,
    write_csv,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.edge.small_bundle import histories, season

HEADER = "crop,sowing_date,date," + ",".join(COLUMNS)
LINE = "maize,2009-05-01,{day},0,4,10,20,0,0,0.3,100,,1"


def text_of(*lines: str) -> str:
    return "\n".join([HEADER, *lines]) + "\n"


@given(histories())
def test_csv_round_trip_is_bit_exact(records: Records) -> None:
    back = parse_csv(to_csv(records), "x")
    assert (back.crop, back.sowing_date) == (records.crop, records.sowing_date)
    np.testing.assert_array_equal(back.values.view(np.int64), (records.values + 0.0).view(np.int64))


def test_write_and_read_a_file(tmp_path: Path) -> None:
    records = season("wheat", 5)
    write_csv(tmp_path / "new" / "field.csv", records)
    np.testing.assert_array_equal(read_csv(tmp_path / "new" / "field.csv").values, records.values)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["field.csv"]


def test_dates_left_out_become_mornings_of_nan() -> None:
    records = parse_csv(text_of(LINE.format(day="2009-05-03"), LINE.format(day="2009-05-05")), "x")
    assert records.n_mornings == 5
    assert records.last_date == date(2009, 5, 5)
    assert np.isnan(records.values[[0, 1, 3]]).all()
    assert records.column("taw_mm")[[2, 4]].tolist() == [100.0, 100.0]


def test_columns_may_stand_in_any_order() -> None:
    cells = LINE.format(day="2009-05-01").split(",")
    swapped = ",".join(HEADER.split(",")[::-1]) + "\n" + ",".join(cells[::-1]) + "\n"
    np.testing.assert_array_equal(parse_csv(swapped, "x").values, parse_csv(text_of(",".join(cells)), "x").values)


DAY = LINE.format(day="2009-05-01")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["f.csv", "empty"]),
        (HEADER + "\n", ["f.csv", "no records"]),
        (text_of(DAY.replace("0.3", "wet")), ["f.csv, line 2", "depletion_frac", "'wet'"]),
        (text_of(DAY.replace("0.3", "nan")), ["line 2", "depletion_frac"]),
        (text_of(DAY.replace("0.3", "inf")), ["line 2", "depletion_frac"]),
        (text_of(DAY.replace("100", "1_00")), ["line 2", "taw_mm"]),
        (text_of(DAY.replace("0.3", "0,3")), ["line 2", "14 cells", "13"]),
        (text_of(DAY.replace("maize", "rice")), ["line 2", "crop", "rice", "maize, wheat"]),
        (text_of(DAY.replace("2009-05-01,2009", "1.5.2009,2009")), ["line 2", "sowing_date", "1.5.2009"]),
        (text_of(LINE.format(day="2009-04-30")), ["line 2", "before sowing"]),
        (text_of(LINE.format(day="2019-05-01")), ["line 2", "days after sowing"]),
        (text_of(DAY, DAY), ["line 3", "twice"]),
        (text_of(LINE.format(day="2009-05-03"), DAY), ["line 3", "sort"]),
        (text_of(DAY, LINE.format(day="2009-05-02").replace("maize", "wheat")), ["line 3", "'wheat' after 'maize'"]),
        (
            text_of(DAY, LINE.format(day="2009-05-02").replace("e,2009-05-01", "e,2009-05-02")),
            ["line 3", "sowing_date"],
        ),
        (text_of(DAY).replace("rain_mm", "rain"), ["line 1", "'rain'", "'rain_mm'"]),
        (text_of(DAY).replace(",lai", ",rain_mm"), ["line 1", "rain_mm", "twice"]),
        (HEADER.replace(",lai", "") + "\n" + DAY, ["line 1", "'lai' is missing"]),
        (text_of(DAY).replace(",", ";"), ["line 1", "commas"]),
        (text_of('"' + DAY), ["f.csv, line 2", "not valid CSV"]),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, text: str, names: list[str]) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(RecordError) as caught:
        read_csv(tmp_path / "f.csv")
    for name in names:
        assert name in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere\.csv: cannot be read"):
        read_csv(tmp_path / "nowhere.csv")
    (tmp_path / "latin.csv").write_bytes(text_of(DAY).encode() + "ä".encode("latin-1"))
    with pytest.raises(RecordError, match="not UTF-8"):
        read_csv(tmp_path / "latin.csv")


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(text_of(DAY), encoding="utf-8-sig")
    assert read_csv(tmp_path / "f.csv").n_mornings == 1


def test_a_column_in_a_wrong_unit_is_refused_but_a_stuck_sensor_is_not() -> None:
    percent = season("maize", 20, depletion_frac=np.linspace(5, 80, 20))
    with pytest.raises(RecordError, match=r"f\.csv, column depletion_frac: 20 of 20 .* on 2009-04-20"):
        parse_csv(to_csv(percent), "f.csv")
    stuck = season("maize", 20, depletion_frac=-9999.0)
    assert parse_csv(to_csv(stuck), "f.csv").column("depletion_frac")[0] == -9999.0


def outcome(text: str) -> Records | str:
    """The records, or what the user is told."""
    try:
        return parse_csv(text, "x")
    except RecordError as error:
        return str(error)


def assert_sound(found: Records | str) -> None:
    if isinstance(found, str):
        assert found.startswith("x")
    else:
        assert 1 <= found.n_mornings <= MAX_MORNINGS
        assert not np.isinf(found.values).any()


CELLS = st.text(alphabet=",;\n\"'-0123456789.maizewht", max_size=300)


@given(st.text(max_size=200) | CELLS.map(lambda lines: f"{HEADER}\n{lines}"))
def test_any_text_gives_records_or_a_record_error(text: str) -> None:
    assert_sound(outcome(text))


@given(st.integers(0, 300), st.text(max_size=3))
def test_a_damaged_file_gives_records_or_a_record_error(at: int, damage: str) -> None:
    text = text_of(DAY, LINE.format(day="2009-05-02"))
    assert_sound(outcome(text[:at] + damage + text[at + 1 :]))


@pytest.mark.parametrize("values", [np.zeros((0, 10)), np.zeros((3, 9)), np.zeros(10), np.zeros((3, 10), np.float32)])
def test_records_refuse_other_shapes(values: np.ndarray) -> None:
    with pytest.raises(RecordError, match="shape"):
        Records("maize", date(2009, 5, 1), values)


def test_until_is_a_prefix() -> None:
    records = season("maize", 10)
    assert records.until(3).last_date == date(2009, 4, 23)
    assert records.until(3).n_mornings == 4
    assert records.days_after_sowing == 9


def test_every_column_declares_its_range() -> None:
    assert tuple(COLUMN_INFO) == COLUMNS
    assert all(info.low < info.high for info in COLUMN_INFO.values())
