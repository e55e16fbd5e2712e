from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headland_edge.database import NotKeptError
from headland_edge.journal import Entry, Journal, UnknownAdviceError, advice_id, find, latest
from headland_edge.records import Records
from hypothesis import given, settings

from tests.edge.small_bundle import histories, season
from tests.toy import python_environment

RELEASE: dict[str, Any] = {
    "bundle_sha256": "ab" * 32,
    "counter": 7,
    "git_commit": "c0ffee",
    "data_versions": {"data/weather": "1f"},
}


def entry(records: Records, field: str = "north", padding: str = "") -> Entry:
    told = {"irrigation_mm": 25.0, "fallbacks": ["taw_mm is missing"], "notes": [padding]}
    found = advice_id(field, RELEASE["bundle_sha256"], records)
    return Entry(found, 1e9, field, records.last_date, told, RELEASE, records)


@settings(max_examples=30, deadline=None)
@given(records=histories(wild=True))
def test_an_advice_is_found_with_the_very_records_it_saw(
    tmp_path_factory: pytest.TempPathFactory, records: Records
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    put = entry(records)
    with Journal(path) as journal:
        assert journal.put(put).result(10) is True
        found = find(path, put.advice_id)
    assert np.array_equal(found.records.values, records.values, equal_nan=True)
    assert (found.records.crop, found.records.sowing_date) == (records.crop, records.sowing_date)
    assert (found.advice, found.release, found.field, found.date) == (put.advice, RELEASE, "north", records.last_date)


def test_trace_in_plain_form_names_all_it_rests_on(tmp_path: Path) -> None:
    put = entry(season("maize", 3, lai=np.nan))
    with Journal(tmp_path / "journal.db") as journal:
        journal.put(put).result(10)
    plain = find(tmp_path / "journal.db", put.advice_id[:6]).to_dict()
    assert plain["release"]["data_versions"] == {"data/weather": "1f"}
    assert plain["fallbacks"] == ["taw_mm is missing"]
    assert plain["inputs"]["columns"]["taw_mm"] == [100.0] * 3
    assert plain["inputs"]["columns"]["lai"] == [None] * 3
    assert plain["inputs"]["sowing_date"] == "2009-04-20"


def test_the_same_advice_twice_stands_once_and_other_records_make_another(tmp_path: Path) -> None:
    once, other = entry(season("maize", 3)), entry(season("maize", 3, rain_mm=1.0))
    with Journal(tmp_path / "journal.db") as journal:
        assert [journal.put(each).result(10) for each in (once, once, other)] == [True, False, True]
    assert [each["advice_id"] for each in latest(tmp_path / "journal.db", 5)] == [other.advice_id, once.advice_id]
    assert advice_id("south", "ab" * 32, once.records) != once.advice_id
    assert advice_id("north", "cd" * 32, once.records) != once.advice_id


def test_ids_that_name_none_or_several_are_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with pytest.raises(UnknownAdviceError, match="no advice was given here"):
        find(path, "abcd")
    entries = [entry(season("maize", 2, rain_mm=float(each))) for each in range(2)]
    entries = [Entry("abcd" + each.advice_id[4:], *list(vars(each).values())[1:]) for each in entries]
    with Journal(path) as journal:
        for each in entries:
            journal.put(each).result(10)
    with pytest.raises(UnknownAdviceError, match="more digits"):
        find(path, "abcd")
    assert find(path, entries[0].advice_id).advice_id == entries[0].advice_id
    for asked in ("abc", "%" * 8, "abcd*", "ffff0000"):
        with pytest.raises(UnknownAdviceError):
            find(path, asked)


def test_it_takes_no_more_bytes_than_it_may_and_the_oldest_leave(tmp_path: Path) -> None:
    entries = [entry(season("maize", 2, rain_mm=float(each)), padding="x" * 1000) for each in range(20)]
    with Journal(tmp_path / "journal.db", most_bytes=8000) as journal:
        for each in entries:
            journal.put(each).result(10)
    kept = [each["advice_id"] for each in latest(tmp_path / "journal.db", 100)]
    assert 4 <= len(kept) <= 8
    assert kept == [each.advice_id for each in reversed(entries)][: len(kept)]


def test_a_damaged_journal_is_set_aside_and_a_new_one_begins(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    with Journal(path) as journal:
        assert journal.set_aside == tmp_path / "journal.db.damaged1"
        assert journal.put(entry(season("wheat", 2))).result(10) is True


def test_what_the_disk_refuses_is_told_by_the_ticket_and_not_by_put(tmp_path: Path) -> None:
    with Journal(tmp_path / "other.db") as journal:
        (tmp_path / "other.db").mkdir()
        with pytest.raises(NotKeptError):
            journal.put(entry(season("maize", 2))).result(10)


_KILLED = """
import os, sys
from pathlib import Path
from headland_edge.journal import Journal
from tests.edge.test_edge_journal import entry, season
journal = Journal(Path(sys.argv[1]))
for number in range(20):
    put = entry(season("maize", 2, rain_mm=float(number)))
    journal.put(put).result(10)
    print(put.advice_id, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_killed_process_loses_no_advice_whose_ticket_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    command = [sys.executable, "-c", _KILLED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=python_environment(), check=False)
    told = done.stdout.split()
    assert done.returncode == -9
    assert len(told) == 20
    assert all(find(path, each).date == date(2009, 4, 21) for each in told)
