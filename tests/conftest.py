"""What many tests share: a project's params, small made-up weather, and the folder of external data."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tasks.crops.interface import DailyWeather
from tasks.params import Params, load
from tasks.sources.daily import SiteWeather, read_sites

ROOT = Path(__file__).parents[1]

# How fast a machine draws examples is no property of the code.
settings.register_profile("headland", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headland")


if "PYTEST_XDIST_WORKER" in os.environ:
    # The cores are shared by the tests already: helpers and threads on each of them would only take turns.
    for name in ("LOKY_MAX_CPU_COUNT", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

LONGEST = ("test_seasons.py", "test_whole_season.py")
"""Files of minutes: started first, they don't keep one core waiting for the other at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the longest files to the front, all else in its order."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def params() -> Params:
    """The project's own params."""
    return load(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def signed_fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet's folder with releases 1 and 2 published and 1 assigned; copy it, see ``tests.fleet.made``."""
    from tests.fleet.made import make_fleet

    return make_fleet(tmp_path_factory.mktemp("fleet") / "fleet")


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk, for tests that write much and cut no power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def external_data() -> Path:
    """The folder with real data that does not ship with the project; skips where it is absent."""
    folder = Path(os.environ.get("HEADLAND_EXTERNAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no external data at {folder}; set HEADLAND_EXTERNAL_DATA")
    return folder


def made_up_weather(site: str, year: int, days: int = 365, seed: int = 0) -> DailyWeather:
    """A plausible summer-dry year for tests that need some weather, not real weather."""
    rng = np.random.default_rng([seed, year])
    day = np.arange(days)
    warm = 12.0 - 12.0 * np.cos(2 * np.pi * (day - 15) / 365)
    return DailyWeather(
        site=site,
        first_day=date(year, 1, 1),
        tmin_c=warm - 5.0 + rng.normal(0, 2, days),
        tmax_c=warm + 6.0 + np.abs(rng.normal(0, 2, days)),
        rain_mm=np.where(rng.random(days) < 0.25, rng.exponential(8.0, days), 0.0),
        et0_mm=np.maximum(0.3, 3.0 - 2.5 * np.cos(2 * np.pi * (day - 15) / 365) + rng.normal(0, 0.5, days)),
        radiation_mj_m2=np.maximum(1.0, 13.0 - 9.0 * np.cos(2 * np.pi * (day - 10) / 365) + rng.normal(0, 2, days)),
        vapour_pressure_kpa=np.full(days, 1.1),
        wind_m_s=np.full(days, 2.0),
        latitude_deg=45.0,
        longitude_deg=5.0,
        elevation_m=100.0,
    )


@pytest.fixture(scope="session")
def weather_folder(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    """What the weather stage makes; nobody writes into it."""
    from tasks.sources.weather import run

    folder = tmp_path_factory.mktemp("weather")
    run(params, folder)
    return folder


@pytest.fixture(scope="session")
def sites(weather_folder: Path, params: Params) -> dict[str, SiteWeather]:
    """Every site's observed weather."""
    return read_sites(params, weather_folder)


@pytest.fixture(scope="session")
def weather() -> DailyWeather:
    """One made-up year at champion."""
    return made_up_weather("champion", 2001)
