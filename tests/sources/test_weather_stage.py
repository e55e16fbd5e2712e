"""The weather stage on what ships in the packages, and seasons cut from what it wrote."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from weather_rows import csv_text, site

from tasks.params import load
from tasks.sources.daily import SiteWeather, load_daily, load_site, read_any, read_sites, read_weather
from tasks.sources.schema import TABLE, VALUES, WeatherError
from tasks.sources.weather import prepare, run

ROOT = Path(__file__).parents[2]
PARAMS = load(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "weather"
    run(PARAMS, root)
    return root


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def card(folder: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / f"{name}.json").read_text())
    return found


def test_every_site_gets_table_card_and_rejected_rows(folder: Path) -> None:
    endings = (".json", ".parquet", ".rejected.csv")
    assert set(hashes(folder)) == {name + ending for name in PARAMS.sites for ending in endings}
    for name in PARAMS.sites:
        frame = pl.read_parquet(folder / f"{name}.parquet")
        TABLE.validate(frame)
        assert frame["site"].unique().to_list() == [name]
        assert frame.null_count().sum_horizontal().item() == 0


def test_the_same_sources_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    run(PARAMS, tmp_path / "weather")
    assert hashes(tmp_path / "weather") == hashes(folder)


def test_the_card_tells_what_is_observed_what_modelled_and_what_is_missing(folder: Path) -> None:
    champion, wageningen = card(folder, "champion"), card(folder, "wageningen")
    assert champion["observed"] == ["tmin_c", "tmax_c", "rain_mm", "et0_mm"]
    assert set(champion["modelled"]) == {"radiation_mj_m2", "vapour_pressure_kpa", "wind_m_s"}
    assert (champion["first"], champion["last"], champion["missing_days"]) == ("1982-01-01", "2018-12-31", 0)
    assert "et0_mm" not in wageningen["observed"]
    assert {name: told["days"] for name, told in wageningen["modelled"].items()} == {
        "et0_mm": 8644,
        "vapour_pressure_kpa": 4,
        "wind_m_s": 5,
    }
    assert wageningen["gaps"] == [["1991-09-01", "1991-12-31"]]
    assert wageningen["missing_days"] == 122
    assert wageningen["rejected"] == {"status codes without their -999 mark": 8}


def test_rejected_rows_are_kept_with_file_row_and_reason(folder: Path) -> None:
    rejected = pl.read_csv(folder / "wageningen.rejected.csv")
    assert rejected["file"].unique().to_list() == ["NL1.989"]
    assert rejected["row"].to_list()[:3] == [70, 72, 74]


def test_sites_left_out_leave_no_file_behind(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "weather"
    shutil.copytree(folder, root)
    run(PARAMS.model_copy(update={"sites": {"tunis": PARAMS.sites["tunis"]}}), root)
    assert sorted(hashes(root)) == ["tunis.json", "tunis.parquet", "tunis.rejected.csv"]


def test_a_site_that_fails_leaves_what_was_there(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "weather"
    shutil.copytree(folder, root)
    broken = {**PARAMS.sites, "mine": site("headland_csv", str(tmp_path / "nowhere.csv"))}
    with pytest.raises(WeatherError, match=r"nowhere\.csv"):
        run(PARAMS.model_copy(update={"sites": broken}), root)
    assert hashes(root) == hashes(folder)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weather"]


def test_every_training_season_of_wheat_is_whole_as_the_parameters_have_it(folder: Path) -> None:
    wheat = PARAMS.fields.wheat
    found = load_site("wageningen", PARAMS, folder).seasons(wheat.sowing_day[1] + wheat.season_days)
    assert found == list(range(1976, 2000))


def test_only_seasons_with_all_their_days_count(folder: Path) -> None:
    sites = read_sites(PARAMS, folder)
    assert sites["champion"].seasons(365) == list(range(1982, 2019))
    assert sites["tunis"].seasons(270) == list(range(1979, 2002))
    assert sites["tunis"].seasons(151)[-1] == 2002
    assert 1991 not in sites["wageningen"].seasons(244)


def test_a_season_is_the_calendar_year_as_the_table_has_it(folder: Path) -> None:
    champion = load_site("champion", PARAMS, folder)
    weather = champion.season_weather(2012)
    rows = champion.frame.filter(pl.col("date").dt.year() == 2012)
    assert weather.first_day == date(2012, 1, 1)
    assert (weather.site, weather.latitude_deg, weather.elevation_m) == ("champion", 41.4, 520)
    for name in VALUES:
        values = getattr(weather, name)
        assert values.dtype == np.float64
        assert np.array_equal(values, rows[name].to_numpy())
    assert champion.season_weather(2012, days=100).rain_mm.size == 100
    assert load_site("wageningen", PARAMS, folder).season_weather(1991).rain_mm.size == 243


def with_gap(tmp_path: Path) -> SiteWeather:
    path = tmp_path / "w.csv"
    lines = csv_text(365).splitlines(keepends=True)
    path.write_text("".join(lines[:100] + lines[103:200] + lines[201:]))
    mine = site("headland_csv", str(path))
    return SiteWeather("mine", mine, prepare("mine", mine).frame)


def test_a_gap_inside_a_season_is_refused_by_its_days(tmp_path: Path) -> None:
    mine = with_gap(tmp_path)
    with pytest.raises(WeatherError) as caught:
        mine.season_weather(2001, days=365)
    assert "no weather on 2001-04-10 to 2001-04-12, 2001-07-19;" in str(caught.value)
    assert mine.seasons(99) == [2001]
    assert mine.seasons(100) == []
    assert mine.season_weather(2001, days=99).tmin_c.size == 99
    assert mine.season_weather(2001).tmin_c.size == 99


def test_a_season_without_any_weather_is_refused_with_the_years_there_are(folder: Path) -> None:
    champion = load_site("champion", PARAMS, folder)
    with pytest.raises(WeatherError, match=r"2031-01-01 to 2031-12-31; it is known from 1982-01-01 to 2018-12-31"):
        champion.season_weather(2031)
    with pytest.raises(WeatherError, match="2019-01-01 to 2019-01-05"):
        load_daily(champion.frame, "champion", champion.site, date(2018, 12, 1), date(2019, 1, 5))


def test_anyone_s_file_is_read_with_the_place_it_tells_or_is_given(tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text(csv_text(365, ("tmin_c", "tmax_c", "rain_mm")))
    found = read_any(mine, "headland", 48.5, 7.5, 150.0)
    assert (found.name, found.site.latitude_deg, found.site.longitude_deg) == ("mine", 48.5, 7.5)
    assert found.seasons(365) == [2001]
    with pytest.raises(WeatherError, match=r"mine\.csv: does not tell its latitude. Give --latitude-deg"):
        read_any(mine, "headland", None, 0.0, 0.0)
    with pytest.raises(WeatherError, match=r"latitude_deg: .* got 95"):
        read_any(mine, "headland", 95.0, 0.0, 0.0)
    with pytest.raises(WeatherError, match="Did you mean headland"):
        read_any(mine, "headlands", 48.5, 0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("LAT00520_LON-0990.csv", "DAY,IRRAD,TMIN,TMAX,VAP,WIND,RAIN,ET0\n2001-01-01,7e5,1,2,6,2,0,0.1\n"),
        (
            "power.csv",
            "-BEGIN HEADER-\nLocation: latitude  52.0   longitude -99.0\n-END HEADER-\n"
            "YEAR,DOY,T2M_MIN,T2M_MAX,PRECTOTCORR\n2001,1,1,2,0\n",
        ),
    ],
)
def test_a_nasa_power_file_tells_its_own_place(tmp_path: Path, name: str, head: str) -> None:
    (tmp_path / name).write_text(head)
    found = read_any(tmp_path / name, "nasa-power", None, 0.0, 10.0)
    assert (found.site.latitude_deg, found.site.longitude_deg) == (52.0, -99.0)
    assert found.frame["rain_mm"].to_list() == [0.0]
    with pytest.raises(WeatherError, match="lies at 52 N -99 E, but site"):
        read_any(tmp_path / name, "nasa-power", -52.0, 0.0, 10.0)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.9999])
def test_a_parquet_file_cut_short_is_refused_by_name(folder: Path, tmp_path: Path, keep: float) -> None:
    whole = (folder / "tunis.parquet").read_bytes()
    path = tmp_path / "tunis.parquet"
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(WeatherError, match=r"tunis\.parquet: not a whole Parquet file .* dvc repro weather"):
        read_weather(path)


def test_an_absent_or_foreign_table_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeatherError, match="no such file"):
        read_weather(tmp_path / "x.parquet")
    frame = pl.read_parquet(folder / "tunis.parquet")
    for wrong in (
        frame.drop("wind_m_s"),
        frame.with_columns(rain_mm=-pl.col("rain_mm") - 1),
        frame.reverse(),
        frame.with_columns(tmin_c=pl.col("tmax_c") + 1),
    ):
        wrong.write_parquet(tmp_path / "x.parquet")
        with pytest.raises(WeatherError, match=r"x\.parquet: not a table of daily weather"):
            read_weather(tmp_path / "x.parquet")


def test_the_command_runs_where_params_yaml_is_and_fails_with_one_message(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "edge")])}

    def command() -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "tasks.sources.weather"]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    (tmp_path / "params.yaml").write_text(text)
    assert command().returncode == 0
    written = hashes(tmp_path / "data" / "weather")
    (tmp_path / "params.yaml").write_text(text.replace("source: NL1", "source: NL7"))
    failed = command()
    assert failed.returncode == 1
    assert "NL7" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert hashes(tmp_path / "data" / "weather") == written
