"""What a season is worth to the next: fields in real devices' folders, observed weather, a net of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from headland_edge.features import FEATURES
from headland_edge.messages import Message, encode
from headland_edge.selection import Terms, choose, judge

from tasks.crops.farm import farm
from tasks.field.worth import as_sent
from tasks.fleet.live import LiveDevice, put_records
from tasks.fleet.season_play import fleet_fields, season_params, weigh
from tasks.fleet.season_worth import drawn, farm_of, season_worth
from tasks.params import Params
from tasks.policies.growers import Nothing
from tasks.sources.daily import SiteWeather
from tasks.training.nets import Architecture, build
from tasks.training.store import save_net
from tests.edge.small_bundle import make_home
from tests.training.water_balance import make_windows

FIELDS = 3
SEEDS = 3


@pytest.fixture(scope="module")
def small(params: Params) -> Params:
    maize = params.fields.maize.model_copy(update={"season_days": 100})
    return params.model_copy(update={"fields": params.fields.model_copy(update={"maize": maize})})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a net of the yield that knows nothing yet."""
    root = tmp_path_factory.mktemp("project")
    windows = root / "data" / "windows" / "yield"
    make_windows(windows, fields=30, mornings=80)
    meta = json.loads((windows / "meta.json").read_text())
    meta["target"] = {"name": "yield_t_ha", "unit": "t/ha", "offset": 0.0, "scale": 10.0}
    meta["trends"] = {crop: {"reference_season": 2000, "per_year_frac": 0.0} for crop in ("maize", "wheat")}
    (windows / "meta.json").write_text(json.dumps(meta))
    torch.manual_seed(1)
    architecture = Architecture(len(FEATURES), 64, (8, 8), 8, 5)
    save_net(root / "data" / "models" / "yield" / "trained", build(architecture), architecture, {})
    return root


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory, small: Params, sites: dict[str, SiteWeather]) -> list[LiveDevice]:
    """Two devices whose season is over and weighed."""
    folder = tmp_path_factory.mktemp("devices")
    devices = [LiveDevice(make_home(folder / name, device_id=f"device-{name}")) for name in ("a", "b")]
    fields = fleet_fields(small, "maize", 2009, 2 * FIELDS)
    log = farm(fields, {"champion": sites["champion"].season_weather(2009)}, small.sensors, small.seed, Nothing())
    for number, field in enumerate(fields):
        device = devices[number // FIELDS]
        put_records(device, field, log.records[number, : int(log.active[number].sum())])
        weigh(device, field, float(log.harvest.yield_t_ha[number]))
    return devices


def sent_by(devices: list[LiveDevice]) -> list[Message]:
    return [
        message
        for device in devices
        for message in choose([judge(over, {}) for over in farm_of(device)], Terms(), device.device_id)
    ]


def test_what_was_sent_stands_beside_everything_and_as_many_random_bytes(
    project: Path, small: Params, sites: dict[str, SiteWeather], devices: list[LiveDevice]
) -> None:
    sent = sent_by(devices)
    other = replace(sent[0], body={**sent[0].body, "field": "of-another-season"})
    found = season_worth(project, small, sites, devices, [*sent, other], SEEDS)
    assert found is not None
    size, loss = found["bytes"], found["loss_t_ha"]
    assert size["sent"] == sum(len(encode(each)) for each in sent)
    assert 0 < size["sent"] <= 0.1 * size["everything"]
    assert 0.5 * size["sent"] < size["random"] <= 0.1 * size["everything"]
    assert loss["everything"] < loss["nothing"]  # a net that knows nothing learns from every field there is
    assert found["seeds"] == SEEDS
    assert found["sent_less_random_frac"] == pytest.approx(
        (loss["sent"] - loss["random"]) / loss["everything"], abs=1e-4
    )
    assert season_worth(project, small, sites, devices, [*sent, other], SEEDS) == found


def test_each_seed_draws_anew_and_each_device_draws_for_itself(devices: list[LiveDevice]) -> None:
    farms = {device.device_id: farm_of(device) for device in devices}
    draws = [{(each.device_id, each.body["field"]) for each in drawn(farms, seed)} for seed in range(12)]
    assert len({frozenset(draw) for draw in draws}) > 3
    known = {(device_id, over.field) for device_id, farm in farms.items() for over in farm}
    assert all(draw <= known and {owner for owner, _ in draw} == farms.keys() for draw in draws)


def test_nothing_sent_teaches_nothing(
    project: Path, small: Params, sites: dict[str, SiteWeather], devices: list[LiveDevice]
) -> None:
    found = season_worth(project, small, sites, devices, [], SEEDS)
    assert found is not None
    assert found["bytes"]["sent"] == 0
    assert found["loss_t_ha"]["sent"] == found["loss_t_ha"]["nothing"]


def test_no_weather_of_a_next_season_no_figure(
    project: Path, small: Params, sites: dict[str, SiteWeather], devices: list[LiveDevice]
) -> None:
    assert season_worth(project, season_params(small, 2018), sites, devices, sent_by(devices)) is None


def test_records_arrive_as_they_were_rounded(devices: list[LiveDevice]) -> None:
    (over, *_) = farm_of(devices[0])
    arrived = as_sent(over.records)
    assert arrived.values.shape == over.records.values.shape
    assert np.array_equal(np.isnan(arrived.values), np.isnan(over.records.values))
    assert np.nanmax(np.abs(arrived.values - over.records.values)) <= 0.05 + 1e-9
