import os
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.crops.interface import DailyWeather, Decision, Field, FloatArray, Harvest, Morning, open_batch
from tasks.crops.lintul3 import State
from tasks.crops.lintul3_parameters import read_crop_parameters, spring_wheat
from tasks.crops.wheat import FERTILISER_RECOVERY, SOILS, WheatBatch

FIRST_DAY = date(2001, 1, 1)
Drawn = tuple[str, str, int, float, float, float, list[tuple[int, float]]]


def invented(site: str, seed: int, latitude: float) -> DailyWeather:
    rng = np.random.default_rng(seed)
    days = np.arange(3 * 365)
    tmin = 7 - 7 * np.cos(2 * np.pi * (days - 20) / 365) + rng.normal(0, 3, days.size)
    return DailyWeather(
        site,
        FIRST_DAY,
        tmin,
        tmin + rng.uniform(2, 14, days.size),
        rain_mm=np.where(rng.random(days.size) < 0.35, rng.exponential(5, days.size), 0.0),
        et0_mm=np.full(days.size, np.nan),
        radiation_mj_m2=12 - 9 * np.cos(2 * np.pi * (days + 10) / 365) + rng.uniform(-2, 6, days.size),
        vapour_pressure_kpa=rng.uniform(0.5, 1.6, days.size),
        wind_m_s=rng.uniform(0.5, 6, days.size),
        latitude_deg=latitude,
        longitude_deg=0.0,
        elevation_m=100.0,
    )


SITES = {site.site: site for site in (invented("near", 1, 50.0), invented("far", 2, 41.0))}


def wheat(name: str = "a", **changes: object) -> Field:
    field = Field(name, "wheat", "near", 2001, "loam", date(2001, 3, 30), 146, 0.8, 40.0, 0.3)
    return replace(field, **changes)  # type: ignore[arg-type]  # checked by the calls' own values


MIXED = (
    wheat("a"),
    wheat("b", soil="sandy_loam", sowing_date=date(2002, 4, 6), season=2002, initial_water_frac=0.3),
    wheat("c", soil="clay_loam", site="far", mineral_n_kg_ha=0.0, mineralisation_kg_ha_d=0.6),
    wheat("d", soil="silt_loam", season_days=60, mineral_n_kg_ha=70.0),
    wheat("e", site="far", sowing_date=date(2003, 3, 24), season=2003, season_days=150, initial_water_frac=1.0),
)


def give(nitrogen_kg_ha: FloatArray) -> Decision:
    return Decision(np.zeros(nitrogen_kg_ha.size), nitrogen_kg_ha)


def grow(fields: tuple[Field, ...], doses: FloatArray) -> tuple[list[Morning], State, Harvest]:
    """Doses of shape (days, n_fields); nothing is given after the last."""
    batch = WheatBatch(fields, SITES)
    mornings: list[Morning] = []
    while not batch.finished:
        day = len(mornings)
        mornings.append(batch.morning())
        batch.step(give(doses[day] if day < len(doses) else np.zeros(len(fields))))
    return mornings, batch.state, batch.harvest()


def bits(morning: Morning, i: int) -> list[str]:
    return [float(values[i]).hex() for values in vars(morning).values()]


def test_fields_of_different_years_and_sites_in_one_batch_are_as_in_batches_of_their_own() -> None:
    doses = np.zeros((50, len(MIXED)))
    doses[7], doses[40] = 40.0, np.arange(len(MIXED)) * 10.0
    together, _, harvest = grow(MIXED, doses)
    for i, field in enumerate(MIXED):
        alone, _, own = grow((field,), doses[:, [i]])
        assert [bits(morning, 0) for morning in alone] == [bits(morning, i) for morning in together[: len(alone)]]
        assert not any(morning.active[i] for morning in together[len(alone) :])
        assert [values[0] for values in vars(own).values()] == [values[i] for values in vars(harvest).values()]


def test_a_season_cut_short_is_harvested_as_it_stands() -> None:
    mornings, _, harvest = grow(MIXED, np.zeros((0, len(MIXED))))
    assert harvest.season_days[3] == 60
    assert not harvest.matured[3]
    assert harvest.matured[[0, 1, 2]].all()
    assert [bool(m.active[3]) for m in mornings[58:62]] == [True, True, False, False]
    assert np.isnan(mornings[60].lai[3])


def test_open_batch_opens_wheat() -> None:
    assert isinstance(open_batch(MIXED, SITES), WheatBatch)


