"""The gate in closed loop: advice that ruins a grower is not published, however right its models are."""

from __future__ import annotations

from pathlib import Path

import pytest
from headland_edge.bundle import write_bundle
from headland_edge.rules import FourStageRule

from tasks.params import Params
from tasks.registry.money import MoneyError, earned_usd_ha, reasons
from tasks.sources.daily import SiteWeather
from tests.edge.small_bundle import conv_net, parts

RULE = FourStageRule((0.4, 0.5, 0.6, 0.9), (25, 54, 107, 140), 30.0, 5.0)
NEVER_DRY, NEVER_FED = (-0.1, 0.0, 0.1), (1.9, 2.0, 2.1)


@pytest.fixture(scope="module")
def quick(params: Params) -> Params:
    gate = params.gate.model_copy(update={"fields_per_season": 1})
    return params.model_copy(update={"gate": gate, "validation_every": 9})


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that thinks no field is ever dry and every field is fed."""
    nets = {"irrigation": conv_net(quantiles=NEVER_DRY), "nitrogen": conv_net(quantiles=NEVER_FED)}
    manifest, members = parts(nets)
    manifest["policy"]["maize"]["sensor_rule"] = RULE.to_dict()
    path = tmp_path_factory.mktemp("blind") / "blind.tar"
    write_bundle(path, manifest, members)
    return path


def test_advice_that_lets_fields_dry_out_earns_less_than_the_rule(
    quick: Params, sites: dict[str, SiteWeather], blind: Path
) -> None:
    earned = earned_usd_ha(blind, None, quick, sites)
    assert set(earned["maize"]) == {"device", "rule"}
    assert earned["maize"]["rule"] > earned["maize"]["device"] + 100
    told = reasons(earned, 20.0)
    assert "maize: the candidate's advice earns" in told[0]
    assert "less than the tuned rule without a model on validation seasons, at most 20 are allowed" in told[0]
    assert earned_usd_ha(blind, blind, quick, sites)["maize"]["champion"] == earned["maize"]["device"]


def test_who_stays_behind_whom_is_told_by_crop() -> None:
    earned = {
        "maize": {"device": 500.0, "rule": 519.0, "champion": 521.0},
        "wheat": {"device": 1300.0, "rule": 1200.0},
    }
    (told,) = reasons(earned, 20.0)
    assert told.startswith("maize: the candidate's advice earns 21 USD/ha less than the champion")
    assert reasons(earned, 30.0) == []


def test_what_is_no_number_is_no_reason_to_pass() -> None:
    assert len(reasons({"maize": {"device": float("nan"), "rule": 500.0}}, 20.0)) == 1


def test_without_a_season_to_farm_the_gate_says_so(quick: Params, sites: dict[str, SiteWeather], blind: Path) -> None:
    nowhere = {name: site.model_copy(update={"crops": []}) for name, site in quick.sites.items()}
    with pytest.raises(MoneyError, match="maize: no site has a validation season"):
        earned_usd_ha(blind, None, quick.model_copy(update={"sites": nowhere}), sites)
