"""A candidate is refused for its models' errors, for its counter, or for what its advice earns."""

from __future__ import annotations

from pathlib import Path

import pytest
from headland_edge.bundle import write_bundle
from headland_edge.rules import FourStageRule

from tasks.fleet.candidate import GateRefusedError, judge_candidate
from tasks.fleet.folder import FleetFolder
from tasks.params import Params
from tests.edge.small_bundle import WINDOW_DAYS, conv_net, parts
from tests.fleet.made import make_fleet
from tests.training.water_balance import make_windows

RULE = FourStageRule((0.4, 0.5, 0.6, 0.9), (25, 54, 107, 140), 30.0, 5.0)
NEVER_DRY = (-0.1, 0.0, 0.1)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, weather_folder: Path) -> Path:
    root = tmp_path_factory.mktemp("project")
    make_windows(root / "data" / "windows" / "irrigation", fields=10, mornings=40, window_days=WINDOW_DAYS)
    (root / "data" / "weather").symlink_to(weather_folder)
    return root


@pytest.fixture
def quick(params: Params) -> Params:
    gate = params.gate.model_copy(update={"fields_per_season": 1})
    return params.model_copy(update={"gate": gate, "validation_every": 9})


@pytest.fixture(scope="module")
def blind(project: Path) -> Path:
    """No field is ever dry, says its net; its tuned rule knows better."""
    manifest, members = parts({"irrigation": conv_net(quantiles=NEVER_DRY)})
    manifest["policy"]["maize"]["sensor_rule"] = RULE.to_dict()
    write_bundle(project / "blind.tar", manifest, members)
    return project / "blind.tar"


def allowing(params: Params, usd_ha: float) -> Params:
    return params.model_copy(update={"gate": params.gate.model_copy(update={"max_worse_usd_ha": usd_ha})})


def test_advice_that_ruins_a_grower_is_refused_and_what_passes_tells_what_it_earns(
    project: Path, quick: Params, blind: Path, tmp_path: Path
) -> None:
    fleet = FleetFolder(make_fleet(tmp_path / "fleet"))
    with pytest.raises(GateRefusedError, match=r"maize: the candidate's advice earns .* less than the tuned rule"):
        judge_candidate(project, fleet, blind, quick)
    verdict = judge_candidate(project, fleet, blind, allowing(quick, 5000.0))
    assert verdict.passed
    assert verdict.earned_usd_ha["maize"]["device"] < verdict.earned_usd_ha["maize"]["rule"] - 100
    assert "champion" in verdict.earned_usd_ha["maize"]


def test_a_counter_that_is_taken_is_told_before_anything_is_farmed(
    project: Path, quick: Params, tmp_path: Path
) -> None:
    fleet = FleetFolder(make_fleet(tmp_path / "fleet"))
    manifest, members = parts({"irrigation": conv_net(quantiles=NEVER_DRY)}, counter=1)
    write_bundle(tmp_path / "old.tar", manifest, members)
    elsewhere = tmp_path / "without-weather"
    (elsewhere / "data").mkdir(parents=True)
    (elsewhere / "data" / "windows").symlink_to(project / "data" / "windows")
    with pytest.raises(GateRefusedError, match="counter 1 is not above"):
        judge_candidate(elsewhere, fleet, tmp_path / "old.tar", quick)
