from __future__ import annotations

import json

import pytest
from headland_edge.messages import KINDS, MAX_BYTES, Message, MessageError, decode, encode
from hypothesis import given
from hypothesis import strategies as st

LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
BODIES = st.dictionaries(
    st.text(max_size=10),
    st.recursive(LEAVES | st.text(max_size=20), lambda inner: st.lists(inner, max_size=3), max_leaves=10),
    max_size=5,
)


@given(kind=st.sampled_from(KINDS), time_s=st.floats(0, 4e9), body=BODIES)
def test_what_is_encoded_comes_back_with_the_same_id(kind: str, time_s: float, body: dict[str, object]) -> None:
    message = Message("field-1", kind, time_s, body)
    again = decode(encode(message))
    assert again == message
    assert again.id == message.id


@given(data=st.binary(max_size=300))
def test_any_other_bytes_are_refused_in_order(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(data)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"device_id": "../etc"}, "malformed"),
        ({"device_id": 7}, "malformed"),
        ({"kind": "order"}, "malformed"),
        ({"time_s": True}, "malformed"),
        ({"time_s": -1.0}, "malformed"),
        ({"time_s": 1e12}, "malformed"),
        ({"body": []}, "malformed"),
        ({"body": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}}}}}, "malformed"),
        ({"body": {"a": float("nan")}}, "not-finite"),
        ({"body": {"a": [1.0, float("inf")]}}, "not-finite"),
        ({"body": {"a": 2.0}}, "forged"),
        ({"id": "0" * 32}, "forged"),
        ({"id": "x"}, "malformed"),
        ({"more": 1}, "malformed"),
    ],
)
def test_a_changed_message_is_refused_with_its_reason(change: dict[str, object], code: str) -> None:
    plain = json.loads(encode(Message("field-1", "record", 1.0, {"a": 1.0})))
    with pytest.raises(MessageError) as found:
        decode(json.dumps({**plain, **change}).encode())
    assert found.value.code == code


def test_a_message_that_is_too_long_is_refused_on_both_sides() -> None:
    with pytest.raises(MessageError, match="bytes"):
        encode(Message("field-1", "record", 1.0, {"a": "x" * MAX_BYTES}))
    with pytest.raises(MessageError, match="bytes"):
        decode(b"x" * (MAX_BYTES + 1))