def test_the_first_morning() -> None:
    morning = WheatBatch(MIXED, SITES).morning()
    assert morning.active.all()
    assert morning.depletion_frac == pytest.approx([1 - field.initial_water_frac for field in MIXED])
    assert morning.taw_mm == pytest.approx([100 * (SOILS[f.soil]["WCFC"] - SOILS[f.soil]["WCWP"]) for f in MIXED])
    assert morning.soil_mineral_n_kg_ha == pytest.approx([field.mineral_n_kg_ha for field in MIXED])
    supply = [field.mineral_n_kg_ha + field.season_days * field.mineralisation_kg_ha_d for field in MIXED]
    assert morning.n_supply_kg_ha == pytest.approx(supply)
    assert morning.lai == pytest.approx([2.4 * 0.022] * len(MIXED))


def test_asking_for_the_morning_changes_nothing() -> None:
    batch = WheatBatch(MIXED, SITES)
    batch.step(give(np.full(len(MIXED), 30.0)))
    assert [bits(batch.morning(), i) for i in range(5)] == [bits(batch.morning(), i) for i in range(5)]


def test_finished_fields_ignore_what_is_decided_and_stay_as_they_are() -> None:
    batch = WheatBatch(MIXED, SITES)
    for _ in range(60):
        batch.step(give(np.zeros(len(MIXED))))
    before = batch.harvest().yield_t_ha[3]
    wrong = np.where(np.arange(len(MIXED)) == 3, np.nan, 0.0)
    batch.step(Decision(wrong, wrong))
    assert batch.harvest().yield_t_ha[3] == before
    while not batch.finished:
        batch.step(give(np.zeros(len(MIXED))))
    final = batch.harvest()
    batch.step(give(np.full(len(MIXED), 10.0)))
    assert [list(values) for values in vars(batch.harvest()).values()] == [list(v) for v in vars(final).values()]


def plant_and_soil_n(state: State) -> FloatArray:
    return state.leaf_n + state.stem_n + state.root_n + state.grain_n + state.lost_n + state.soil_n


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(SOILS)),
            st.sampled_from(sorted(SITES)),
            st.integers(40, 800),
            st.floats(0.0, 1.0),
            st.floats(0.0, 150.0),
            st.floats(0.0, 2.0),
            st.lists(st.tuples(st.integers(0, 140), st.floats(0.0, 250.0)), max_size=4),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_nitrogen_is_neither_made_nor_lost_and_the_soil_never_overflows(drawn: list[Drawn]) -> None:
    fields, doses = [], np.zeros((146, len(drawn)))
    for i, (soil, site, start, water, mineral, mineralisation, given_) in enumerate(drawn):
        sown = FIRST_DAY + timedelta(days=start)
        fields.append(
            wheat(
                str(i),
                soil=soil,
                site=site,
                sowing_date=sown,
                initial_water_frac=water,
                mineral_n_kg_ha=mineral,
                mineralisation_kg_ha_d=mineralisation,
            )
        )
        for day, amount in given_:
            doses[day, i] += amount
    mornings, state, harvest = grow(tuple(fields), doses)
    crop = spring_wheat()
    at_emergence = crop.nfrlvi * crop.wlvgi + crop.nfrrti * crop.wrtli
    brought = np.array(
        [
            f.mineral_n_kg_ha
            + harvest.nitrogen_kg_ha[i] * FERTILISER_RECOVERY
            + f.mineralisation_kg_ha_d * harvest.season_days[i]
            for i, f in enumerate(fields)
        ]
    )
    assert plant_and_soil_n(state) == pytest.approx(at_emergence + brought / 10, rel=1e-9)
    for morning in mornings:
        on = morning.active
        assert (morning.soil_mineral_n_kg_ha[on] >= -1e-9).all()
        assert (morning.n_supply_kg_ha[on] >= morning.soil_mineral_n_kg_ha[on]).all()
        assert np.isfinite(np.stack(list(vars(morning).values()))[:, on]).all()
        full = [
            1 - (SOILS[f.soil]["WCST"] - SOILS[f.soil]["WCWP"]) / (SOILS[f.soil]["WCFC"] - SOILS[f.soil]["WCWP"])
            for f in fields
        ]
        assert (morning.depletion_frac[on] >= np.array(full)[on] - 1e-9).all()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(SOILS)), st.integers(0, 100), st.floats(0.0, 100.0), st.floats(1.0, 200.0))
