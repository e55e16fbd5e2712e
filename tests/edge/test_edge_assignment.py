from __future__ import annotations

import json
from typing import Any

import pytest
from headland_edge.assignment import BUCKETS, MAX_BYTES, AssignmentError, Assignments, Rollout, bucket, decode, encode

A, B, C = "a" * 64, "b" * 64, "c" * 64
PLAIN: dict[str, Any] = {
    "schema_version": 1,
    "serial": 7,
    "base": A,
    "pins": {"field-9": C},
    "rollout": {"id": "r1", "release": B, "salt": "s", "up_to": 2500, "first": ["field-1"]},
}


def test_pins_come_first_then_the_rollout_then_the_base() -> None:
    rollout = Rollout("r1", B, "s", 0, ("field-1", "field-9"))
    wishes = Assignments(1, A, {"field-9": C}, rollout)
    assert [wishes.desired(name) for name in ("field-9", "field-1", "field-2")] == [C, B, A]
    assert Assignments(1).desired("field-1") is None
    assert wishes.releases == {A, B, C}


def test_a_rollout_reaches_its_share_and_only_grows() -> None:
    devices = [f"field-{k}" for k in range(4000)]
    reached: list[set[str]] = []
    for up_to in (0, 500, 2500, BUCKETS):
        wishes = Assignments(1, A, {}, Rollout("r1", B, "spring", up_to))
        reached.append({name for name in devices if wishes.desired(name) == B})
    assert reached[0] <= reached[1] <= reached[2] <= reached[3]
    assert [len(each) / len(devices) for each in reached] == pytest.approx([0, 0.05, 0.25, 1], abs=0.02)
    assert {bucket(name, "spring") for name in devices} != {bucket(name, "summer") for name in devices}


def test_the_bucket_is_the_one_of_the_protocol() -> None:
    assert bucket("field-1", "s") == _by_hand("s/field-1")


def _by_hand(text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 10_000


def test_a_file_says_the_same_after_reading() -> None:
    assignments = decode(json.dumps(PLAIN).encode())
    assert decode(encode(assignments)) == assignments
    assert encode(assignments) == encode(decode(encode(assignments)))
    assert assignments.rollout == Rollout("r1", B, "s", 2500, ("field-1",))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"schema_version": True}, "schema_version"),
        ({"serial": -1}, "serial"),
        ({"serial": 1.0}, "serial"),
        ({"serial": True}, "serial"),
        ({"serial": 2**53}, "serial"),
        ({"base": "A" * 64}, "base"),
        ({"base": 5}, "base"),
        ({"pins": []}, "pins"),
        ({"pins": {"../x": A}}, "pins"),
        ({"pins": {"field-1": None}}, "pins.field-1"),
        ({"more": 1}, "assignments"),
        ({"rollout": []}, "rollout"),
        ({"rollout": {**PLAIN["rollout"], "up_to": 10_001}}, "rollout.up_to"),
        ({"rollout": {**PLAIN["rollout"], "up_to": 0.5}}, "rollout.up_to"),
        ({"rollout": {**PLAIN["rollout"], "salt": "a/b"}}, "rollout.salt"),
        ({"rollout": {**PLAIN["rollout"], "first": "field-1"}}, "rollout.first"),
        ({"rollout": {**PLAIN["rollout"], "first": [1]}}, "rollout.first"),
        ({"rollout": {**PLAIN["rollout"], "release": None}}, "rollout.release"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(AssignmentError) as caught:
        decode(json.dumps({**PLAIN, **change}).encode())
    assert str(caught.value).startswith(f"{named}:")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"a": 1, "a": 2}', b"[" * 100_000, b"\xff", b" " * (MAX_BYTES + 1)]
)
def test_what_is_no_file_of_assignments_is_refused(data: bytes) -> None:
    with pytest.raises(AssignmentError):
        decode(data)


def test_the_writer_refuses_what_the_reader_would() -> None:
    with pytest.raises(AssignmentError, match="base"):
        encode(Assignments(1, "no hash"))
