from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from headland_edge.bundle import write_bundle
from headland_edge.manifest import CropPolicy
from headland_edge.rules import DayCurveRule, SplitRule

from tasks.crops.farm import farm
from tasks.crops.fields import draw_fields
from tasks.evaluation.arena import DEVICE, POLICY_NAMES, Arena, play_all, policy_of
from tasks.evaluation.closed_loop import UnripeError, groups_of, main, summary
from tasks.policies.growers import Threshold
from tests.conftest import ROOT, made_up_weather
from tests.edge.small_bundle import parts


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    manifest, members = parts()
    manifest["policy"]["wheat"]["fixed_rule"] = SplitRule(
        (7.0, 480.0, 704.0), (40.0, 20.0, 20.0), (0.0,) * 3, 120.0
    ).to_dict()
    path = tmp_path_factory.mktemp("bundle") / "b.tar"
    write_bundle(path, manifest, members)
    return path


@pytest.fixture(scope="module")
def arena(bundle, params) -> Arena:
    from headland_edge.bundle import open_bundle

    weather = {f"champion/{year}": made_up_weather("champion", year) for year in (2001, 2002)}
    return Arena(bundle, open_bundle(bundle).manifest.policy, params, weather)


@pytest.fixture(scope="module")
def rows(arena, params) -> pl.DataFrame:
    found, _ = play_all(groups_of("maize", "champion", [2001, 2002], 2, params), arena)
    return found


def test_every_policy_farms_every_field(rows):
    assert set(rows["policy"]) == set(POLICY_NAMES["maize"])
    assert rows.group_by("policy").len()["len"].to_list() == [4] * 6
    assert rows["profit_usd_ha"].is_finite().all()


def test_rainfed_fields_get_no_water_and_the_calendar_its_twelve_irrigations(rows):
    water = dict(rows.group_by("policy").agg(pl.col("irrigation_mm").mean()).iter_rows())
    assert water["rainfed"] == 0.0
    assert water["weekly_25mm"] == pytest.approx(300.0)


def test_the_summary_adds_up(rows):
    found = summary(rows)
    for name, gain in found["gain_usd_ha"].items():
        means = {key: value["profit_usd_ha"] for key, value in found["policies"].items()}
        assert gain["mean"] == pytest.approx(means[DEVICE] - means[name], abs=1e-6)
        assert gain["low_95"] <= gain["mean"] <= gain["high_95"]
        assert gain["seasons"] == 2
    assert set(found["profit_usd_ha_by_season"]) == {"2001", "2002"}


def test_a_field_that_was_not_ripe_is_named_and_counts_for_no_policy(rows):
    lost = rows["field_id"][0]
    cut = rows.with_columns(cut_off=(pl.col("field_id") == lost) & (pl.col("policy") == "rainfed"))
    found = summary(cut)
    assert found["cut_off_fields"] == [lost]
    assert found["fields"] == summary(rows)["fields"] - 1
    with pytest.raises(UnripeError, match="season_days"):
        summary(rows.with_columns(cut_off=True))


def test_the_device_in_the_loop_advises_through_the_device_package(arena, params):
    fields = draw_fields("maize", "champion", [2001], 1, params.fields.maize, params.seed)
    device = policy_of(DEVICE, "maize", arena)
    log = farm(fields, {"champion": arena.weather["champion/2001"]}, params.sensors, params.seed, device)
    assert device.advised + device.refused == int(log.active.sum())
    assert device.advised > 0


def headland_csv(path: Path, years: range) -> Path:
    lines = ["date,tmin_c,tmax_c,rain_mm,et0_mm,radiation_mj_m2,vapour_pressure_kpa,wind_m_s"]
    for year in years:
        weather = made_up_weather("mine", year)
        for i in range(365):
            day = date(year, 1, 1) + timedelta(days=i)
            cells = (weather.tmin_c, weather.tmax_c, weather.rain_mm, weather.et0_mm, weather.radiation_mj_m2,
                     weather.vapour_pressure_kpa, weather.wind_m_s)  # fmt: skip
            lines.append(",".join([day.isoformat(), *(f"{column[i]:.3f}" for column in cells)]))
    path.write_text("\n".join(lines) + "\n")
    return path


def run(capsys, *words) -> tuple[int, str, str]:
    code = main([str(word) for word in (*words, "--params", ROOT / "params.yaml")])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_anyones_weather_by_hand(tmp_path, bundle, capsys):
    file = headland_csv(tmp_path / "mine.csv", range(2001, 2003))
    code, out, _ = run(capsys, "--bundle", bundle, "--weather", file, "--latitude-deg", 45, "--fields", 1, "--json")
    assert code == 0
    found = json.loads(out)
    assert set(found) == {"maize", "wheat"}
    assert found["wheat"]["fields"] == 2
    assert np.isfinite(found["maize"]["gain_usd_ha"]["tuned_threshold"]["mean"])


@pytest.mark.external
def test_nasa_power_weather_by_hand(external_data, bundle, capsys):
    file = external_data / "nasa_power" / "LAT00440_LON-0990.csv.gz"
    words = ("--weather-format", "nasa-power", "--seasons", 2, "--fields", 1, "--crop", "maize", "--json")
    code, out, err = run(capsys, "--bundle", bundle, "--weather", file, *words)
    assert code == 0, err
    assert json.loads(out)["maize"]["fields"] == 2


def test_a_flipped_byte_in_the_bundle_is_refused_with_code_7(tmp_path, bundle, capsys):
    damaged = bytearray(bundle.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    copy = tmp_path / "damaged.tar"
    copy.write_bytes(damaged)
    file = headland_csv(tmp_path / "mine.csv", range(2001, 2002))
    code, _, err = run(capsys, "--bundle", copy, "--weather", file, "--latitude-deg", 45)
    assert code == 7
    assert "damaged.tar" in err


def test_weather_without_a_whole_season_is_said(tmp_path, bundle, capsys):
    file = headland_csv(tmp_path / "mine.csv", range(2001, 2002))
    file.write_text("\n".join(file.read_text().splitlines()[:100]) + "\n")
    code, _, err = run(capsys, "--bundle", bundle, "--weather", file, "--latitude-deg", 45)
    assert code == 1
    assert "no complete season" in err


def test_a_baseline_of_another_form_is_refused_and_not_played_under_its_name(params, tmp_path):
    curve = DayCurveRule((1, 60), (0.5, 0.5), 1.0, 30.0, 5.0)
    for plain in (None, curve):
        arena = Arena(tmp_path / "none.tar", {"maize": CropPolicy(curve, curve, plain)}, params, {})
        for name in ("tuned_threshold", "threshold_70pct"):
            with pytest.raises(ValueError, match=f"no rule for {name} of maize"):
                policy_of(name, "maize", arena)
        assert isinstance(policy_of("tuned_day_curve", "maize", arena), Threshold)
