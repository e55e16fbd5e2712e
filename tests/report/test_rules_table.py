"""The table of rules tells where the device departs from its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headland_edge.advantage import Belief
from headland_edge.manifest import Advantage, Golden

from tasks.params import Params
from tasks.report.inputs import gather
from tasks.report.tables import rules


def test_what_a_net_may_give_instead_stands_below_its_rule(project: Path, params: Params) -> None:
    inputs = gather(project, params)
    manifest = inputs.bundle.manifest
    belief = Belief((0.0, 10.0, 20.0), 2.0, 0.3, (), ())
    net = Advantage("f", "s", belief, Golden("i", "o", 0.5))
    policy = {crop: replace(each, advantage=net) for crop, each in manifest.policy.items()}
    told = rules(replace(inputs, bundle=replace(inputs.bundle, manifest=replace(manifest, policy=policy))))
    found = {row[0]: row[2] for row in told.rows if row[1] == "device, where a net finds more"}
    assert found["maize"].startswith("0, 10, 20 mm instead, if worth more than 2 USD/ha")
    assert "30 points of depletion past the threshold, more only from 15 before it" in found["maize"]
    assert len(told.rows) == len(rules(inputs).rows) + len(found)
