from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from headland_edge.ring import MAX_RECORD_BYTES, Ring
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy import python_environment


def line(number: int) -> bytes:
    return f"record {number:06d} ".encode() * 4


def test_records_come_back_in_order_and_after_a_restart(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 1_000_000)
    assert all(ring.append(line(number)) for number in range(100))
    assert list(Ring(tmp_path, 1_000_000).records()) == [line(number) for number in range(100)]


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 900), max_size=120))
def test_it_never_takes_more_than_its_bytes_and_keeps_the_latest(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    ring = Ring(tmp_path_factory.mktemp("ring"), 8_000)
    written = []
    for number, size in enumerate(sizes):
        record = bytes([number % 251]) * size
        assert ring.append(record)
        written.append(record)
        assert ring.size_bytes <= 8_000
        kept = list(ring.records())
        assert kept == written[len(written) - len(kept) :]
        assert kept


def test_what_is_too_long_is_not_taken(tmp_path: Path) -> None:
    assert not Ring(tmp_path, 10_000_000).append(b"x" * (MAX_RECORD_BYTES + 1))
    assert not Ring(tmp_path, 1_000).append(b"x" * 200)


def test_where_raw_data_may_not_stay_nothing_is_kept_and_the_old_goes(tmp_path: Path) -> None:
    Ring(tmp_path, 10_000).append(line(1))
    private = Ring(tmp_path, 10_000, keep=False)
    assert not private.append(line(2))
    assert list(private.records()) == []
    assert list(tmp_path.iterdir()) == []


def test_discarding_removes_every_record_at_once(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 2_000)
    for number in range(20):
        ring.append(line(number))
    assert ring.discard() > 1
    assert list(ring.records()) == []
    assert ring.append(line(1))


def test_a_flipped_byte_costs_the_record_it_hit_and_no_other(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 1_000_000)
    for number in range(20):
        ring.append(line(number))
    (segment,) = tmp_path.glob("*.seg")
    whole = segment.read_bytes()
    for at in range(0, len(whole), 7):
        data = bytearray(whole)
        data[at] ^= 0x41
        segment.write_bytes(data)
        hit = at // (len(whole) // 20)
        assert list(ring.records()) == [line(number) for number in range(20) if number != hit]


def test_a_tail_torn_off_by_a_power_cut_is_left_out_and_writing_goes_on(tmp_path: Path) -> None:
    ring = Ring(tmp_path, 1_000_000)
    for number in range(3):
        ring.append(line(number))
    (segment,) = tmp_path.glob("*.seg")
    whole = segment.read_bytes()
    for cut in range(1, len(whole) // 3):
        segment.write_bytes(whole[:-cut])
        ring.append(line(9))
        assert list(ring.records()) == [line(0), line(1), line(9)]


WRITER = """
import sys
from pathlib import Path
from headland_edge.ring import Ring
ring, number = Ring(Path(sys.argv[1]), 1_000_000), int(sys.argv[2])
while True:
    ring.append(f"record {number:06d} ".encode() * 4)
    print(number, flush=True)
    number += 1
"""


def test_kill_9_while_writing_loses_at_most_the_record_under_way(tmp_path: Path) -> None:
    said = -1
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(said + 1)],
            env=python_environment(),
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(50)]
        process.kill()
        lines += process.stdout.read().split(b"\n")[:-1]
        process.wait()
        process.stdout.close()
        said = max(int(each) for each in lines if each.strip())
        kept = {int(record.split()[1]) for record in Ring(tmp_path, 1_000_000).records()}
        assert set(range(said + 1)) <= kept
