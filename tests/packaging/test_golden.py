from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from tasks.packaging.build_bundle import GOLDEN_WINDOWS, based_on, golden
from tests.edge.small_bundle import conv_net
from tests.training.water_balance import make_windows


def test_golden_inputs_are_the_same_when_a_season_is_added(tmp_path: Path) -> None:
    made = []
    for fields in (10, 12):
        make_windows(tmp_path / str(fields) / "irrigation", fields=fields, mornings=60, window_days=16)
        made.append(golden("irrigation", conv_net(), tmp_path / str(fields), 7))
    assert made[0] == made[1]
    inputs, outputs = (np.load(io.BytesIO(array)) for array in made[0])
    assert len(inputs) == len(outputs) == GOLDEN_WINDOWS
    assert golden("irrigation", conv_net(), tmp_path / "12", 8)[0] != made[1][0]


def test_the_bundle_names_the_release_each_net_learned_on_from() -> None:
    choices = {"irrigation": {"based_on": {"counter": 2009000}}, "yield": {"not_based": "too few"}, "nitrogen": {}}
    assert based_on(choices) == {"irrigation": 2009000}
