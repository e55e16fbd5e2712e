"""Messages into files: the same bytes in any order, in any portions, on top of any version."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from headland_edge.messages import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.field.collect import Collected, collect
from tasks.field.excerpts import parse
from tasks.field.partitions import FieldDataError, files, merge, path_of, read, tables
from tasks.field.schema import FIELD, SCHEMA
from tasks.fleet.ingest import MAX_QUARANTINED
from tasks.fleet.store import Store
from tests.field.excerpts import DEPLETION, NOW_S, fill, record

pytestmark = pytest.mark.usefixtures("quick_disk")


def gather(root: Path, messages: list[Message] | None = None, name: str = "store.db") -> Collected:
    if messages is not None:
        fill(root / name, messages)
    with Store(root / name) as store:
        return collect(store, root / "field", root / "quarantine")


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def season(device: str, crop: str = "maize", sown: str = "2009-04-30", **changes: Any) -> list[Message]:
    """Three excerpts that overlap."""
    return [
        record(device, time_s=float(first), first_day=first, mornings=10, crop=crop, sowing_date=sown, **changes)
        for first in (0, 8, 30)
    ]


def test_messages_become_a_file_for_each_crop_and_season(tmp_path: Path) -> None:
    messages = [*season("field-1"), *season("field-2", "wheat", "1990-04-01"), *season("field-3", sown="2008-05-01")]
    found = gather(tmp_path, messages)
    assert found.changed == [
        "records/maize/2008.parquet",
        "records/maize/2009.parquet",
        "records/wheat/1990.parquet",
    ]
    table = read(path_of(tmp_path / "field", "maize", 2009))
    assert dict(table.schema) == SCHEMA
    assert table["days_after_sowing"].to_list() == [*range(18), *range(30, 40)]
    FIELD.validate(table)


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    gather(tmp_path, season("field-1"))
    before = tree(tmp_path / "field")
    assert gather(tmp_path).changed == []
    assert gather(tmp_path, season("field-1")).changed == [], "replayed"
    assert tree(tmp_path / "field") == before


def test_an_empty_store_beside_data_from_elsewhere_takes_nothing_away(tmp_path: Path) -> None:
    gather(tmp_path, season("field-1"))
    before = tree(tmp_path / "field")
    assert gather(tmp_path, [], "other.db").changed == []
    assert tree(tmp_path / "field") == before
    gather(tmp_path, season("field-2"), "other.db")
    assert read(path_of(tmp_path / "field", "maize", 2009))["field_id"].n_unique() == 2


def test_of_what_differs_the_greater_is_kept_and_reasons_are_united(tmp_path: Path) -> None:
    first = record(columns={DEPLETION: [0.2, None]}, why=["novel"], harvest_t_ha=None)
    second = record(columns={DEPLETION: [0.1, 0.4], "lai": [None, 2.0]}, why=["random"], time_s=2.0)
    third = record(columns={DEPLETION: [0.1]}, why=[], time_s=3.0)
    gather(tmp_path, [first, second, third])
    table = read(path_of(tmp_path / "field", "maize", 2009))
    assert table[DEPLETION].to_list() == [0.2, 0.4]
    assert table["lai"].to_list() == [None, 2.0]
    assert table["why"].to_list() == ["novel,random,typical", "novel,random"]
    assert table["harvest_t_ha"].to_list() == [9.5, 9.5]


def test_what_was_sown_again_in_the_same_season_replaces_what_was_sown_before(tmp_path: Path) -> None:
    gather(tmp_path, [record(mornings=20)])
    gather(tmp_path, [record(mornings=3, sowing_date="2009-05-20")])
    table = read(path_of(tmp_path / "field", "maize", 2009))
    assert table["days_after_sowing"].to_list() == [0, 1, 2]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_any_order_and_any_portions_give_the_same_bytes(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    messages = [
        record(
            rng.choice(["field-1", "field-2"]),
            time_s=float(number),
            first_day=rng.randrange(6),
            mornings=rng.randrange(1, 6),
            sowing_date=rng.choice(["2009-04-30", "2009-04-30", "2009-05-09"]),
            columns={DEPLETION: [rng.choice([None, 0.1, 0.2, -0.0, 0.0])], "lai": [1.0]},
            why=rng.sample(["random", "novel", "uncertain"], rng.randrange(3)),
            harvest_t_ha=rng.choice([None, 8.0, 9.0]),
        )
        for number in range(12)
    ]
    at_once = tmp_path_factory.mktemp("at-once")
    gather(at_once, messages)
    rng.shuffle(messages)
    cut = rng.randrange(13)
    portions = tmp_path_factory.mktemp("portions")
    gather(portions, messages[:cut], "one.db")
    gather(portions, messages[cut:] + messages[:2], "two.db")
    assert tree(portions / "field") == tree(at_once / "field")


def test_many_rows_are_merged_in_portions_to_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    excerpts = [parse(message, NOW_S) for device in ("a", "b", "c") for message in season(device)]
    whole = tables(excerpts)
    monkeypatch.setattr("tasks.field.partitions._CHUNK_ROWS", 15)
    assert tables(excerpts)["maize", 2009].equals(whole["maize", 2009])


def test_hostile_records_are_counted_set_aside_once_and_cost_nobody_else_anything(tmp_path: Path) -> None:
    hostile = [
        record("evil", field="../../../etc/cron.d/x"),
        record("evil", sowing_date="2031-01-01"),
        record("evil", columns={"rain_mm": [1.0] * 1_000_000}),
        record("evil", columns={"../x": [1.0]}),
        Message("evil", "record", 1.0, {}),
        record("evil", why=["because"]),
    ]
    found = gather(tmp_path, [*season("field-1"), *hostile])
    assert found.messages == 9
    assert found.refused == {"column": 1, "field": 2, "future": 1, "length": 1, "why": 1}
    assert read(path_of(tmp_path / "field", "maize", 2009))["field_id"].unique().to_list() == ["field-1/north"]
    assert sorted(path.parent.name for path in tmp_path.rglob("*.parquet")) == ["maize"]
    aside = tree(tmp_path / "quarantine")
    told = [json.loads(text) for text in aside.values()]
    assert sorted(each["code"] for each in told) == ["column", "field", "field", "future", "length", "why"]
    assert max(len(text) for text in aside.values()) < 4000
    gather(tmp_path)
    assert tree(tmp_path / "quarantine") == aside


def test_the_quarantine_of_records_is_bounded_and_the_count_goes_on(tmp_path: Path) -> None:
    many = [Message("evil", "record", float(number), {}) for number in range(MAX_QUARANTINED + 20)]
    assert gather(tmp_path, many).refused == {"field": MAX_QUARANTINED + 20}
    assert len(list((tmp_path / "quarantine").iterdir())) == MAX_QUARANTINED


def test_a_damaged_file_is_named_and_not_written_over(tmp_path: Path) -> None:
    gather(tmp_path, season("field-1"))
    path = path_of(tmp_path / "field", "maize", 2009)
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:-10] + b"x" * 10, b"\0" * 100):
        path.write_bytes(damage)
        with pytest.raises(FieldDataError, match=r"2009\.parquet"):
            gather(tmp_path)
        assert path.read_bytes() == damage
    path.unlink()
    gather(tmp_path)
    assert path.read_bytes() == whole


def test_a_file_with_another_schema_is_named(tmp_path: Path) -> None:
    path = path_of(tmp_path / "field", "maize", 2009)
    path.parent.mkdir(parents=True)
    pl.DataFrame({"x": [1]}).write_parquet(path)
    with pytest.raises(FieldDataError, match=r"2009\.parquet"):
        gather(tmp_path, season("field-1"))


def test_what_a_killed_writer_left_is_removed_and_is_no_file_of_the_data(tmp_path: Path) -> None:
    gather(tmp_path, season("field-1"))
    left = [tmp_path / "field" / "records" / "maize" / ".2009.parquet.abcd", tmp_path / "field" / ".card.json.abcd"]
    for path in left:
        path.write_bytes(b"half")
    (tmp_path / "field" / ".gitignore").write_text("/records")
    assert [path.name for path in files(tmp_path / "field")] == ["2009.parquet"]
    gather(tmp_path)
    assert [path.exists() for path in left] == [False, False]
    assert (tmp_path / "field" / ".gitignore").exists()


def test_an_empty_table_is_no_matter() -> None:
    assert merge([pl.DataFrame(schema=SCHEMA)]).height == 0
