"""Learning farms as devices farm: the same doses, morning by morning, as the device package gives."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from headland_edge.advantage import MAPS, Belief, inputs_for
from headland_edge.advisor import Advisor
from headland_edge.bundle import open_bundle, write_bundle
from headland_edge.manifest import Target
from headland_edge.runtime import Session

from tasks.advantage.estimates import Estimator
from tasks.advantage.learn import School, learn, trust, visit, write
from tasks.advantage.loop import Believed, Device, farm_as_devices
from tasks.advantage.net import ShippedNet
from tasks.advantage.worlds import World, world_of
from tasks.crops.farm import farm
from tasks.packaging.build_bundle import ADVANTAGE_TOLERANCE_USD_HA, with_advantage
from tasks.policies.device import Device as AskedDevice
from tests.conftest import made_up_weather
from tests.edge.small_bundle import IRRIGATION, NITROGEN, WINDOW_DAYS, conv_net, npy, parts
from tests.edge.test_edge_advantage import entry, gain_net

YEARS = {f"x/{year}": replace(made_up_weather("x", year), site=f"x/{year}") for year in (2001, 2002, 2003)}
TARGETS = {"maize": Target("depletion_frac", "1", 0.0, 1.0), "wheat": Target("n_supply_kg_ha", "kg/ha", 0.0, 100.0)}


def steady(params):
    """Sensors without outages: a device goes over to the raw reading after a week of silence, learning does not."""
    calm = params.sensors.dropout.model_copy(update={"starts_per_day": 0.0})
    return params.sensors.model_copy(update={"dropout": calm})


@pytest.mark.parametrize(
    ("crop", "model", "rule"), [("maize", "irrigation", IRRIGATION), ("wheat", "nitrogen", NITROGEN)]
)
def test_the_loop_gives_the_doses_that_the_device_package_gives(tmp_path, params, crop, model, rule):
    doses = (0.0, 10.0, 20.0, 30.0) if crop == "maize" else (0.0, 20.0, 40.0, 80.0)
    net, state = gain_net(doses, crop, seed=4), conv_net(3)
    manifest, members = parts({model: state})
    golden = np.zeros((2, len(inputs_for(crop)), 1), np.float32)
    members |= {f"advantage/{crop}.onnx": net, "advantage/i.npy": npy(golden)}
    members["advantage/o.npy"] = npy(Session(net, "n", MAPS, 4).run(golden))
    reach = 0.3 if crop == "maize" else 50.0
    manifest["policy"][crop]["advantage"] = entry(crop, doses=list(doses), reach=reach)
    write_bundle(tmp_path / "b.tar", manifest, members)

    world, sensors = world_of(crop, YEARS, 2, params, "a"), steady(params)
    asked = farm(world.fields, world.weather, sensors, 5, AskedDevice(Advisor(open_bundle(tmp_path / "b.tar"))))
    everything = (-99.0,) * len(inputs_for(crop)), (99.0,) * len(inputs_for(crop))
    believed = Believed(ShippedNet(net, 4), Belief(doses, 1.0, reach, *everything))
    estimator = Estimator(state, TARGETS[crop], WINDOW_DAYS, crop, 2001)
    found = farm_as_devices(world, Device(rule, estimator, sensors, 5, believed))
    np.testing.assert_allclose(found.irrigation_mm, asked.harvest.irrigation_mm, atol=1e-3)
    np.testing.assert_allclose(found.nitrogen_kg_ha, asked.harvest.nitrogen_kg_ha, atol=1e-2)
    plain = farm_as_devices(world, Device(rule, estimator, sensors, 5))
    assert not np.allclose(plain.irrigation_mm + plain.nitrogen_kg_ha, found.irrigation_mm + found.nitrogen_kg_ha)


@pytest.fixture
def school(params) -> School:
    small = params.advantage["wheat"].model_copy(
        update={
            "rounds": 2,
            "mornings_per_round": 100,
            "fields_per_season": 4,
            "futures": 2,
            "epochs": 3,
            "width": 8,
            "spliced_seasons": 0,
            "judged_fields_per_season": 2,
        }
    )
    quick = params.model_copy(update={"advantage": {**params.advantage, "wheat": small}})
    estimator = Estimator(conv_net(3), TARGETS["wheat"], WINDOW_DAYS, "wheat", 2001)
    known, held = dict(list(YEARS.items())[:2]), dict(list(YEARS.items())[2:])
    return School("wheat", quick, NITROGEN, estimator, known, {}, held)


def test_a_visit_depends_on_nothing_but_its_name(school):
    world = world_of("wheat", YEARS, 2, school.params, "a")
    first, again = (visit(school, world, school.device(3), 1.0, "n") for _ in range(2))
    np.testing.assert_array_equal(first.inputs, again.inputs)
    np.testing.assert_array_equal(first.gains_usd_ha, again.gains_usd_ha)
    assert np.isfinite(first.inputs).all()
    assert np.isfinite(first.gains_usd_ha).all()


def test_what_is_learned_is_written_whole_with_golden_mornings(school, tmp_path):
    said: list[str] = []
    net, learned = learn(school, said.append)
    assert len(said) == 2
    shipped = ShippedNet(gain_net((1.0,) * len(school.settings.doses), "wheat"), len(school.settings.doses))
    believed, table = trust(school, shipped, learned)
    assert len(table) == len(school.settings.margins_usd_ha) * len(school.settings.reaches)
    assert (believed is None) == (max(row["gain_usd_ha"] for row in table) <= 0)
    write(tmp_path, "wheat", shipped, learned, school.believed(shipped, learned, 1.0, 15.0), 1)
    plain = json.loads((tmp_path / "wheat/advantage.json").read_text())
    assert plain["ships"]
    assert plain["inputs"] == [each.name for each in inputs_for("wheat")]
    inputs = np.load(tmp_path / "wheat/golden.inputs.npy")
    assert ((inputs[..., 0] >= plain["belief"]["low"]) & (inputs[..., 0] <= plain["belief"]["high"])).all()
    assert net.layers[0][0].shape[1] == len(inputs_for("wheat"))

    # The bundle takes it up as it was written, and a device reproduces its golden mornings.
    manifest, members = parts({"nitrogen": conv_net(3)})
    manifest["policy"], nets = with_advantage(manifest["policy"], tmp_path)
    write_bundle(tmp_path / "b.tar", manifest, members | nets)
    bundle = open_bundle(tmp_path / "b.tar")
    assert bundle.verify_golden()["advantage/wheat"] == (0.0, ADVANTAGE_TOLERANCE_USD_HA)
    assert bundle.manifest.policy["maize"].advantage is None


def test_where_nothing_pays_no_net_ships(school, tmp_path):
    """A net that always wants the largest dose loses money on every season."""
    doses = school.settings.doses
    wasteful = ShippedNet(gain_net((*(-50.0,) * (len(doses) - 1), 50.0), "wheat"), len(doses))
    world = World(world_of("wheat", YEARS, 2, school.params, "a").fields, YEARS)
    learned = visit(school, world, school.device(3), 1.0, "n")
    dear = school.params.prices.model_copy(update={"nitrogen_usd_kg": 50.0})
    costly = replace(school, params=school.params.model_copy(update={"prices": dear}))
    believed, table = trust(costly, wasteful, learned)
    assert all(row["gain_usd_ha"] <= 0 for row in table)
    assert believed is None
    write(tmp_path, "wheat", wasteful, learned, believed, 1)
    assert json.loads((tmp_path / "wheat/advantage.json").read_text()) == {"ships": False}
