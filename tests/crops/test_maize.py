import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from aquacrop.utils import get_filepath, prepare_weather

from tasks.crops.interface import DailyWeather, Decision, Field, FloatArray, Harvest, Morning
from tasks.crops.maize import MaizeBatch
from tasks.crops.maize_start import SOILS
from tasks.crops.reference import MaizeReference, maize_season, plain_numpy
from tests.conftest import ROOT

EQUAL = 1e-9
"""Greatest difference to the package on any value of any morning."""
CASES = [
    ("SiltClayLoam", 1990, "rainfed", 0.7),
    ("SiltClayLoam", 2012, "rainfed", 0.4),
    ("SiltClayLoam", 2003, "weekly", 1.0),
    ("SiltClayLoam", 2004, "threshold", 0.7),
    ("SandyLoam", 1991, "weekly", 0.55),
    ("SandyLoam", 2012, "threshold", 0.41),
    ("SandyClayLoam", 1988, "threshold", 0.93),
    ("SiltLoam", 2010, "weekly", 0.62),
    ("Loam", 1999, "rainfed", 0.87),
    ("Clay", 1993, "weekly", 1.0),
    ("Sand", 2000, "threshold", 0.66),
    ("Paddy", 1996, "heavy", 0.5),
    ("ac_TunisLocal", 2007, "heavy", 0.77),
]


def read_champion() -> DailyWeather:
    table = prepare_weather(get_filepath("champion_climate.txt"))
    nothing = np.full(len(table), np.nan)
    return DailyWeather(
        site="champion",
        first_day=table.Date.iloc[0].date(),
        tmin_c=table.MinTemp.to_numpy(),
        tmax_c=table.MaxTemp.to_numpy(),
        rain_mm=table.Precipitation.to_numpy(),
        et0_mm=table.ReferenceET.to_numpy(),
        radiation_mj_m2=nothing,
        vapour_pressure_kpa=nothing,
        wind_m_s=nothing,
        latitude_deg=41.4,
        longitude_deg=-97.9,
        elevation_m=520.0,
    )


CHAMPION = {"champion": read_champion()}


def maize(
    soil: str = "SiltClayLoam", year: int = 2004, water: float = 0.7, month: int = 4, day: int = 30, days: int = 140
) -> Field:
    return Field(f"{soil}-{year}", "maize", "champion", year, soil, date(year, month, day), days, water)


def depth_mm(method: str, day: int, frac: float, taw_mm: float) -> float:
    if method == "rainfed":
        return 0.0
    if method == "weekly":
        return 25.0 if day % 7 == 6 else 0.0
    limit = {"threshold": 25.0, "heavy": 60.0}[method]
    return min(limit, frac * taw_mm) if frac > 0.5 else 0.0


def decided(method: str, day: int, morning: Morning, i: int) -> float:
    if not morning.active[i]:
        return 0.0
    return depth_mm(method, day, float(morning.depletion_frac[i]), float(morning.taw_mm[i]))


def apply(irrigation_mm: list[float]) -> Decision:
    return Decision(np.array(irrigation_mm), np.zeros(len(irrigation_mm)))


def grow(fields: tuple[Field, ...], methods: list[str]) -> tuple[list[Morning], Harvest]:
    batch, mornings = MaizeBatch(fields, CHAMPION), []
    while not batch.finished:
        mornings.append(batch.morning())
        batch.step(apply([decided(m, len(mornings) - 1, mornings[-1], i) for i, m in enumerate(methods)]))
    return mornings, batch.harvest()


def rows(mornings: list[Morning], i: int) -> FloatArray:
    """Field ``i``'s active mornings, [n, 4]."""
    return np.array(
        [[x[i] for x in (m.depletion_frac, m.taw_mm, m.lai, m.biomass_t_ha)] for m in mornings if m.active[i]]
    )


def case_field(case: tuple[str, int, str, float], position: int) -> Field:
    soil, year, _, water = case
    return replace(maize(soil, year, water, day=25 + position % 6), field_id=f"{position}-{soil}-{year}")


@pytest.fixture(scope="module")
def package_seasons() -> list[MaizeReference]:
    def season(i: int) -> MaizeReference:
        method = CASES[i][2]
        field = case_field(CASES[i], i)
        return maize_season(field, CHAMPION["champion"], lambda day, frac, taw_mm: depth_mm(method, day, frac, taw_mm))

    return [season(i) for i in range(len(CASES))]


