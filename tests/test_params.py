"""params.yaml: what is wrong is named with file, line and key; what is right is split into seasons without leaks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tasks.params import Params, ParamsError, load

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "params.yaml").read_text()
PARAMS = load(ROOT / "params.yaml")


def line_of(text: str, needle: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), start=1) if needle in line)


def refused(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        load(path)
    return str(caught.value)


def changed(key: str, new: str) -> str:
    """The parameters with the first line of ``key``, whatever it says, replaced by ``new``."""
    text, count = re.subn(rf"(?m)^( *){key}:[^#\n]*", rf"\g<1>{new} ", TEXT, count=1)
    assert count == 1, key
    return text


@pytest.mark.parametrize(
    ("old", "new", "key", "said"),
    [
        ("latitude_deg", "latitud_deg: 41.4", "sites.champion.latitud_deg", "Did you mean latitude_deg?"),
        ("test_seasons", "test_season: 10", "test_season", "Did you mean test_seasons?"),
        ("test_seasons", "Test_Seasons: 10", "Test_Seasons", "Did you mean test_seasons?"),
        ("learning_rate", "zzz: 0.002", "training.zzz", "Valid here: global_batch"),
        ("as_of", "as_of: '2009'", "as_of", "Write it without quotes"),
        ("learning_rate", "learning_rate: 2e-3", "training.learning_rate", "1.0e-3"),
        ("seed", "seed: 1.5", "seed", "valid integer, got 1.5"),
        ("seed", "seed: yes", "seed", "valid integer, got True"),
        ("seed", "seed:", "seed", "valid integer, got None"),
        ("test_seasons", "test_seasons: 0", "test_seasons", "greater than or equal to 1, got 0"),
        ("latitude_deg", "latitude_deg: 91", "sites.champion.latitude_deg", "less than or equal to 90, got 91"),
        ("latitude_deg", "latitude_deg: .nan", "sites.champion.latitude_deg", "finite number"),
        ("elevation_m", "elevation_m: {a: 1}", "sites.champion.elevation_m", "got a group of keys"),
        ("reader", "reader: aquacrops", "sites.champion.reader", "Did you mean aquacrop?"),
        ("crops", "crops: [rye]", "sites.champion.crops[0]", "unknown name 'rye'"),
        (
            "initial_water_frac",
            "initial_water_frac: [0, 1.5]",
            "fields.maize.initial_water_frac[1]",
            "equal to 1, got 1.5",
        ),
        ("initial_water_frac", "initial_water_frac: [1.0, 0.4]", "fields.maize.initial_water_frac", "must ascend"),
        ("sowing_day", "sowing_day: [115]", "fields.maize.sowing_day[1]", "missing"),
        ("season_days", "season_days: 320", "fields.maize.season_days", "of the year"),
        ("soils", "soils: [SandyLoam, SandyLoam]", "fields.maize.soils", "listed twice"),
        ("soils", "soils: [SandyLoam]", "fields.maize.held_out_soil", "in soils too"),
        ("held_out_crops", "held_out_crops: [maize]", "sites.champion.held_out_crops", "maize is in crops too"),
        ("models", "models: [irigation]", "models[0]", "Did you mean irrigation?"),
        ("models", "models: [nitrogen]", "model.irrigation", "described but not trained"),
        ("years_behind_reference", "years_behind_reference: 1", "sites", "no reference site"),
        ("survivors", "survivors: 1000000", "rules.irrigation.survivors", "more than candidates"),
        (
            "min_irrigation_mm",
            "min_irrigation_mm: 999",
            "rules.irrigation.min_irrigation_mm",
            "above max_irrigation_mm",
        ),
        (
            "stage_end_days",
            "stage_end_days: [1, 2, 3, 4]",
            "rules.irrigation.stage_end_days",
            "ends before fields.maize",
        ),
        ("kernel", "kernel: 4", "model.irrigation.kernel", "must be odd"),
        ("crops", "crops: []", "model.irrigation.crops", "no site grows maize"),
        ("wave_shares", "wave_shares: [0.5]", "rollout.wave_shares", "end with 1.0"),
        ("hours_utc", "hours_utc: [6, 6]", "rollout.hours_utc", "listed twice"),
        ("weekdays", "weekdays: [7]", "rollout.weekdays[0]", "less than or equal to 6"),
        ("success_share", "success_share: 0.95", "rollout.error_share", "both advance and stop"),
    ],
)
def test_a_fault_is_named_with_line_key_and_remedy(tmp_path: Path, old: str, new: str, key: str, said: str) -> None:
    text = changed(old, new)
    path = tmp_path / "params.yaml"
    lines = [line for line in refused(path, text).splitlines() if f": {key}: " in line]
    assert len(lines) == 1
    assert said in lines[0]
    if new.startswith(re.split(r"[.\[]", key)[-2 if "[" in key else -1] + ":") and not key.startswith("model."):
        assert lines[0].startswith(f"{path}:{line_of(text, new)}: ")


def test_all_faults_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = changed("seed", "seed: -1").replace(" kernel:", " kernal:")
    told = refused(tmp_path / "params.yaml", text).splitlines()
    numbers = [int(line.removeprefix(str(tmp_path / "params.yaml")).split(":")[1]) for line in told]
    assert numbers == sorted(numbers)
    assert len(told) == 1 + 2 * len(PARAMS.model), "each kernal is unknown and each kernel missing"


def test_a_missing_key_is_explained_at_the_line_of_its_group(tmp_path: Path) -> None:
    text = changed("longitude_deg", "")
    message = refused(tmp_path / "params.yaml", text)
    assert message.startswith(
        f"{tmp_path / 'params.yaml'}:{line_of(text, '  champion:')}: sites.champion.longitude_deg: "
    )
    assert "degrees east" in message


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (TEXT + "seed: 3\n", len(TEXT.splitlines()) + 1, f"seed: given twice, first on line {line_of(TEXT, 'seed:')}"),
        (changed("test_seasons", "test_seasons: [10"), None, "not valid YAML"),
        (changed("seed", "\tseed: 1"), line_of(TEXT, "seed:"), "not valid YAML"),
        ("", 1, "no keys"),
        ("- 1\n", 1, "no keys"),
        ("a: &a [*a]\n", 1, "holds itself"),
        ("seed: !!python/object:os.system {}\n", 1, "not valid YAML"),
    ],
)
def test_yaml_that_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int | None, said: str
) -> None:
    message = refused(tmp_path / "params.yaml", text)
    assert said in message
    assert message.startswith(f"{tmp_path / 'params.yaml'}:{line or ''}")


def test_an_absent_file_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such file"):
        load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match="UTF-8"):
        load(tmp_path / "params.yaml")


def leaves(value: object, key: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in leaves(item, (*key, name))]
    if isinstance(value, list) and value:
        return [leaf for i, item in enumerate(value) for leaf in leaves(item, (*key, i))]
    return [key]


@settings(deadline=None)
@given(key=st.sampled_from(leaves(yaml.safe_load(TEXT))), wrong=st.sampled_from(["~", "{a: b}", "2001-01-01", "[[1]]"]))
def test_a_wrong_type_anywhere_is_found_on_its_own_line(
    tmp_path_factory: pytest.TempPathFactory, key: tuple[str | int, ...], wrong: str
) -> None:
    content = yaml.safe_load(TEXT)
    group = content
    for part in key[:-1]:
        group = group[part]
    group[key[-1]] = "@@"
    text = yaml.safe_dump(content, sort_keys=False).replace("'@@'", wrong)
    path = tmp_path_factory.mktemp("p") / "params.yaml"
    assert f"{path}:{line_of(text, wrong)}: " in refused(path, text)


@given(text=st.one_of(st.text(), st.text("abc:-[]{}&*!#'\"\n 01,|>").map(lambda tail: TEXT[:200] + tail)))
def test_any_text_is_refused_without_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("p") / "params.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ParamsError, match=str(path)):
        load(path)


@given(
    seasons=st.sets(st.integers(1950, 2030), max_size=60),
    as_of=st.integers(1950, 2030),
    tests=st.integers(1, 20),
    every=st.integers(2, 9),
    site=st.sampled_from(sorted(PARAMS.sites)),
)
def test_no_season_from_as_of_on_reaches_training(
    seasons: set[int], as_of: int, tests: int, every: int, site: str
) -> None:
    params = PARAMS.model_copy(update={"as_of": as_of, "test_seasons": tests, "validation_every": every})
    start = params.season_of(site)
    try:
        train, validation, test = params.split(site, seasons)
    except ParamsError:
        in_test = any(start <= year < start + tests for year in seasons)
        assert params.sites[site].crops
        assert not in_test or sum(year < start for year in seasons) < every
        return
    assert set(train) | set(validation) == {year for year in seasons if year < start}
    assert set(test) == {year for year in seasons if start <= year < start + tests}
    assert not set(train) & set(validation)
    assert len(validation) == (len(train) + len(validation)) // every


def test_as_of_means_the_same_at_every_site() -> None:
    assert PARAMS.season_of("champion") == PARAMS.as_of
    assert PARAMS.season_of("wageningen") == PARAMS.as_of - 19
    assert PARAMS.split("wageningen", range(1976, 2000)).test == tuple(range(1990, 2000))


@pytest.mark.parametrize(("as_of", "site"), [(2031, "champion"), (1982, "champion"), (1990, "wageningen")])
def test_as_of_without_data_names_the_years_that_have_some(as_of: int, site: str) -> None:
    seasons = range(1982, 2019) if site == "champion" else range(1976, 2000)
    with pytest.raises(ParamsError) as caught:
        PARAMS.model_copy(update={"as_of": as_of}).split(site, seasons)
    message = str(caught.value)
    first, last = message.split("Choose as_of from ")[1].rstrip(".").split(" to ")
    assert f"{seasons[0]} to {seasons[-1]}" in message
    for good in (int(first), int(last)):
        assert PARAMS.model_copy(update={"as_of": good}).split(site, seasons).test
    for bad in (int(first) - 1, int(last) + 1):
        with pytest.raises(ParamsError):
            PARAMS.model_copy(update={"as_of": bad}).split(site, seasons)


def test_sensors_and_fields_are_found_by_name() -> None:
    assert PARAMS.sensors.of("tmin_c") is PARAMS.sensors.temperature_c
    assert PARAMS.sensors.of("lai") is PARAMS.sensors.lai
    assert PARAMS.fields.of("wheat") is PARAMS.fields.wheat
    for name in ("irrigation_mm", "dropout", "of"):
        with pytest.raises(KeyError):
            PARAMS.sensors.of(name)


def sections(model: type[BaseModel] = Params, name: str = "") -> list[tuple[str, type[BaseModel]]]:
    """Every model of the parameters with the name of the key that holds it."""
    found = [(name, model)]
    for key, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += sections(kind, key)
    return found


def test_every_key_is_explained_in_one_line() -> None:
    for _, model in sections():
        for key, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{key}"
            assert len(field.description.splitlines()) == 1
            assert field.description.endswith(".")


def used_names() -> tuple[set[str], set[str]]:
    """Attributes the pipeline reads, and names on which it calls ``.of(...)``.

    Of the parameters' own code only the methods that the pipeline calls count, not the checks.
    """
    attributes: set[str] = set()
    looked_up: set[str] = set()
    for file in [*(ROOT / "tasks").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]:
        if file.name in ("params.py", "params_file.py"):
            continue
        for node in reads(ast.parse(file.read_text())):
            attributes.add(node.attr)
            if node.attr == "of" and isinstance(node.value, ast.Attribute | ast.Name):
                looked_up.add(node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id)
    for node in ast.walk(ast.parse((ROOT / "tasks" / "params.py").read_text())):
        if "split" in attributes and isinstance(node, ast.FunctionDef) and node.name in ("split", "season_of"):
            attributes |= {read.attr for read in reads(node)}
    return attributes, looked_up


def reads(tree: ast.AST) -> list[ast.Attribute]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)]


def test_every_key_is_used() -> None:
    """A key nobody reads is a lie to whoever changes it; ``sensors.of(column)`` reads every sensor."""
    attributes, looked_up = used_names()
    unused = [
        f"{model.__name__}.{key}"
        for name, model in sections()
        if not (hasattr(model, "of") and name in looked_up)
        for key in model.model_fields
        if key not in attributes
    ]
    assert unused == []


def test_importing_the_parameters_brings_nothing_heavy() -> None:
    code = "import sys, tasks.params; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"numpy", "polars", "pandas", "torch", "prefect", "mlflow", "rich"} & set(done.stdout.split())
