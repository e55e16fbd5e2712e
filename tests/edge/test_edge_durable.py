from __future__ import annotations

from pathlib import Path

import pytest
from headland_edge.durable import write_bytes


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_bytes(tmp_path / "deep" / "f", b"one")
    write_bytes(tmp_path / "deep" / "f", b"two")
    assert (tmp_path / "deep" / "f").read_bytes() == b"two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["f"]


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="needs file size limits")
    import signal

    write_bytes(tmp_path / "f", b"good")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_bytes(tmp_path / "f", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "f").read_bytes() == b"good"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
