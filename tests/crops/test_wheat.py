from collections.abc import Iterator
from dataclasses import fields as names_of
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.crops.interface import DailyWeather, Decision, Field, FloatArray
from tasks.crops.lintul3 import water_content
from tasks.crops.lintul3_parameters import CropParameters, Table, spring_wheat
from tasks.crops.penman import daylength_h, extraterrestrial_j_m2, potential_evaporation
from tasks.crops.reference import pcse_case, pcse_seasons, pcse_weather
from tasks.crops.wheat import SOILS, WheatBatch

EQUAL = 1e-10
"""Greatest relative difference to pcse on any value of any morning."""
WEATHER = ("radiation_mj_m2", "tmin_c", "tmax_c", "vapour_pressure_kpa", "wind_m_s", "rain_mm", "soil_mm", "canopy_mm")
Doses = dict[int, float]


def wheat(
    soil: str = "loam",
    year: int = 1990,
    water: float = 0.8,
    day: int = 30,
    mineral: float = 40.0,
    mineralisation: float = 0.3,
    days: int = 146,
) -> Field:
    emergence = date(year, 3, 1) + timedelta(days=day)
    name = f"{soil}-{emergence}-{water}-{mineral}"
    return Field(name, "wheat", "wageningen", year, soil, emergence, days, water, mineral, mineralisation)


SHORT_DAYS: dict[str, Any] = {"dlo": 17.5, "dlc": 9.0, "tbase": 3.0}
"""Parameters under which the days of a Dutch spring slow the crop."""
CASES: list[tuple[Field, Doses]] = [
    (wheat("sandy_loam", 1976, 0.9), {7: 60.0}),
    (wheat("loam", 1976, 0.0, mineral=20.0), {0: 80.0}),
    (wheat("clay_loam", 1983, 1.0, day=37, mineral=70.0, mineralisation=0.6), {}),
    (wheat("silt_loam", 1987, 0.55), {7: 40.0, 45: 20.0, 46: 20.0}),
    (wheat("sandy_loam", 1990, 0.7, mineral=0.0, mineralisation=0.0), {}),
    (wheat("loam", 1990, 0.7, mineral=0.0, mineralisation=0.0), {0: 50.0, 60: 120.0}),
    (wheat("clay_loam", 1992, 0.7, day=23, mineral=20.0, mineralisation=0.1), {30: 15.5}),
    (wheat("sandy_loam", 1992, 0.1, day=23, mineral=55.0), {1: 200.0}),
    (wheat("silt_loam", 1998, 1.0), {7: 30.0, 40: 30.0}),
    (wheat("loam", 1997, 0.8, day=30), {10: 100.0, 35: 50.0}),
    (wheat("sandy_loam", 1995, 0.8, day=60, days=90), {20: 70.0}),
]


def weather_days() -> list[list[Any]]:
    """Days of all sorts, as pcse's penman takes them: from the polar night to the south, saturated, still, clouded."""
    rng = np.random.default_rng(7)
    days: list[list[Any]] = []
    for latitude, elevation in ((51.97, 7.0), (41.4, 520.0), (-34.0, 1600.0), (68.0, 0.0), (80.0, 50.0), (0.0, 10.0)):
        for _ in range(40):
            day = date(1999, 1, 1) + timedelta(days=int(rng.integers(0, 366 + 365)))
            tmin = float(rng.uniform(-25, 22))
            weather = [
                tmin,
                tmin + float(rng.uniform(0, 22)),
                float(rng.uniform(0, 3.2e7)),
                float(rng.uniform(0.5, 40)),
            ]
            days.append([day.isoformat(), latitude, elevation, *weather, float(rng.uniform(0, 9))])
    return days


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cases = [pcse_case(*case) for case in CASES]
    short = [{**c, "parameters": c["parameters"] | {k.upper(): v for k, v in SHORT_DAYS.items()}} for c in cases]
    return pcse_seasons([*cases, *short], tmp_path_factory.mktemp("package"), weather_days())


@pytest.fixture(scope="module")
def table(package: dict[str, Any]) -> FloatArray:
    """pcse's weather by day from 1976 on, columns WEATHER; NaN on days it has none."""
    rows = package["weather"]
    first = date.fromisoformat(rows[0][0])
    values = np.full(((date.fromisoformat(rows[-1][0]) - first).days + 1, len(WEATHER)), np.nan)
    for day, *cells in rows:
        values[(date.fromisoformat(day) - first).days] = [float.fromhex(cell) for cell in cells]
    return values


@pytest.fixture(scope="module")
def sites(package: dict[str, Any]) -> dict[str, DailyWeather]:
    return {"wageningen": pcse_weather(package, "wageningen")}


