from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from headland_edge.bundle import decode_bundle
from headland_edge.features import FEATURES, FEATURES_VERSION

from tasks.compression.base import BASE
from tasks.fleet.base import NoBaseError, fill_base, fill_base_from_fleet
from tasks.registry.register import UnfitBundleError
from tests.fleet.made import put, release, sha, tree

pytestmark = pytest.mark.usefixtures("quick_disk")


def test_a_bundle_fills_the_base_the_same_each_time(tmp_path: Path) -> None:
    bundle = put(tmp_path / "made", release(7))
    filled = fill_base(tmp_path, bundle)
    assert (filled.folder, filled.counter, filled.sha256) == (tmp_path / BASE, 7, sha(release(7)))
    before = tree(tmp_path)
    fill_base(tmp_path, bundle)
    assert tree(tmp_path) == before
    described = json.loads((tmp_path / BASE / "base.json").read_text())
    assert described["bundle_sha256"] == sha(release(7))
    assert described["features_version"] == FEATURES_VERSION
    assert described["channels"] == [feature.name for feature in FEATURES]
    opened = decode_bundle(release(7), bundle)
    for name, entry in described["models"].items():
        assert (tmp_path / BASE / entry["file"]).read_bytes() == opened.model_bytes(name)
        assert sorted(entry["target"]) == ["name", "offset", "scale", "unit"]
    assert filled.models == tuple(n for n, m in opened.manifest.models.items() if m.kind == "int8")


def test_another_bundle_takes_the_place_of_the_first(tmp_path: Path) -> None:
    fill_base(tmp_path, put(tmp_path / "made", release(7)))
    fill_base(tmp_path, put(tmp_path / "made", release(8)))
    assert json.loads((tmp_path / BASE / "base.json").read_text())["counter"] == 8


def test_a_damaged_bundle_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    fill_base(tmp_path, put(tmp_path / "made", release(7)))
    before = tree(tmp_path / BASE)
    damaged = bytearray(release(8))
    damaged[2000] ^= 1
    with pytest.raises(UnfitBundleError, match="Nothing was put into data/base/release"):
        fill_base(tmp_path, put(tmp_path / "made", bytes(damaged)))
    assert tree(tmp_path / BASE) == before


def test_the_latest_release_published_below_the_next_is_taken(signed_fleet: Path, tmp_path: Path) -> None:
    fleet = shutil.copytree(signed_fleet, tmp_path / "fleet")
    assert fill_base_from_fleet(tmp_path, fleet, 3).counter == 2
    assert fill_base_from_fleet(tmp_path, fleet, 2).counter == 1
    with pytest.raises(NoBaseError, match="Nothing is published below release 1"):
        fill_base_from_fleet(tmp_path, fleet, 1)