def test_seasons_equal_the_untouched_package_day_by_day(package_seasons: list[MaizeReference]) -> None:
    fields = tuple(case_field(case, i) for i, case in enumerate(CASES))
    mornings, harvest = grow(fields, [case[2] for case in CASES])
    for i, season in enumerate(package_seasons):
        np.testing.assert_allclose(rows(mornings, i), season.mornings, rtol=0, atol=EQUAL, err_msg=fields[i].field_id)
        assert harvest.yield_t_ha[i] == pytest.approx(season.yield_t_ha, rel=0, abs=EQUAL)
        assert harvest.irrigation_mm[i] == pytest.approx(season.irrigation_mm, rel=0, abs=EQUAL)
        assert season.irrigation_mm == season.taken_mm
        assert bool(harvest.matured[i]) == season.matured
        assert harvest.season_days[i] == len(season.mornings)


PLAIN = """
import numpy as np
from benchmarks.crops import maize_equality
from tasks.params import load
from tasks.sources.daily import read_sites
from tasks.sources.weather import run
from pathlib import Path
params = load(Path(sys.argv[1]))
run(params, Path(sys.argv[2]))
site = read_sites(params, Path(sys.argv[2]))["champion"]
print(json.dumps(maize_equality(site, np.random.default_rng(11), 24)))
"""


@pytest.mark.slow
def test_random_seasons_equal_the_package_without_an_exception_where_numpy_rounds_as_c_does(tmp_path: Path) -> None:
    """Soils, water and depths at random, saturated soil among them, where a last digit becomes 0.01 mm."""
    words = [sys.executable, "-c", f"import json, sys\n{PLAIN}", str(ROOT / "params.yaml"), str(tmp_path)]
    done = subprocess.run(words, env=plain_numpy(), cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["seasons_compared"] == 24
    assert found["exceptions"] == 0
    assert found["largest_difference"] < 1e-12


def test_a_hair_of_difference_is_told_apart(package_seasons: list[MaizeReference]) -> None:
    field = case_field(CASES[0], 0)
    near = replace(field, initial_water_frac=field.initial_water_frac + 1e-6)
    mornings, harvest = grow((near,), [CASES[0][2]])
    assert np.abs(rows(mornings, 0) - package_seasons[0].mornings).max() > EQUAL
    assert abs(harvest.yield_t_ha[0] - package_seasons[0].yield_t_ha) > EQUAL


def test_cases_cover_death_drought_and_ample_water(package_seasons: list[MaizeReference]) -> None:
    assert {season.matured for season in package_seasons} == {True, False}
    yields = [season.yield_t_ha for season in package_seasons]
    assert min(yields) < 5 < 12 < max(yields)


def test_a_batch_of_years_and_soils_equals_single_batches() -> None:
    fields = (maize(year=2012, water=0.4), maize("SandyLoam", 1990), maize("Loam", 2003, days=60), maize(year=2004))
    methods = ["rainfed", "threshold", "weekly", "weekly"]
    mornings, harvest = grow(fields, methods)
    for i, (field, method) in enumerate(zip(fields, methods, strict=True)):
        alone, outcome = grow((field,), [method])
        np.testing.assert_array_equal(rows(alone, 0), rows(mornings, i))
        assert outcome.yield_t_ha[0] == harvest.yield_t_ha[i]
        assert outcome.season_days[0] == harvest.season_days[i]


def test_the_same_season_twice_is_the_same() -> None:
    first, second = (grow((maize("Clay", 1993, 1.0),), ["weekly"]) for _ in range(2))
    np.testing.assert_array_equal(rows(first[0], 0), rows(second[0], 0))
    assert first[1].yield_t_ha[0] == second[1].yield_t_ha[0]


def test_looking_changes_nothing() -> None:
    watched, unwatched = (MaizeBatch((maize(),), CHAMPION) for _ in range(2))
    for day in range(100):
        seen = [watched.morning() for _ in range(3)]
        np.testing.assert_array_equal(rows(seen[:1], 0), rows(seen[2:], 0))
        for batch in (watched, unwatched):
            batch.step(apply([25.0 if day % 9 == 0 else 0.0]))
    np.testing.assert_array_equal(rows([watched.morning()], 0), rows([unwatched.morning()], 0))
    assert watched.harvest().yield_t_ha[0] == unwatched.harvest().yield_t_ha[0]


def test_the_first_morning_holds_the_sown_field() -> None:
    morning = MaizeBatch((maize(water=0.4), maize("SandyLoam", water=1.0)), CHAMPION).morning()
    assert morning.active.tolist() == [True, True]
    assert morning.depletion_frac == pytest.approx([0.6, 0.0], abs=1e-3)
    # 0.3 m of roots between field capacity and wilting point: 0.44 - 0.23 and 0.22 - 0.10.
    assert morning.taw_mm == pytest.approx([63.0, 36.0], abs=0.1)
    assert morning.lai.tolist() == [0.0, 0.0]
    assert morning.biomass_t_ha.tolist() == [0.0, 0.0]
    assert np.isnan(morning.soil_mineral_n_kg_ha).all()
    assert np.isnan(morning.n_supply_kg_ha).all()


def test_a_full_canopy_has_the_leaf_area_of_beers_law() -> None:
    mornings, _ = grow((maize(water=1.0),), ["weekly"])
    assert max(m.lai[0] for m in mornings) == pytest.approx(-np.log(1 - 0.96) / 0.65, abs=0.2)


def test_maize_ripens_on_day_132_and_its_mornings_end_there() -> None:
    short, long = maize(water=1.0), replace(maize("Sand", 2012, 0.4), field_id="dies")
    mornings, harvest = grow((short, long), ["weekly", "rainfed"])
    assert harvest.matured.tolist() == [True, False]
    assert harvest.season_days[0] == 132
    assert harvest.season_days[1] < 132
    dead = int(harvest.season_days[1])
    assert not mornings[dead].active[1]
    assert np.isnan(mornings[dead].depletion_frac[1])
    assert mornings[dead - 1].active[1]


def test_a_short_season_is_harvested_as_it_stands() -> None:
    whole, _ = grow((maize(),), ["weekly"])
    cut, harvest = grow((maize(days=100),), ["weekly"])
    np.testing.assert_array_equal(rows(cut, 0), rows(whole[:100], 0))
    assert (harvest.season_days[0], harvest.matured[0]) == (100, False)
    assert 0 < harvest.yield_t_ha[0] < 10


def test_a_finished_batch_takes_steps_without_effect() -> None:
    batch = MaizeBatch((maize(days=5),), CHAMPION)
    for _ in range(5):
        batch.step(apply([1.0]))
    assert batch.finished
    batch.step(apply([float("nan")]))
    assert batch.harvest().irrigation_mm.tolist() == [5.0]


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["irrigation_mm", "nitrogen_kg_ha"])
def test_a_bad_amount_is_refused_before_anything_grows(what: str, bad: float) -> None:
    batch = MaizeBatch((maize(year=2003), maize(year=2004)), CHAMPION)
    decision = replace(Decision(np.zeros(2), np.zeros(2)), **{what: np.array([5.0, bad])})
    with pytest.raises(ValueError, match=rf"SiltClayLoam-2004: {what} is {bad} on day 0"):
        batch.step(decision)
    assert batch.harvest().season_days.tolist() == [0, 0]


