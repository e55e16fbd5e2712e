from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.crops.fields import draw_fields
from tasks.crops.interface import DailyWeather
from tasks.crops.reference import pcse_seasons, pcse_weather
from tasks.params import Params
from tasks.seasons import check
from tasks.seasons.check import EQUAL, CheckError, maize_differences, summary, wheat_differences


def test_maize_as_made_is_what_the_package_says_and_on_other_weather_is_not(
    params: Params, weather: DailyWeather, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = draw_fields("maize", "champion", [2001], 2, params.fields.maize, params.seed)
    found = maize_differences(fields, {"champion": weather}, params)
    assert len(found) == 2
    assert max(found) <= EQUAL
    package = check.maize_season
    warmer = replace(weather, tmax_c=weather.tmax_c + 1e-3)
    monkeypatch.setattr(check, "maize_season", lambda field, _, irrigate: package(field, warmer, irrigate))
    assert min(maize_differences(fields, {"champion": weather}, params)) > EQUAL


@pytest.mark.slow
def test_wheat_as_made_is_what_the_package_says(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = draw_fields("wheat", "wageningen", [1985, 1990], 1, params.fields.wheat, params.seed)
    found = wheat_differences(fields, params)
    assert len(found) == 2
    assert max(found) <= EQUAL
    warmer = pcse_weather(pcse_seasons([], tmp_path), "pcse")
    monkeypatch.setattr(check, "pcse_weather", lambda *_: replace(warmer, tmax_c=warmer.tmax_c + 1e-3))
    assert min(wheat_differences(fields, params)) > EQUAL


def test_wheat_in_years_pcse_does_not_know_is_not_compared(params: Params) -> None:
    fields = draw_fields("wheat", "elsewhere", [2015], 1, params.fields.wheat, params.seed)
    assert wheat_differences(fields, params) == []


def test_exceptions_are_counted_and_never_averaged_in() -> None:
    assert summary([1e-14, 2e-12, 0.3]) == {"compared": 3, "exceptions": 1, "largest_difference": 2e-12}
    assert summary([]) == {"compared": 0, "exceptions": 0, "largest_difference": 0.0}


def test_a_kernel_that_is_never_right_makes_no_data() -> None:
    with pytest.raises(CheckError, match="none of 2 seasons is what the crop package says"):
        summary([0.1, float("inf")])
