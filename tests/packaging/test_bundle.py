from __future__ import annotations

import json
import subprocess

import pytest
import yaml

from tasks.packaging.build_bundle import release_counter
from tasks.packaging.lineage import git_commit, lineage, locked_stages
from tasks.packaging.mlbom import mlbom
from tasks.packaging.model_card import model_card

MODELS = ("yield",)


def git(root, *words):
    subprocess.run(["git", "-C", root, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "config", "user.email", "a@b.c")
    git(tmp_path, "config", "user.name", "a")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/a.py").write_text("x = 1\n")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def test_commit_is_the_last_that_changed_the_pipeline(checkout):
    first = git_commit(checkout)
    (checkout / "README.md").write_text("words\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "two")
    assert git_commit(checkout) == first
    (checkout / "tasks/a.py").write_text("x = 2\n")
    assert git_commit(checkout) == first + "-dirty"
    git(checkout, "commit", "-qam", "three")
    assert git_commit(checkout) not in (first, first + "-dirty")


def test_commit_without_a_checkout_is_unknown(tmp_path):
    assert git_commit(tmp_path) == "unknown"


def test_lineage_holds_upstream_stages_only_and_changes_with_them(checkout):
    stages = {
        "weather": {"cmd": "x", "outs": [{"path": "data/weather", "md5": "a" * 32}]},
        "train@yield": {"cmd": "x", "outs": [{"path": "data/models/yield", "md5": "b" * 32}]},
        "train@gone": {"cmd": "x", "outs": [{"path": "data/models/gone", "md5": "f" * 32}]},
        "bundle": {"cmd": "x", "outs": [{"path": "data/bundle", "md5": "c" * 32}]},
    }
    (checkout / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    found = lineage(checkout, MODELS)
    assert found["data_versions"] == {"data/weather": "a" * 32, "data/models/yield": "b" * 32}
    stages["bundle"]["outs"][0]["md5"] = "d" * 32
    (checkout / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    assert lineage(checkout, MODELS) == found
    stages["weather"]["outs"][0]["md5"] = "e" * 32
    (checkout / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    assert lineage(checkout, MODELS)["run_id"] != found["run_id"]
    assert set(locked_stages(checkout / "dvc.lock", MODELS)) == {"weather", "train@yield"}


def test_release_counter_rises_with_season_and_minor_release(params):
    minor = params.model_copy(update={"release": params.release.model_copy(update={"minor": 7})})
    later = params.model_copy(update={"as_of": params.as_of + 1})
    assert release_counter(params) < release_counter(minor) < release_counter(later)


def test_mlbom_is_cyclonedx_without_clock_or_chance():
    made_by = {"data_versions": {"data/weather": "a" * 32 + ".dir"}}
    bills = [mlbom(2009, {"yield": b"onnx"}, {"yield": "ab" * 32}, made_by) for _ in range(2)]
    assert bills[0] == bills[1]
    bill = json.loads(bills[0])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    kinds = {component["type"] for component in bill["components"]}
    assert kinds == {"machine-learning-model", "data", "library"}
    assert "timestamp" not in bills[0]


def test_model_card_tells_what_was_lost(params):
    variant = {"metric": 0.5, "size_bytes": 1000}
    choice = {
        "shipped": "int8",
        "loss_frac": 0.004,
        "variants": {"fp32": variant, "int8": {"metric": 0.502, "size_bytes": 200}},
    }
    card = model_card(params, 2009000, dict.fromkeys(params.models, choice))
    for name in params.models:
        assert f"| {name} |" in card
    assert "+0.40%" in card
    assert "simulated" in card
