"""The reference pages hold what the code holds: parameters, files, columns, units, keys, exit codes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import yaml
from headland_edge import cli
from headland_edge.features import FEATURES
from headland_edge.manifest import Manifest
from headland_edge.records import COLUMN_INFO, MAX_MORNINGS
from headland_edge.rules import DayCurveRule, FourStageRule, SplitRule
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tasks.evaluation.arena import POLICY_NAMES, STRONG
from tasks.packaging.lineage import lineage
from tasks.params import Params
from tasks.registry.register import UnfitBundleError
from tasks.seasons.schema import SCHEMA
from tasks.sources.schema import LIMITS
from tests.documents import REFERENCE, ROOT, coded, rows_of, table_of

DATA_README = ROOT / "data" / "README.md"
# Groups whose members are of one kind stand once in the reference, under the name of the kind.
KIND = {"sites": "<site>", "model": "<model>", "fields": "<crop>", "sensors": "<sensor>", "advantage": "<crop>"}


def outputs() -> list[tuple[str, str]]:
    """Stage and path of every output in dvc.yaml, in the notation of the documents."""
    found = []
    for stage, whole in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        content = whole.get("do", whole)
        for out in (out for kind in ("outs", "metrics", "plots") for out in content.get(kind, [])):
            path = out if isinstance(out, str) else next(iter(out))
            for name, shown in (("${item.model}", "<model>"), ("${key}", "<crop>"), ("${as_of}", "<as_of>")):
                path = path.replace(name, shown)
            found.append((stage, path))
    return found


def listed_files() -> list[tuple[str, str]]:
    """Stage and path of every row of the first table in files.md."""
    found, stage = [], ""
    for first, second, *_ in rows_of(REFERENCE / "files.md"):
        if first == "file":
            break
        if first == "stage":
            continue
        stage = coded(first)[0] if coded(first) else stage
        found += [(stage, path) for path in coded(second)]
    return found


def test_every_output_of_a_stage_stands_in_files_and_nothing_else() -> None:
    listed = listed_files()
    for stage, path in outputs():
        assert any(s == stage and f"{file}/".startswith(f"{path}/") for s, file in listed), f"{stage}: {path}"
    for stage, file in listed:
        assert any(s == stage and f"{file}/".startswith(f"{path}/") for s, path in outputs()), f"{stage}: {file}"


def test_every_folder_of_data_is_described() -> None:
    table = table_of(DATA_README, 4)
    written: dict[str, set[str]] = {}
    for stage, path in outputs():
        if path.startswith("data/"):
            written.setdefault(path.split("/")[1], set()).add(stage)
    told = {name.rstrip("/"): set(coded(row[1])) for name, row in table.items() if name.endswith(("/", ".json"))}
    assert told == written


def inner(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """The model of a group of keys, and whether it stands for many, under names of the user's."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind, get_origin(field.annotation) is dict
    return None, False


def param_fields(model: type[BaseModel] = Params, group: str = "") -> dict[str, FieldInfo]:
    """Every key of the parameters in the notation of the reference."""
    found: dict[str, FieldInfo] = {}
    kinds = [inner(field)[0] for field in model.model_fields.values()]
    for key, field in model.model_fields.items():
        here = f"{group}.{key}" if group else key
        found[here] = field
        kind, many = inner(field)
        if kind is not None:
            path = f"{group}.{KIND[group]}" if kinds.count(kind) > 1 else here
            found |= param_fields(kind, f"{path}.{KIND[key]}" if many else path)
    return found


def limits(annotation: Any, metadata: Any = ()) -> Iterator[float]:
    """The numbers that bound a value, those of the members of a list included."""
    for item in metadata:
        yield from limits(None, getattr(item, "metadata", ()))
        yield from (getattr(item, name) for name in ("ge", "gt", "le", "lt") if hasattr(item, name))
    for argument in get_args(annotation) if annotation is not None else ():
        if get_origin(argument) is Annotated:
            yield from limits(argument.__origin__, argument.__metadata__)
        elif get_args(argument):
            yield from limits(argument)


def test_the_parameters_are_those_of_the_code() -> None:
    rows = [(coded(row[0])[0], row) for row in rows_of(REFERENCE / "params.md") if coded(row[0])]
    fields = param_fields()
    assert sorted(key for key, _ in rows) == sorted(fields)
    for key, (_, told, allowed) in rows:
        field = fields[key]
        assert told == field.description, key
        bounds = {f"{limit:.15g}" for limit in limits(field.annotation, field.metadata)}
        assert bounds <= set(re.findall(r"-?[\d.]+", allowed)), key
        names = [name for name in get_args(field.annotation) if isinstance(name, str)]
        assert set(names) <= set(coded(allowed)), key


