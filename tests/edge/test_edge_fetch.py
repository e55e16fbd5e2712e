from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from headland_edge.fetch import (
    Budget,
    BudgetError,
    FolderSource,
    HttpSource,
    LengthError,
    MissingError,
    OfflineError,
    check_url,
)

from tests.fleet.server import Server, serving

DATA = random.Random(1).randbytes(1_000_000)
SHA = hashlib.sha256(DATA).hexdigest()
NOON = 1_790_000_000.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    (folder / "targets").mkdir(parents=True)
    (folder / "targets" / "f.tar").write_bytes(DATA)
    with serving(folder) as running:
        yield running


def budget(tmp_path: Path, daily: int = 10**9, now_s: float = NOON, floor_s: float = 0.0) -> Budget:
    return Budget(tmp_path / "budget.json", daily, lambda: now_s, floor_s)


def test_a_file_comes_whole_and_is_booked(server: Server, tmp_path: Path) -> None:
    spent = budget(tmp_path)
    source = HttpSource(server.url, spent)
    source.download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
    assert (tmp_path / "got").read_bytes() == DATA
    assert 10**9 - spent.left == len(DATA)
    assert source.read("targets/f.tar", len(DATA)) == DATA
    assert not (tmp_path / "got.part").exists()


def test_a_download_that_broke_off_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    source = HttpSource(server.url, budget(tmp_path))
    server.cut_after = 300_000
    for _ in range(3):
        with pytest.raises(OfflineError, match="broke off"):
            source.download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
    assert (tmp_path / "got.part").stat().st_size == 900_000
    source.download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
    assert (tmp_path / "got").read_bytes() == DATA
    assert [asked for _, asked in server.asked] == ["", "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert server.sent == len(DATA)


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "got.part").write_bytes(b"junk" * 1000)
    server.ignore_ranges = True
    HttpSource(server.url, budget(tmp_path)).download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
    assert (tmp_path / "got").read_bytes() == DATA


@pytest.mark.parametrize("part", [DATA[:-1] + b"x", b"x" + DATA[1:5000], DATA + b"more"])
def test_a_damaged_part_is_thrown_away_and_the_next_try_succeeds(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "got.part").write_bytes(part)
    source = HttpSource(server.url, budget(tmp_path))
    if len(part) <= len(DATA):
        with pytest.raises(LengthError, match="thrown away"):
            source.download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
    source.download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
    assert (tmp_path / "got").read_bytes() == DATA


def test_a_whole_part_needs_no_byte_more(server: Server, tmp_path: Path) -> None:
    (tmp_path / "got.part").write_bytes(DATA)
    HttpSource(server.url, budget(tmp_path)).download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
    assert server.asked == []


def test_endless_data_is_cut(server: Server, tmp_path: Path) -> None:
    server.endless = "f.tar"
    spent = budget(tmp_path)
    source = HttpSource(server.url, spent)
    with pytest.raises(LengthError, match="longer than"):
        source.read("targets/f.tar", 100_000)
    with pytest.raises(LengthError, match="longer than"):
        source.download("targets/f.tar", tmp_path / "got", 100_000, SHA)
    assert 10**9 - spent.left <= 2 * 100_001
    assert (tmp_path / "got.part").stat().st_size == 0


def test_a_file_longer_than_signed_is_refused_unread(server: Server, tmp_path: Path) -> None:
    spent = budget(tmp_path)
    with pytest.raises(LengthError, match="longer"):
        HttpSource(server.url, spent).read("targets/f.tar", len(DATA) - 1)
    assert spent.left == 10**9


def test_the_days_bytes_are_honoured_over_days(server: Server, tmp_path: Path) -> None:
    for day in (1, 2):
        spent = budget(tmp_path, 400_000, NOON + day * 86400)
        with pytest.raises(BudgetError, match="tomorrow"):
            HttpSource(server.url, spent).download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
        assert (tmp_path / "got.part").stat().st_size == day * 400_000
        assert spent.left == 0
        with pytest.raises(BudgetError):
            HttpSource(server.url, spent).read("targets/f.tar", 10)
    last = budget(tmp_path, 400_000, NOON + 3 * 86400)
    HttpSource(server.url, last).download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
    assert (tmp_path / "got").read_bytes() == DATA
    assert server.sent < len(DATA) + 3_000_000


