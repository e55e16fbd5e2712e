"""Devices that really run give the very doses that the same bundle gives in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from headland_edge.advisor import Advisor

from tasks.crops.farm import farm
from tasks.crops.fields import draw_fields
from tasks.crops.interface import Crop, DailyWeather
from tasks.fleet.live import LiveDevice, LiveDevices, running
from tasks.params import Params
from tasks.policies.device import Device
from tests.edge.small_bundle import TARGETS, conv_net, make_bundle, make_home

MORNINGS = 45


@pytest.mark.parametrize("crop", ["maize", "wheat"])
def test_real_devices_dose_as_the_bundle_does(
    tmp_path: Path, params: Params, weather: DailyWeather, crop: Crop
) -> None:
    bundle = make_bundle(tmp_path / "known.tar", {name: conv_net(quantiles=(0.8, 0.3, 0.5)) for name in TARGETS})
    ranges = params.fields.of(crop).model_copy(update={"season_days": MORNINGS})
    fields = draw_fields(crop, weather.site, [2001], 4, ranges, seed=1)
    devices = [LiveDevice(make_home(tmp_path / name, bundle, crop)) for name in ("a", "b")]
    expected = farm(fields, {weather.site: weather}, params.sensors, 1, Device(Advisor(bundle)))
    with running(devices):
        owners = [devices[0], devices[0], devices[1], devices[1]]
        log = farm(fields, {weather.site: weather}, params.sensors, 1, LiveDevices(owners))
    assert np.array_equal(log.irrigation_mm, np.round(expected.irrigation_mm, 2))
    assert np.array_equal(log.nitrogen_kg_ha, np.round(expected.nitrogen_kg_ha, 2))
    assert (log.irrigation_mm + log.nitrogen_kg_ha).sum() > 0
