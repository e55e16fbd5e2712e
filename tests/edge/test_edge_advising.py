from __future__ import annotations

from typing import Any

import pytest
from headland_edge.advising import _message, _worth_telling

SAID: dict[str, Any] = {
    "advice_id": "ab" * 16, "date": "2009-06-01", "crop": "maize", "irrigation_mm": 20.0, "fallbacks": [],
    "release": {"counter": 7}, "bundle_sha256": "cd" * 32,
}  # fmt: skip
WHEAT = {key: value for key, value in SAID.items() if key != "irrigation_mm"} | {"nitrogen_kg_ha": 30.0}


@pytest.mark.parametrize(
    ("said", "worth"),
    [
        (SAID, True),
        ({**SAID, "irrigation_mm": 0.0}, False),
        ({**SAID, "irrigation_mm": 0.0, "fallbacks": ["no probe"]}, True),
        (WHEAT, True),
        ({**WHEAT, "nitrogen_kg_ha": 0.0}, False),
        ({"date": "2009-06-01", "refused": "check the probe"}, False),
    ],
)
def test_a_message_is_for_something_to_do_or_something_missing(said: dict[str, Any], worth: bool) -> None:
    assert _worth_telling(said) == worth


def test_a_message_names_the_release_by_its_counter_and_leaves_the_long_hash_at_home() -> None:
    body = _message("north-7", "field", WHEAT).body
    assert (body["nitrogen_kg_ha"], body["release_counter"]) == (30.0, 7)
    assert "bundle_sha256" not in body