def test_bytes_stay_booked_when_the_process_is_killed(server: Server, tmp_path: Path) -> None:
    server.endless = "f.tar"
    program = (
        "import sys; from pathlib import Path; from headland_edge.fetch import *\n"
        "here = Path(sys.argv[2])\n"
        "source = HttpSource(sys.argv[1], Budget(here / 'budget.json', 10**9, lambda: float(sys.argv[3])))\n"
        "source.download('targets/f.tar', here / 'got', 9 * 10**8, '0' * 64)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, server.url, str(tmp_path), str(NOON)])
    part = tmp_path / "got.part"
    deadline = time.monotonic() + 60
    while (not part.exists() or part.stat().st_size < 1_000_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert 10**9 - budget(tmp_path).left >= part.stat().st_size >= 1_000_000


def test_a_day_ends_whatever_the_clock_says(tmp_path: Path) -> None:
    budget(tmp_path, 100).book(100)
    assert budget(tmp_path, 100).left == 0
    assert budget(tmp_path, 100, NOON + 86400).left == 100
    wrong = budget(tmp_path, 100, 1000.0, NOON)
    assert wrong.left == 100, "a clock at 1970 counts days from the start of the machine"
    wrong.book(60)
    assert budget(tmp_path, 100, 5000.0, NOON).left == 40


@pytest.mark.parametrize("text", ["", "{", "[]", '{"day": 1}', '{"day": "day-20717", "bytes": "x"}', "\0" * 50])
def test_a_damaged_book_counts_as_spent_and_heals(tmp_path: Path, text: str) -> None:
    (tmp_path / "budget.json").write_text(text)
    first = budget(tmp_path, 100, NOON).left
    assert first in (0, 100)
    if text != '{"day": 1}':
        assert first == 0
    assert budget(tmp_path, 100, NOON + 86400).left == 100


@pytest.mark.parametrize(("status", "kind"), [(404, MissingError), (403, MissingError), (500, OfflineError)])
def test_what_the_server_says(server: Server, tmp_path: Path, status: int, kind: type[Exception]) -> None:
    server.status = status
    with pytest.raises(kind, match=str(status)):
        HttpSource(server.url, budget(tmp_path)).read("targets/f.tar", 10)


def test_no_server_is_offline(tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match="cannot be reached"):
        HttpSource("http://127.0.0.1:9/", budget(tmp_path)).read("f", 10)


def test_a_networks_login_page_counts_as_offline_and_leaves_no_part(server: Server, tmp_path: Path) -> None:
    server.replaced = {"f.tar": b"<html>Welcome! Please sign in.</html>"}
    server.content_type = "text/html; charset=utf-8"
    source = HttpSource(server.url, budget(tmp_path))
    with pytest.raises(OfflineError, match="login"):
        source.read("targets/f.tar", 10)
    with pytest.raises(OfflineError, match="login"):
        source.download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
    assert not (tmp_path / "got.part").exists()
    server.replaced, server.content_type = {}, "application/octet-stream"
    source.download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
    assert (tmp_path / "got").read_bytes() == DATA


def test_redirects_lead_nowhere_unsafe(server: Server, tmp_path: Path) -> None:
    source = HttpSource(server.url, budget(tmp_path))
    for location in ("http://example.invalid/x", "file:///etc/passwd", "ftp://example.invalid/x"):
        server.location = location
        with pytest.raises(OfflineError, match=r"may not go|cannot be reached|says 302"):
            source.read("targets/f.tar", 10)


@pytest.mark.parametrize("url", ["http://example.org/", "ftp://localhost/", "file:///x", "https:///x", "", "localhost"])
def test_only_https_or_loopback(url: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        check_url(url)


def test_https_and_loopback_are_fine() -> None:
    for url in ("https://example.org/r", "http://localhost:1/", "http://127.0.0.1/", "http://[::1]:80/"):
        check_url(url)


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/passwd", "a//b", "", "..\\x"])
def test_paths_stay_inside(server: Server, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    for source in (HttpSource(server.url, budget(tmp_path)), FolderSource(tmp_path / "served")):
        with pytest.raises(MissingError):
            source.read(path, 10)
    assert server.asked == []


def test_a_folder_serves_the_same(server: Server, tmp_path: Path) -> None:
    source = FolderSource(server.folder)
    source.download("targets/f.tar", tmp_path / "got", len(DATA), SHA)
    assert (tmp_path / "got").read_bytes() == DATA
    with pytest.raises(LengthError, match="longer than"):
        source.read("targets/f.tar", 10)
    with pytest.raises(LengthError, match="not the file that was signed"):
        source.download("targets/f.tar", tmp_path / "other", len(DATA), "0" * 64)
    with pytest.raises(MissingError):
        source.read("targets/nothing", 10)
    with pytest.raises(OfflineError, match="stick"):
        FolderSource(tmp_path / "unplugged").read("f", 10)


def test_links_out_of_a_stick_and_pipes_are_not_followed(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (stick / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(stick / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(MissingError):
            FolderSource(stick).read(name, 10)