def give(nitrogen_kg_ha: list[float]) -> Decision:
    return Decision(np.zeros(len(nitrogen_kg_ha)), np.array(nitrogen_kg_ha))


def grow(batch: WheatBatch, doses: list[Doses]) -> Iterator[WheatBatch]:
    """Farm the batch to its end; it is given out each morning and once more at harvest."""
    day = 0
    while not batch.finished:
        yield batch
        batch.step(give([by_day.get(day, 0.0) for by_day in doses]))
        day += 1
    yield batch


def observed(batch: WheatBatch) -> dict[str, FloatArray]:
    s = batch.state
    return {
        "LAI": s.lai,
        "WLVG": s.leaves,
        "WLVD": s.dead_leaves,
        "WST": s.stems,
        "WSO": 100 * batch.harvest().yield_t_ha,
        "WRT": s.roots,
        "ANLV": s.leaf_n,
        "ANST": s.stem_n,
        "ANRT": s.root_n,
        "ANSO": s.grain_n,
        "ROOTD": s.root_depth_m,
        "NLOSS": s.lost_n,
        "TNSOIL": s.soil_n,
        "WC": water_content(s),
    }


def differences(
    cases: list[tuple[Field, Doses]],
    seasons: list[dict[str, FloatArray]],
    sites: dict[str, DailyWeather],
    crop: CropParameters | None = None,
) -> dict[str, float]:
    """Greatest difference on any morning relative to pcse's value, by pcse's names, and of season lengths in days.

    Values under 1e-3 count as 1e-3.
    """
    batch = WheatBatch(tuple(field for field, _ in cases), sites, crop)
    mornings = [{n: v.copy() for n, v in observed(b).items()} for b in grow(batch, [doses for _, doses in cases])]
    lengths = [len(season["LAI"]) - 1 for season in seasons]
    worst = {"days": float(np.abs(batch.harvest().season_days - np.array(lengths)).max())}
    for i, season in enumerate(seasons):
        for name in mornings[0]:
            length = min(len(season[name]), len(mornings))
            ours = np.array([morning[name][i] for morning in mornings[:length]])
            theirs = season[name][:length]
            gap = float(np.max(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-3)))
            worst[name] = max(worst.get(name, 0.0), gap)
    return worst


def test_every_morning_equals_pcse(package: dict[str, Any], sites: dict[str, DailyWeather]) -> None:
    worst = differences(CASES, package["seasons"][: len(CASES)], sites)
    assert len(worst) == 15
    assert {name: gap for name, gap in worst.items() if gap > EQUAL} == {}


def test_what_a_morning_tells_is_pcses_state(package: dict[str, Any], sites: dict[str, DailyWeather]) -> None:
    batch = WheatBatch(tuple(field for field, _ in CASES), sites)
    told = 0
    for day, b in enumerate(grow(batch, [doses for _, doses in CASES])):
        morning = b.morning()
        for i in np.flatnonzero(morning.active):
            pcse = {name: values[day] for name, values in package["seasons"][i].items()}
            field, soil = CASES[i][0], SOILS[CASES[i][0].soil]
            held = soil["WCFC"] - soil["WCWP"]
            soil_n = 10 * pcse["TNSOIL"] if day else field.mineral_n_kg_ha
            left = (field.season_days - day) * field.mineralisation_kg_ha_d
            told += 1
            assert [float(x[i]) for x in list(vars(morning).values())[1:]] == pytest.approx(
                [
                    1 - (pcse["WC"] - soil["WCWP"]) / held,
                    held * 1000 * pcse["ROOTD"],
                    pcse["LAI"],
                    soil_n,
                    soil_n + left,
                    (pcse["WLVG"] + pcse["WLVD"] + pcse["WST"] + pcse["WSO"]) / 100,
                ],
                rel=1e-9,
                abs=1e-9,
            )
    assert told > 1000


def test_harvest_is_what_pcse_harvests(package: dict[str, Any], sites: dict[str, DailyWeather]) -> None:
    batch = WheatBatch(tuple(field for field, _ in CASES), sites)
    *_, last = grow(batch, [doses for _, doses in CASES])
    harvest = last.harvest()
    seasons = package["seasons"][: len(CASES)]
    assert harvest.yield_t_ha == pytest.approx([season["WSO"][-1] / 100 for season in seasons], rel=EQUAL)
    assert harvest.season_days.tolist() == [len(season["WSO"]) - 1 for season in seasons]
    assert harvest.matured.tolist() == [bool(season["DVS"][-1] == 2) for season in seasons]
    assert sorted(set(harvest.matured.tolist())) == [False, True]
    assert harvest.nitrogen_kg_ha.tolist() == [sum(doses.values()) for _, doses in CASES]
    assert harvest.irrigation_mm.tolist() == [0.0] * len(CASES)


