"""What dvc.yaml declares is what the stages say they read."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

STAGES = {
    name: stage.get("do", stage) for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}


def declared(stage: str) -> set[str]:
    """Top-level keys of params.yaml that the stage declares."""
    return {str(key).partition(".")[0] for key in STAGES[stage].get("params", [])}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_the_params_it_reads(stage: str) -> None:
    module = importlib.import_module(STAGES[stage]["cmd"].split()[2])
    if stage == "weather":
        assert declared(stage) == {"sites"}
    else:
        assert set(module.PARAMS) == declared(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_touches_only_params_it_declares(stage: str) -> None:
    source = importlib.import_module(STAGES[stage]["cmd"].split()[2]).__file__
    assert source is not None
    used = set(re.findall(r"\bparams\.([a-z_]+)\b", Path(source).read_text()))
    methods = {"split", "season_of"}
    parts = {"model_copy", "model_dump", "yaml"}
    assert used - methods - parts <= declared(stage)
    if used & methods:
        assert {"as_of", "sites"} <= declared(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_every_dependency_in_the_repository_exists(stage: str) -> None:
    made = ("data/", "metrics/", "plots")
    for path in STAGES[stage]["deps"]:
        assert path.startswith(made) or (ROOT / path).exists(), path
