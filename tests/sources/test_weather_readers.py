"""Readers: what ships in the packages, what others send, and files that are not what they claim to be."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weather_rows import csv_text, site

from tasks.sources import aquacrop_climate, cabo, headland_csv, nasa_power
from tasks.sources.schema import LIMITS, REQUIRED, VALUES, WeatherError, check
from tasks.sources.text import package_file
from tasks.sources.weather import prepare

FIRST_DAY = (2, -21.11, 3.33, 0, 1.59)


def row(frame: pl.DataFrame, day: date) -> dict[str, object]:
    return frame.filter(pl.col("date") == day).row(0, named=True)


def test_champion_is_whole_and_in_the_schema_s_units() -> None:
    frame = aquacrop_climate.read("champion_climate.txt").frame
    assert frame.height == 13514
    first = row(frame, date(1982, 1, 1))
    assert (first["row"], first["tmin_c"], first["tmax_c"], first["rain_mm"], first["et0_mm"]) == (
        2,
        -21.11,
        3.33,
        0,
        1.59,
    )
    assert first["radiation_mj_m2"] is None


def test_wageningen_is_read_in_the_schema_s_units_and_its_status_lines_are_not_weather() -> None:
    source = cabo.read("NL1")
    first = row(source.frame, date(1976, 1, 1))
    assert first["radiation_mj_m2"] == pytest.approx(2.2)
    assert (first["tmin_c"], first["vapour_pressure_kpa"], first["wind_m_s"], first["rain_mm"]) == (
        2.0,
        0.73,
        3.6,
        12.1,
    )
    assert source.position == (51.97, 5.67)
    assert row(source.frame, date(1990, 1, 17))["wind_m_s"] is None
    faults = source.frame.filter(pl.col("fault").is_not_null())
    assert faults.select("file", "fault").unique().rows() == [("NL1.989", "status codes without their -999 mark")]
    assert faults.height == 8
    good = check(source.frame, "wageningen").good
    assert good.height == source.frame.height - 8
    assert row(good, date(1989, 2, 12))["radiation_mj_m2"] == pytest.approx(1.88)


def test_a_cabo_row_of_another_year_or_length_is_set_aside(tmp_path: Path) -> None:
    lines = package_file("pcse", "tests", "test_data", "NL1.977").read_text(encoding="latin-1").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("   1 1977   1 "))
    lines[start] = lines[start].replace("1977", "1978")
    lines[start + 1] += " 7"
    lines[start + 2] = lines[start + 2].replace(" 3 ", " 366 ", 1)
    (tmp_path / "X.977").write_text("\n".join(lines))
    frame = cabo.read(str(tmp_path / "X")).frame
    faults = frame.filter(pl.col("fault").is_not_null()).select("row", "fault").rows()
    assert faults == [
        (start + 1, "year is not the file's"),
        (start + 2, "wrong number of cells"),
        (start + 3, "no such date"),
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_nasa_power_as_pcse_fetches_it(tmp_path: Path, packed: bool) -> None:
    text = (
        "DAY,IRRAD,TMIN,TMAX,VAP,WIND,RAIN,E0,ES0,ET0\n"
        "1984-01-01,700000.0,7.12,9.22,9.633,8.43,1.238,0.0695,0.068,0.0819\n"
    )
    path = tmp_path / ("n.csv.gz" if packed else "n.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    found = row(nasa_power.read(str(path)).frame, date(1984, 1, 1))
    expected = {
        "radiation_mj_m2": 0.7,
        "vapour_pressure_kpa": 0.9633,
        "rain_mm": 12.38,
        "et0_mm": 0.819,
        "tmin_c": 7.12,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(("days", "cells"), [("YEAR,DOY", "1984,60"), ("YEAR,MO,DY", "1984,2,29")])
def test_nasa_power_as_nasa_serves_it(tmp_path: Path, days: str, cells: str) -> None:
    path = tmp_path / "n.csv"
    path.write_text(
        "-BEGIN HEADER-\nNASA/POWER Daily\nT2M_MAX MERRA-2 Temperature at 2 Meters Maximum (C)\n-END HEADER-\n"
        f"{days},T2M_MIN,T2M_MAX,T2MDEW,PRECTOTCORR,WS2M,ALLSKY_SFC_SW_DWN\n{cells},1.5,9.5,0.0,2.25,3.5,-999\n"
    )
    found = row(nasa_power.read(str(path)).frame, date(1984, 2, 29))
    assert (found["row"], found["rain_mm"], found["wind_m_s"], found["radiation_mj_m2"]) == (6, 2.25, 3.5, None)
    assert found["vapour_pressure_kpa"] == pytest.approx(0.6108)


@pytest.mark.external
def test_every_nasa_power_file_at_hand_is_clean(external: Path) -> None:
    files = sorted((external / "nasa_power").glob("*.csv.gz"))
    assert files
    for file in files:
        place = (int(file.name[3:8]) / 10, int(file.name[12:17]) / 10)
        prepared = prepare("somewhere", site("nasa_power", str(file), *place))
        assert prepared.card["days"] > 14_000
        assert prepared.card["missing_days"] < 10
        assert prepared.card["rejected"] == {}
        assert prepared.card["modelled"] == {}


PCSE_HEADER = "DAY,IRRAD,TMIN,TMAX,VAP,WIND,RAIN,E0,ES0,ET0\n"


@pytest.mark.parametrize(
    ("reader", "name", "content", "said"),
    [
        ("nasa_power", "a.csv.gz", b"DAY,IRRAD\n", "a.csv.gz: not a gzip file"),
        ("nasa_power", "a.csv", gzip.compress(b"DAY", mtime=0)[:-8] + bytes(8), "a.csv: damaged gzip file"),
        ("nasa_power", "a.csv", b"DAY,IRRAD,TMIN\n", "a.csv:1: the header lacks TMAX, RAIN"),
        ("nasa_power", "a.csv", (PCSE_HEADER + "1984-01-01,7000").encode(), "a.csv:2: the last row has 2 of 10 cells"),
        ("nasa_power", "a.csv", b"-BEGIN HEADER-\nx\n", "a.csv:1: the block -BEGIN HEADER- has no -END HEADER-"),
        ("nasa_power", "a.csv", b"", "a.csv:1: the header lacks DAY"),
        ("nasa_power", "a.csv", PCSE_HEADER.encode(), "site x: holds no rows"),
        ("headland_csv", "a.csv", b"date,tmin_c,tmax_c\n", "a.csv:1: the header lacks rain_mm"),
        ("headland_csv", "a.csv", b"date,tmin_c,tmax_c,rain\n", "unknown column 'rain'. Did you mean rain_mm?"),
        ("headland_csv", "a.csv", b"date,tmin_c,tmax_c,rain_mm,rain_mm\n", "a.csv:1: the header has rain_mm twice"),
        ("headland_csv", "a.csv", csv_text().encode() + b"\xff", "a.csv:7: not utf-8-sig text"),
        ("headland_csv", "a.csv", csv_text().replace("date,", "DATE,").encode(), "Did you mean date?"),
        ("aquacrop", "a.txt", b"Day Month Year Tmin(C)\n", "a.txt:1: the header lacks Tmax(C)"),
        ("cabo", "a.977", b"* only comments\n", "a.977:1: no line with longitude"),
        ("cabo", "a.977", b"five 51.97 7.\n", "a.977:1: expected longitude, latitude"),
        ("cabo", "a.977", b" 5.0 45.0 7.\n   1 1977   1  2200.   2.0\n", "a.977:2: the last row is incomplete"),
        ("cabo", "a.977", b" 9.0 45.0 7.\n   1 1977   1  2200.   2.0   9.7   0.730   3.6  12.1\n", "lies at 45 N 9 E"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_by_name(
    tmp_path: Path, reader: str, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    source = str(path.with_suffix("")) if reader == "cabo" else str(path)
    with pytest.raises(WeatherError) as caught:
        prepare("x", site(reader, source))
    assert said in str(caught.value)


@pytest.mark.parametrize("reader", ["nasa_power", "headland_csv", "aquacrop", "cabo"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, reader: str) -> None:
    with pytest.raises(WeatherError, match="nowhere"):
        prepare("x", site(reader, str(tmp_path / "nowhere")))


@given(cut=st.floats(0.0, 1.0, exclude_max=True))
@settings(max_examples=40)
def test_a_gzip_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    whole = gzip.compress(csv_text(400).encode())
    path = tmp_path_factory.mktemp("w") / "w.csv.gz"
    path.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(WeatherError, match=r"w\.csv\.gz"):
        prepare("x", site("headland_csv", str(path)))


def a_table() -> st.SearchStrategy[pl.DataFrame]:
    span = {name: st.floats(low, high, allow_subnormal=False) for name, (low, high) in LIMITS.items()}
    optional = {name: span[name] if name in REQUIRED else st.none() | span[name] for name in VALUES}
    one = st.fixed_dictionaries({"date": st.dates(date(1850, 1, 1), date(2150, 1, 1)), **optional})
    rows = st.lists(one, min_size=1, max_size=8, unique_by=lambda row: row["date"])
    schema = {"date": pl.Date, **dict.fromkeys(VALUES, pl.Float64)}
    return rows.map(lambda found: pl.DataFrame(found, schema=schema))


@given(table=a_table())
def test_a_csv_written_is_read_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, table: pl.DataFrame
) -> None:
    path = tmp_path_factory.mktemp("w") / "w.csv"
    headland_csv.write(table, path)
    frame = headland_csv.read(str(path)).frame
    assert frame.select("date", *VALUES).equals(table)
    assert frame["fault"].null_count() == table.height


@given(data=st.data())
@settings(max_examples=200)
def test_random_damage_never_yields_an_unflagged_impossible_row(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(csv_text(12).encode())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        how = data.draw(st.sampled_from(["change", "cut out", "insert"]))
        new = data.draw(st.sampled_from(list(b"0123456789-+.,eEnaif\n \t_;\x00\xff")))
        damaged[at : at + (0 if how == "insert" else 1)] = b"" if how == "cut out" else bytes([new])
    path = tmp_path_factory.mktemp("w") / "w.csv"
    path.write_bytes(bytes(damaged))
    try:
        frame, rejected, card = prepare("x", site("headland_csv", str(path)))
    except WeatherError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "w.csv" in refusal or "site x" in refusal
        return
    assert (frame["tmin_c"] <= frame["tmax_c"]).all()
    assert all(frame[name].is_between(low, high).all() for name, (low, high) in LIMITS.items())
    assert frame["date"].n_unique() == frame.height == card["days"]
    assert sum(card["rejected"].values()) == rejected.height