def test_pcse_with_its_own_first_days_agrees_too(sites: dict[str, DailyWeather], tmp_path: Path) -> None:
    """The soil lies bare since 1 March in pcse; the field takes over its water on a rainy morning of emergence."""
    rain = sites["wageningen"].rain_mm
    start = (date(1990, 4, 1) - sites["wageningen"].first_day).days
    emergence = date(1990, 4, 1) + timedelta(days=int(np.flatnonzero(rain[start:] >= 0.5)[0]))
    field = replace(wheat("loam", 1990, 0.9), sowing_date=emergence)
    lead = {"lead_days": (emergence - date(1990, 3, 1)).days}
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first = pcse_seasons([{**pcse_case(field, {}), **lead}], tmp_path / "first")["seasons"][0]["WC"][0]
    soil = SOILS["loam"]
    share = (first - soil["WCWP"]) / (soil["WCFC"] - soil["WCWP"])
    case = {**pcse_case(field, {12: 60.0}), **lead}
    case["parameters"]["WCSUBS"] = first
    season = pcse_seasons([case], tmp_path / "second")["seasons"]
    assert 0 < share < 1
    worst = differences([(replace(field, initial_water_frac=share), {12: 60.0})], season, sites)
    assert max(worst.values()) < EQUAL


def test_short_days_slow_the_crop_as_in_pcse(package: dict[str, Any], sites: dict[str, DailyWeather]) -> None:
    slowed = package["seasons"][len(CASES) :]
    assert slowed[0]["DVS"][60] < package["seasons"][0]["DVS"][60]
    worst = differences(CASES, slowed, sites, replace(spring_wheat(), **SHORT_DAYS))
    assert {name: gap for name, gap in worst.items() if gap > EQUAL} == {}


def changed(value: float | Table) -> float | Table:
    if isinstance(value, Table):
        return Table(value.x, tuple(y * 1.01 + 1e-6 for y in value.y))
    return value * 1.01 + (0.5 if value == 0 else 0.0)


WITHOUT_EFFECT = {"idsl", "dlo", "dlc", "nfrsti"}
"""Days are longer than 8 h on every date of the cases, and the crop emerges without stems."""


@pytest.mark.parametrize("name", [field.name for field in names_of(CropParameters)])
def test_a_parameter_that_differs_from_pcses_is_noticed(
    name: str, package: dict[str, Any], sites: dict[str, DailyWeather]
) -> None:
    crop = spring_wheat()
    one: dict[str, Any] = {name: changed(getattr(crop, name))}
    other = replace(crop, **one)
    worst = max(differences(CASES, package["seasons"][: len(CASES)], sites, other).values())
    assert (worst > 1e-6) == (name not in WITHOUT_EFFECT)


def test_a_dose_a_day_late_is_noticed(package: dict[str, Any], sites: dict[str, DailyWeather]) -> None:
    late = [(field, {day + 1: amount for day, amount in doses.items()}) for field, doses in CASES]
    assert differences(late, package["seasons"][: len(CASES)], sites)["TNSOIL"] > 1e-3


def test_penman_equals_pcses_on_wageningens_weather(
    package: dict[str, Any], table: FloatArray, sites: dict[str, DailyWeather]
) -> None:
    w = sites["wageningen"]
    first = np.datetime64(w.first_day)
    dates = first + np.arange(len(table))
    day_of_year = (dates - dates.astype("datetime64[Y]")).astype(float) + 1
    place = np.array(w.latitude_deg), np.array(w.elevation_m)
    radiation, tmin, tmax, vapour, wind = table[:, :5].T
    ours = potential_evaporation(tmin, tmax, radiation, vapour, wind, day_of_year, *place)
    known = np.isfinite(table[:, 0])
    assert known.sum() > 8500
    np.testing.assert_allclose(np.stack(ours)[:, known], table[known, 6:].T, rtol=1e-12, atol=1e-12)


def test_penman_and_day_length_equal_pcses_on_days_of_all_sorts(package: dict[str, Any]) -> None:
    days = weather_days()
    day_of_year = np.array([date.fromisoformat(day[0]).timetuple().tm_yday for day in days], dtype=float)
    latitude, elevation, tmin, tmax, radiation, vapour, wind = np.array([day[1:] for day in days], dtype=float).T
    theirs = np.array([[float.fromhex(x) for x in row] for row in package["days"]])
    potential = potential_evaporation(tmin, tmax, radiation / 1e6, vapour / 10, wind, day_of_year, latitude, elevation)
    ours = np.stack([*potential, daylength_h(latitude, day_of_year)], axis=1)
    assert (extraterrestrial_j_m2(latitude, day_of_year) == 0).any(), "no polar night among the days"
    assert set(theirs[:, 2]) >= {0.0, 24.0}
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)
