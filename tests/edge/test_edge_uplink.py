from __future__ import annotations

from pathlib import Path

import pytest
import zstandard
from headland_edge.messages import Message, MessageError, encode
from headland_edge.outbox import Outbox
from headland_edge.uplink import (
    MAX_BATCH_BYTES,
    FolderUplink,
    UplinkError,
    owner_of,
    pack,
    read_ack,
    taken,
    unpack,
    write_ack,
)
from hypothesis import given
from hypothesis import strategies as st


def message(number: int, device: str = "field-1") -> Message:
    return Message(device, "record", float(number), {"number": number})


def test_a_batch_comes_back_line_by_line_and_is_the_same_file_each_time() -> None:
    batch = [message(number) for number in range(50)]
    name, data = pack(batch, "field-1")
    assert pack(batch, "field-1") == (name, data)
    assert owner_of(name) == "field-1"
    assert [taken(line, "field-1") for line in unpack(name, data)] == batch
    assert len(data) < sum(len(encode(each)) for each in batch) / 2


def test_a_message_leaves_the_outbox_only_with_its_receipt(tmp_path: Path) -> None:
    uplink = FolderUplink(tmp_path, "field-1")
    with Outbox(tmp_path / "outbox.db") as outbox:
        for number in range(3):
            outbox.put(message(number)).result(10)
        uplink.send(outbox.pending())
        uplink.send(outbox.pending())
        assert len(list((tmp_path / "outgoing").iterdir())) == 1
        assert uplink.acknowledged() == frozenset()
        assert len(outbox.pending()) == 3
        (batch,) = (tmp_path / "outgoing").iterdir()
        write_ack(tmp_path, batch.name, [message(0).id, message(2).id])
        outbox.delivered(uplink.acknowledged()).result(10)
        assert outbox.pending() == [message(1)]
        assert not batch.exists()
        assert uplink.forget() == 1
        assert uplink.acknowledged() == frozenset()


def test_receipts_of_another_device_are_left_alone(tmp_path: Path) -> None:
    name, _ = pack([message(1, "field-1-b")], "field-1-b")
    write_ack(tmp_path, name, [message(1, "field-1-b").id])
    uplink = FolderUplink(tmp_path, "field-1")
    assert uplink.acknowledged() == frozenset()
    assert uplink.forget() == 0


def test_a_receipt_with_anything_but_ids_gives_only_the_ids(tmp_path: Path) -> None:
    (tmp_path / "x.ack").write_bytes(b"../../etc\n" + message(1).id.encode() + b"\n\xff\xfe\n")
    assert read_ack(tmp_path / "x.ack") == {message(1).id}


@pytest.mark.parametrize("name", ["../field-1-0123456789abcdef.jsonl.zst", "field-1.jsonl.zst", "x", "", "A-0123.zst"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UplinkError) as found:
        owner_of(name)
    assert found.value.code == "name"


def test_a_bomb_is_refused_without_unpacking_it() -> None:
    name, _ = pack([message(1)], "field-1")
    told = zstandard.ZstdCompressor().compress(bytes(MAX_BATCH_BYTES + 1))
    untold = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(MAX_BATCH_BYTES + 1))
    for data in (told, untold):
        with pytest.raises(UplinkError):
            unpack(name, data)


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_never_gives_other_lines(at: int, bit: int) -> None:
    name, data = pack([message(number) for number in range(5)], "field-1")
    flipped = bytearray(data)
    flipped[at % len(data)] ^= 1 << bit
    try:
        lines = unpack(name, bytes(flipped))
    except UplinkError:
        return
    assert lines == unpack(name, data)


def test_a_message_of_another_device_is_not_taken() -> None:
    with pytest.raises(MessageError) as found:
        taken(encode(message(1, "field-2")), "field-1")
    assert found.value.code == "not-yours"
