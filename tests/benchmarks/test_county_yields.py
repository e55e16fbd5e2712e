"""Figures of real harvests: nothing of a year asked about reaches a method, and errors are what they are called."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks import county_yields
from benchmarks.county_methods import Case, Effort, five_year_mean, mean_of, net_quantiles
from benchmarks.county_rows import FOLDER, PAST, Counties, CountyDataError, departures, inputs, read_counties, until

QUICK = Effort(epochs=1, seeds=1, fold_seeds=1)
FIRST = 2012


def made_up(years: range = range(2007, 2015), counties: int = 60) -> pl.DataFrame:
    """Counties of two states whose yield follows rain, as the sample's files have them."""
    rng = np.random.default_rng(5)
    usual = rng.uniform(6.0, 10.0, counties)
    rain = rng.normal(60.0, 15.0, (len(years), counties))
    harvest = usual + 0.05 * (rain - 60.0) + rng.normal(0.0, 0.5, rain.shape)
    rows = []
    for i, year in enumerate(years):
        for county in range(counties):
            past = {name: usual[county] + rng.normal(0.0, 0.3) for name in PAST}
            weather = {"avgPRECp1": rain[i, county], "Z+TAVGp1": rng.normal(1.0, 0.2)}
            name = f"{'IA' if county % 2 else 'NE'}_{county}"
            mean = float(np.mean(list(past.values())))
            fixed = {"adm_id": name, "year": year, **weather, **past}
            rows.append({**fixed, "yield_trend": mean, "yield": harvest[i, county]})
    return pl.DataFrame(rows)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the command does: nets this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of external data with made-up harvests in two files."""
    folder: Path = tmp_path_factory.mktemp("data")
    (folder / FOLDER).mkdir()
    table = made_up()
    for name, here in (("2006_2011", pl.col("year") < FIRST), ("2012_2014", pl.col("year") >= FIRST)):
        table.filter(here).write_csv(folder / FOLDER / f"grain_maize_US_{name}.csv")
    return folder


@pytest.fixture(scope="module")
def rows(data: Path) -> Counties:
    return read_counties(data)


@pytest.fixture(scope="module")
def said(rows: Counties) -> county_yields.Said:
    return county_yields.answered(rows, FIRST, QUICK)


def with_other_harvests(rows: Counties, first: int) -> Counties:
    """The same rows, but yields and weather from ``first`` on are others."""
    later = rows.year >= first
    return replace(
        rows,
        yield_t_ha=np.where(later, 20.0 - rows.yield_t_ha, rows.yield_t_ha),
        weather=np.where((rows.year > first)[:, None], -5.0, rows.weather),
    )


@pytest.mark.parametrize(("mode", "first"), [("static", FIRST), ("refitted", FIRST), ("refitted", FIRST + 1)])
def test_no_harvest_of_a_year_reaches_its_answers(
    rows: Counties, said: county_yields.Said, mode: str, first: int
) -> None:
    changed = county_yields.answered(with_other_harvests(rows, first), FIRST, QUICK)[mode]
    here = rows.year[rows.year >= FIRST] <= first
    assert set(changed) >= {"quantile_net", "gradient_boosting", "ridge", "five_year_mean", "linear_trend"}
    for name, answers in said[mode].items():
        np.testing.assert_array_equal(changed[name][here], answers[here], err_msg=name)


def test_a_refit_learns_from_the_years_tested_before(rows: Counties, said: county_yields.Said) -> None:
    year = rows.year[rows.year >= FIRST]
    for name in ("quantile_net", "gradient_boosting", "ridge"):
        same = said["static"][name] == said["refitted"][name]
        assert same[year == FIRST].all()
        assert not same[year > FIRST].all()


def test_a_known_row_is_no_part_of_what_is_usual_to_it(rows: Counties) -> None:
    known = rows.year < FIRST
    one = int(np.flatnonzero(known)[7])
    others = known & (rows.county == rows.county[one])
    others[one] = False
    alone = departures(rows, known & (rows.county == rows.county[one]))
    assert np.isfinite(alone).all()
    # Its sign is that of the distance to the other years, which pull what is usual in the state hardly at all.
    distance = rows.weather[one] - rows.weather[others].mean(axis=0)
    far = np.abs(distance) > rows.weather.std(axis=0)
    assert (np.sign(departures(rows, known)[one])[far] == np.sign(distance)[far]).all()


def test_inputs_of_known_rows_do_not_change_with_later_rows(rows: Counties) -> None:
    known = rows.year < FIRST
    changed = replace(rows, weather=np.where(known[:, None], rows.weather, 99.0))
    np.testing.assert_array_equal(inputs(rows, known)[known], inputs(changed, known)[known])


def test_a_county_without_years_of_its_own_borrows_from_its_state(rows: Counties) -> None:
    known = (rows.year < FIRST) & (rows.county != 3)
    assert np.isfinite(inputs(rows, known)).all()


def test_the_net_learns_what_rain_adds(rows: Counties) -> None:
    known = rows.year < FIRST
    asked = np.flatnonzero(rows.year == FIRST)
    case = Case(rows, inputs(rows, known), known, asked)
    raw, band = net_quantiles(case, Effort(epochs=30, seeds=1, fold_seeds=1))
    truths = rows.yield_t_ha[asked]
    assert np.abs(band[:, 1] - truths).mean() < 0.9 * np.abs(five_year_mean(case) - truths).mean()
    np.testing.assert_array_equal(raw[:, 1], band[:, 1])
    assert (np.diff(band, axis=1) >= 0).all()


def test_the_mean_leans_to_the_longer_half_of_the_band() -> None:
    np.testing.assert_allclose(mean_of(np.array([[-4.0, 0.0, 1.0], [-1.0, 0.0, 1.0]])), [-0.9, 0.0])


def test_figures_by_hand() -> None:
    truths, year = np.array([8.0, 12.0, 10.0, 10.0]), np.array([2012, 2012, 2013, 2014])
    answers = truths + np.array([1.0, -1.0, 2.0, 0.0])
    found = county_yields.errors(answers, truths, year, ((2012, 2014),))
    assert [(each["year"], each["nrmse_percent"]) for each in found["by_year"]] == [
        (2012, 10.0),
        (2013, 20.0),
        (2014, 0.0),
    ]
    assert found["spans"][0]["pooled_nrmse_percent"] == 12.25
    assert found["spans"][0]["median_nrmse_percent"] == 10.0
    band = np.stack([truths - 1, truths, truths + np.array([1.0, 1.0, 1.0, -0.5])], axis=1)
    held = county_yields.coverage(band, truths, year)
    assert [each["share"] for each in held["by_year"]] == [1.0, 1.0, 0.0]
    assert held["outside_2012"] == 0.5


def test_every_year_and_method_stands_in_figures_and_table(rows: Counties, said: county_yields.Said) -> None:
    found = county_yields.figures(rows, said, FIRST, county_yields.SPANS)
    found["targets"] = county_yields.judged(found)
    assert [(each["year"], each["rows"]) for each in found["tested"]] == [(2012, 60), (2013, 60), (2014, 60)]
    assert found["years_without_rows"] == [2015, 2016, 2017, 2018]
    text = county_yields.table(found)
    for word in ("2012", "2013", "2014", "quantile_net", "gradient_boosting", "five_year_mean", "no rows of 2015"):
        assert word in text


def test_a_rehearsal_sees_no_later_row(rows: Counties) -> None:
    assert until(rows, 2011).year.max() == 2011


def test_absent_data_are_told_and_end_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADLAND_EXTERNAL_DATA", str(tmp_path / "nowhere"))
    assert county_yields.main([]) == 1
    assert "HEADLAND_EXTERNAL_DATA" in capsys.readouterr().err


def test_damaged_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    file = tmp_path / FOLDER / "grain_maize_US_2000_2011.csv"
    table = made_up(range(2006, 2008), 4)
    for damaged in (
        table.drop("yield"),
        table.with_columns(pl.lit(None).alias("avgPRECp1")),
        pl.concat([table, table]),
    ):
        damaged.write_csv(file)
        with pytest.raises(CountyDataError, match=FOLDER):
            read_counties(tmp_path)


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, benchmarks.county_yields; print({'numpy', 'torch', 'polars', 'sklearn'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.external
def test_the_five_year_mean_on_the_real_harvests(external_data: Path) -> None:
    if not (external_data / FOLDER).is_dir():
        pytest.skip(f"no {FOLDER} in {external_data}; set HEADLAND_EXTERNAL_DATA")
    rows = read_counties(external_data)
    here = rows.year == 2012
    assert county_yields.nrmse_percent(rows.usual_t_ha[here], rows.yield_t_ha[here]) == pytest.approx(46.8, abs=0.1)