def test_record_columns_have_the_units_and_ranges_of_the_code() -> None:
    told = {name: row[1:4] for name, row in table_of(REFERENCE / "records.md", 6).items()}
    assert told == {c.name: [c.unit, f"{c.low:g}", f"{c.high:g}"] for c in COLUMN_INFO.values()}
    assert f"At most {MAX_MORNINGS} mornings" in (REFERENCE / "records.md").read_text()


def test_feature_channels_have_the_units_and_scales_of_the_code() -> None:
    told = [(name, *row[1:3]) for name, row in table_of(REFERENCE / "records.md", 4).items()]
    assert told == [(feature.name, feature.unit, f"{feature.scale:g}") for feature in FEATURES]


def test_columns_of_seasons_and_weather_are_described() -> None:
    told = set(coded(DATA_README.read_text()))
    assert set(SCHEMA) <= told
    assert {word for word in told if word.startswith("truth_")} - {"truth_"} <= set(SCHEMA)
    weather = {name: row[3] for name, row in table_of(DATA_README, 5).items() if row[3]}
    assert weather == {name: f"{low:g} to {high:g}" for name, (low, high) in LIMITS.items()}


def manifest_keys(kind: type = Manifest, group: str = "") -> Iterator[str]:
    """Every key of the manifest in the notation of the reference, lineage left out."""
    places = {"models": "<name>", "files": "<member>"}
    for key, hint in get_type_hints(kind).items():
        part = next((each for each in (hint, *get_args(hint)) if dataclasses.is_dataclass(each)), None)
        container = {dict: f"{key}.{places.get(key, '<crop>')}", tuple: f"{key}[]" if part else key}
        here = group + container.get(get_origin(hint), key)
        if part in (None, DayCurveRule, FourStageRule, SplitRule):
            yield here
        elif isinstance(part, type):
            yield from manifest_keys(part, f"{here}.")


def test_manifest_keys_are_those_of_the_code(tmp_path: Path) -> None:
    section = (REFERENCE / "bundle.md").read_text().split("## The manifest")[1].split("## Rules")[0]
    told = set()
    for line in (line for line in section.splitlines() if line.startswith("| `")):
        first, *others = coded(line.split(" | ")[0])
        told |= {first, *(first.rpartition(".")[0] + key if key.startswith(".") else key for key in others)}
    # An empty folder has a lineage of its own, with the same keys.
    known = {key for key in manifest_keys() if not key.startswith("lineage")}
    assert told == known | {f"lineage.{key}" for key in lineage(tmp_path, ("yield",))}


def test_rules_have_the_keys_of_the_code() -> None:
    kinds = {"four_stage": FourStageRule, "day_curve": DayCurveRule, "split": SplitRule}
    section = (REFERENCE / "bundle.md").read_text().split("## Rules")[1]
    told = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    known = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in kinds.items()}
    assert {coded(row[0])[0]: set(coded(row[1])) for row in told} == known


def keys_of(value: Any) -> Iterator[str]:
    """Keys in a metrics file, without those below a key whose members are named by data."""
    for key, item in value.items() if isinstance(value, dict) else ():
        yield key
        if key not in (
            "kernels",
            "by_season",
            "by_soil",
            "profit_usd_ha_by_season",
            "installed_mb",
            "machine",
            "members",
        ):
            yield from keys_of(item)
    for item in value if isinstance(value, list) else ():
        yield from keys_of(item)


@pytest.mark.parametrize("part", ["train", "compress", "evaluate.json", "bench"])
def test_keys_of_the_metrics_are_explained(part: str) -> None:
    files = [ROOT / "metrics" / part] if part.endswith(".json") else sorted((ROOT / "metrics" / part).glob("*.json"))
    if not files or not files[0].exists():
        pytest.skip(f"no metrics/{part} yet: run make demo, and make bench")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    told = set(re.findall(r"\w+", " ".join(coded((REFERENCE / "metrics.md").read_text()))))
    told |= {*params["models"], *params["fields"], *(f"other_site/{site}" for site in params["sites"])}
    for file in files:
        found = {
            key for key in keys_of(json.loads(file.read_text())) if not key.endswith(("_loss_frac", "_size_bytes"))
        }
        assert found - told == set(), file


def test_policies_of_the_closed_loop_are_listed() -> None:
    told = set(coded((REFERENCE / "metrics.md").read_text()))
    assert {name for names in POLICY_NAMES.values() for name in names} | set(STRONG.values()) <= told


def test_exit_codes_mean_what_the_code_means() -> None:
    meaning = {row[0]: row[1] for row in rows_of(REFERENCE / "exit-codes.md")}
    assert meaning[str(cli.DONE)].startswith("done")
    assert meaning[str(cli.FAILED)].startswith("failed")
    assert meaning[str(cli.REFUSED)].startswith("advice refused")
    assert meaning[str(cli.BAD_BUNDLE)].startswith("bundle damaged")
    assert UnfitBundleError.cli_exit_code == cli.BAD_BUNDLE