def test_one_amount_for_two_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="one value for each of 2 fields"):
        MaizeBatch((maize(), maize(year=2003)), CHAMPION).step(apply([0.0]))


def test_nitrogen_is_counted_and_changes_nothing() -> None:
    fed, unfed = (MaizeBatch((maize(days=90),), CHAMPION) for _ in range(2))
    for _ in range(90):
        fed.step(Decision(np.zeros(1), np.ones(1)))
        unfed.step(apply([0.0]))
    assert fed.harvest().nitrogen_kg_ha.tolist() == [90.0]
    assert fed.harvest().yield_t_ha[0] == unfed.harvest().yield_t_ha[0]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (maize("SiltClayLom"), "no soil named 'SiltClayLom', did you mean 'SiltClayLoam'"),
        (maize("loam"), "no soil named 'loam', did you mean 'Loam'"),
        (
            maize(year=1981),
            "season 1981 needs weather of champion from 1981-04-30 to 1981-09-16, but it runs from 1982",
        ),
        (maize(year=2018, month=9), "needs weather of champion from 2018-09-30 to 2019-02-16"),
        (replace(maize(), site="tunis"), "no weather for site 'tunis'"),
        (replace(maize(), crop="wheat"), "grows wheat"),
        (maize(water=1.2), "initial_water_frac is 1.2"),
        (maize(water=float("nan")), "initial_water_frac is nan"),
        (maize(days=0), "season_days is 0"),
    ],
)
def test_a_field_that_cannot_be_farmed_is_named(field: Field, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        MaizeBatch((maize(), replace(field, field_id="the-bad-one")), CHAMPION)
    assert "the-bad-one" in str(caught.value)


def test_a_gap_in_the_weather_is_named() -> None:
    champion = CHAMPION["champion"]
    rain = champion.rain_mm.copy()
    rain[(date(2004, 6, 1) - champion.first_day).days] = np.nan
    with pytest.raises(ValueError, match="weather of champion has no rain_mm on 2004-06-01"):
        MaizeBatch((maize(),), {"champion": replace(champion, rain_mm=rain)})


def test_every_listed_soil_opens() -> None:
    batch = MaizeBatch(tuple(maize(soil) for soil in SOILS), CHAMPION)
    assert (batch.morning().taw_mm > 15).all()
