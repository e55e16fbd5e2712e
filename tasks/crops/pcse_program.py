"""Run LINTUL3 spring wheat on the pcse package as installed and write every morning, in hexadecimal floats.

A program of its own, started by ``tasks.crops.reference``, so that nothing of this project can reach it. Reads JSON
from standard input: seasons to run, and days to work out potential evaporation for. On the command line stand the file
to write and a folder for copies of the weather files (pcse writes next to them).

pcse starts the water content at 0 and computes it from the first night on, so the soil starts one day before
emergence, and on that day it neither rains nor evaporates. The ``lead_days`` of a case, if given, start it earlier
with the weather as it was.
"""

import copy
import json
import shutil
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pcse
from pcse.base import ParameterProvider
from pcse.engine import Engine
from pcse.input import CABOWeatherDataProvider, PCSEFileReader
from pcse.util import daylength, penman

DATA = Path(pcse.__file__).parent / "tests" / "test_data"
STATES = ["LAI", "WLVG", "WLVD", "WST", "WSO", "WRT", "ANLV", "ANST", "ANRT", "ANSO", "ROOTD", "TNSOIL", "WC", "TAGBM"]
VARIABLES = [*STATES, "NLOSSL", "NLOSSR", "DVS"]
WEATHER = {"IRRAD": 1e-6, "TMIN": 1, "TMAX": 1, "VAP": 0.1, "WIND": 1, "RAIN": 10, "ES0": 10, "ET0": 10}


def read_weather(folder: str) -> Any:
    """Weather of Wageningen that ships with pcse; ``folder`` takes copies of its files."""
    for file in DATA.glob("NL1.[0-9][0-9][0-9]"):
        shutil.copy(file, folder)
    return CABOWeatherDataProvider("NL1", folder, ETmodel="P")


def with_still_eve(weather: Any, eve: date) -> Any:
    """The same weather, but for one day without rain and evaporation."""
    changed = copy.copy(weather)
    changed.store = dict(weather.store)
    day = copy.copy(weather(eve))
    day.RAIN = day.E0 = day.ES0 = day.ET0 = 0.0
    changed.store[(eve, 0)] = day
    return changed


def agromanagement(case: dict[str, Any], start: date, emergence: date) -> list[dict[date, Any]]:
    """What pcse is told of dates and doses."""
    events = [{date.fromisoformat(day): {"amount": a, "recovery": r}} for day, a, r in case["events"]]
    timed = [{"event_signal": "apply_n", "name": "doses", "comment": "", "events_table": events}] if events else None
    calendar = {
        "crop_name": "wheat",
        "variety_name": "spring-wheat",
        "crop_start_date": emergence,
        "crop_start_type": "emergence",
        "crop_end_date": emergence + timedelta(days=case["season_days"]),
        "crop_end_type": "earliest",
        "max_duration": 366,
    }
    return [{start: {"CropCalendar": calendar, "TimedEvents": timed, "StateEvents": None}}]


def season(case: dict[str, Any], weather: Any) -> list[dict[str, str]]:
    """Values of every morning from emergence on."""
    emergence = date.fromisoformat(case["emergence"])
    start = emergence - timedelta(days=case.get("lead_days", 1))
    if "lead_days" not in case:
        weather = with_still_eve(weather, start)
    crop = PCSEFileReader(str(DATA / "lintul3_springwheat.crop"))
    soil = PCSEFileReader(str(DATA / "lintul3_springwheat.soil"))
    site = PCSEFileReader(str(DATA / "lintul3_springwheat.site"))
    for given in (crop, soil, site):
        given.update({name: value for name, value in case["parameters"].items() if name in given})
    parameters = ParameterProvider(sitedata=site, soildata=soil, cropdata=crop)
    engine = Engine(
        parameters,
        weather,
        agromanagement(case, start, emergence),
        config="Lintul3.conf",
        output_vars=VARIABLES,
    )
    engine.run_till_terminate()
    rows = [row for row in engine.get_output() if row["day"] >= emergence and row["DVS"] is not None]
    return [{name: float(row[name]).hex() for name in VARIABLES} for row in rows]


def evaporate(day: str, latitude: float, *more: float) -> list[str]:
    """Potential evaporation of soil and canopy, mm, and the length of the day, h."""
    when = date.fromisoformat(day)
    _, soil, canopy = penman(when, latitude, *more, 0.18, 0.55)
    return [float(x).hex() for x in (soil, canopy, daylength(when, latitude))]


def main() -> None:
    """Answer what stands on standard input."""
    weather = read_weather(sys.argv[2])
    days = []
    for day in sorted(key[0] for key in weather.store):
        record = weather(day)
        days.append([day.isoformat(), *(float(getattr(record, name) * f).hex() for name, f in WEATHER.items())])
    wanted = json.load(sys.stdin)
    seasons = [season(case, weather) for case in wanted["seasons"]]
    place = [weather.latitude, weather.longitude, weather.elevation]
    evaporation = [evaporate(*day) for day in wanted["days"]]
    answer = {"place": place, "weather": days, "seasons": seasons, "days": evaporation}
    Path(sys.argv[1]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