def test_nitrogen_given_is_in_the_soil_next_morning(soil: str, day: int, mineral: float, dose: float) -> None:
    field = wheat(soil=soil, mineral_n_kg_ha=mineral)
    doses = np.zeros((day + 1, 2))
    doses[day, 1] = dose
    mornings, _, _ = grow((field, field), doses)
    gained = np.diff(mornings[day + 1].soil_mineral_n_kg_ha)[0]
    assert gained == pytest.approx(FERTILISER_RECOVERY * dose, rel=1e-9, abs=1e-9)
    assert np.diff(mornings[day].soil_mineral_n_kg_ha)[0] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": "maize"}, "field a grows maize; a wheat batch holds wheat only"),
        ({"soil": "sandy_loan"}, "no soil named 'sandy_loan', did you mean 'sandy_loam'"),
        ({"initial_water_frac": 1.2}, "initial_water_frac is 1.2; give a share from 0 to 1"),
        ({"initial_water_frac": float("nan")}, "initial_water_frac is nan"),
        ({"season_days": 0}, "season_days is 0; give at least one day"),
        ({"mineral_n_kg_ha": -1.0}, "mineral_n_kg_ha is -1.0; give a number from 0 up"),
        ({"mineralisation_kg_ha_d": float("inf")}, "mineralisation_kg_ha_d is inf"),
        ({"site": "nowhere"}, r"no weather for site 'nowhere', only for \['far', 'near'\]"),
        ({"sowing_date": date(2000, 12, 31)}, "needs weather of near from 2000-12-31 .* it runs from 2001-01-01"),
        ({"sowing_date": date(2003, 8, 9)}, "to 2004-01-01, but it runs from 2001-01-01 to 2003-12-31"),
    ],
)
def test_a_field_that_cannot_be_farmed_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WheatBatch((wheat("ok"), wheat("a", **changes)), SITES)


def test_a_season_may_end_with_the_weather() -> None:
    assert grow((wheat(sowing_date=date(2003, 8, 8)),), np.zeros((0, 1)))[2].season_days[0] == 146


def test_no_field_at_all() -> None:
    with pytest.raises(ValueError, match="at least one field"):
        WheatBatch((), SITES)


@pytest.mark.parametrize("name", ["radiation_mj_m2", "vapour_pressure_kpa", "wind_m_s", "rain_mm", "tmax_c"])
def test_a_gap_in_the_weather_is_named(name: str) -> None:
    values = getattr(SITES["near"], name).copy()
    values[(date(2001, 5, 4) - FIRST_DAY).days] = np.nan
    with pytest.raises(ValueError, match=f"weather of near has no {name} on 2001-05-04"):
        WheatBatch((wheat(),), {"near": replace(SITES["near"], **{name: values})})


def test_weather_that_is_not_known_outside_the_season_does_not_matter() -> None:
    rain = SITES["near"].rain_mm.copy()
    rain[:80] = np.nan
    assert not WheatBatch((wheat(),), {"near": replace(SITES["near"], rain_mm=rain)}).finished


@pytest.mark.parametrize(
    ("irrigation", "nitrogen", "message"),
    [
        ([0.0, 0.0], [0.0, -1.0], "field b: nitrogen_kg_ha is -1.0 on day 1 after emergence"),
        ([0.0, 0.0], [float("nan"), 0.0], "field a: nitrogen_kg_ha is nan"),
        ([0.0, 0.0], [0.0, float("inf")], "field b: nitrogen_kg_ha is inf"),
        ([0.0, 5.0], [0.0, 0.0], "field b: irrigation_mm is 5.0 .* rain-fed; decide 0"),
        ([-1.0, 0.0], [0.0, 0.0], "field a: irrigation_mm is -1.0"),
        ([0.0, 0.0], [0.0], "nitrogen_kg_ha has shape .1,.; give one value for each of 2 fields"),
    ],
)
def test_a_decision_that_cannot_be_carried_out_changes_nothing(
    irrigation: list[float], nitrogen: list[float], message: str
) -> None:
    batch = WheatBatch((wheat("a"), wheat("b")), SITES)
    batch.step(give(np.zeros(2)))
    before = [bits(batch.morning(), i) for i in range(2)]
    with pytest.raises(ValueError, match=message):
        batch.step(Decision(np.array(irrigation), np.array(nitrogen)))
    assert [bits(batch.morning(), i) for i in range(2)] == before


def test_a_crop_file_is_read_not_run(tmp_path: Path) -> None:
    file = tmp_path / "a.crop"
    file.write_text(f"LUE = open({str(tmp_path / 'made')!r}, 'w').write('x')\n")
    with pytest.raises(RuntimeError, match=r"a\.crop: cannot be read as a crop file"):
        read_crop_parameters(file)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("text", "message"), [("LUE = \n", "cannot be read"), ("LUE = 2.8\n", "has no DVSI, DVSEND")])
def test_a_crop_file_that_is_no_crop_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.crop"
    file.write_text(text)
    with pytest.raises(RuntimeError, match=message):
        read_crop_parameters(file)
    with pytest.raises(RuntimeError, match=r"no\.crop: cannot be read"):
        read_crop_parameters(tmp_path / "no.crop")


def test_farming_wheat_neither_imports_pcse_nor_writes_into_the_home_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from tasks.crops.lintul3_parameters import spring_wheat as s; s(); sys.exit('pcse' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
