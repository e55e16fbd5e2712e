"""The documents say what the code does: links, paths, commands, parameters, columns, keys. Stale text fails here."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import yaml
from headland_edge import manifest
from headland_edge.features import FEATURES
from headland_edge.records import COLUMN_INFO, MAX_MORNINGS
from headland_edge.rules import _KEYS as RULE_KEYS
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.main import get_command

from tasks.cli import app
from tasks.params import Params

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
DOCUMENTS = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / f"{name}/README.md" for name in ("data", "edge", "benchmarks")),
    ]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_PATH = re.compile(r"(?<![\w/.-])((?:tasks|flows|edge|tests|benchmarks|docs)/[\w./-]*\w)")
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def every_document(test: Any) -> Any:
    return pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)(test)


def code_of(document: Path) -> list[str]:
    """What stands as code: lines of fenced blocks, with continued lines joined, and words between backticks."""
    text = document.read_text()
    lines = [line.strip() for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return [*lines, *(words.replace("\n", " ") for words in re.findall(r"`([^`]+)`", FENCE.sub("", text)))]


def rows_of(document: Path) -> list[list[str]]:
    """Cells of every table row."""
    lines = (line.strip() for line in document.read_text().splitlines())
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]


def coded(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def anchors(document: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@every_document
def test_relative_links_resolve(document: Path) -> None:
    for link in LINK.findall(FENCE.sub("", document.read_text())):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_document_is_reached_from_the_readme() -> None:
    reached, ahead = set(), {ROOT / "README.md"}
    while ahead:
        document = ahead.pop()
        reached.add(document)
        links = {(document.parent / link.partition("#")[0]).resolve() for link in LINK.findall(document.read_text())}
        ahead |= {path for path in links if path.suffix == ".md" and path.is_file()} - reached
    assert [name_of(document) for document in DOCUMENTS if document not in reached] == []


@every_document
def test_paths_of_the_code_exist(document: Path) -> None:
    text = LINK.sub("", document.read_text())
    assert [path for path in CODE_PATH.findall(text) if not (ROOT / path.rstrip(".")).exists()] == []


@every_document
def test_names_beside_a_file_of_the_code_are_in_it(document: Path) -> None:
    """A sentence or row that names one file and `LIKE_THIS` or `Like.this` speaks of names in that file."""
    for row in rows_of(document):
        files = [path for path in CODE_PATH.findall(row[0]) if path.endswith(".py")]
        named = [word.split(".")[-1] for cell in row[1:] for word in coded(cell) if re.fullmatch(r"[A-Z][\w.]+", word)]
        text = "".join((ROOT / path).read_text() for path in files)
        assert [name for name in named if files and not re.search(rf"\b{name}\b", text)] == []


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@every_document
def test_make_targets_exist(document: Path) -> None:
    named = {match for code in code_of(document) for match in re.findall(r"^make ([a-z-]+)", code)}
    assert named <= make_targets()


@cache
def usage(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


@cache
def options_of(program: str, word: str) -> set[str] | None:
    """Options of ``headland WORD`` or ``headland-edge WORD``; None if there is no such subcommand."""
    if program == "headland-edge" or word == "advise":
        names = re.search(r"\{(.*?)\}|positional arguments:\n(.*?)\n\n", usage("headland_edge"), re.DOTALL)
        assert names is not None
        known = re.findall(r"^ {4}([a-z]+) ", usage("headland_edge"), re.MULTILINE)
        return set(re.findall(r"--[a-z-]+", usage("headland_edge", word))) if word in known else None
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]  # a group has them
    if word not in commands:
        return None
    return {option for each in commands[word].params for option in (*each.opts, *each.secondary_opts)} | {"--help"}


@every_document
def test_subcommands_and_their_options_exist(document: Path) -> None:
    for code in code_of(document):
        found = re.search(r"(?:^|/)(headland|headland-edge) ([a-z]+)\b(.*)", code)
        if found is None:
            continue
        options = options_of(found[1], found[2])
        assert options is not None, code
        assert set(re.findall(r"(?<!\S)--[a-z-]+", found[3])) <= options, code


def test_every_subcommand_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for word in get_command(app).commands:  # type: ignore[attr-defined]  # a group has them
        assert f"`headland {word}" in text
    for word in re.findall(r"^ {4}([a-z]+) ", usage("headland_edge"), re.MULTILINE):
        assert f"`headland-edge {word}" in text


@every_document
def test_modules_to_run_exist_with_the_options_named(document: Path) -> None:
    for code in code_of(document):
        for module in re.findall(r"-m ((?:tasks|flows|benchmarks)\.[\w.]+)", code):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists(), code
    text = document.read_text()
    if "tasks.evaluation.closed_loop" in text and document.parent.name == "how-to":
        known = set(re.findall(r"--[a-z-]+", usage("tasks.evaluation.closed_loop")))
        shown = {word for row in rows_of(document) for word in re.findall(r"--[a-z-]+", row[0]) if len(row) == 3}
        assert shown
        assert shown == known - {"--help", "--bundle", "--weather"}


@cache
def graph() -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return stages


@every_document
def test_stages_that_are_named_exist(document: Path) -> None:
    models = yaml.safe_load((ROOT / "params.yaml").read_text())["models"]
    for code in code_of(document):
        words = re.findall(r"(?:dvc repro(?: -s)?|dvc commit|headland retrain --force) ([a-z]+)(?:@([a-z_]+))?", code)
        for stage, model in words:
            assert stage in graph(), code
            assert not model or ("matrix" in graph()[stage] and model in models), code


def outputs() -> Iterator[tuple[str, str]]:
    for stage, content in graph().items():
        for kind in ("outs", "metrics", "plots"):
            for out in content.get(kind, []):
                path = out if isinstance(out, str) else next(iter(out))
                yield stage, path.replace("${item.model}", "<model>").replace("${as_of}", "<as_of>")


def test_every_output_of_a_stage_stands_in_files_and_no_other_stage_does() -> None:
    listed: dict[str, set[str]] = {}
    stage = ""
    for first, second, *_ in (row for row in rows_of(REFERENCE / "files.md") if len(row) == 3):
        stage = coded(first)[0] if coded(first) and coded(first)[0] in graph() else "" if coded(first) else stage
        if stage:
            listed.setdefault(stage, set()).update(coded(second))
    for name, path in outputs():
        assert any(file == path or file.startswith(f"{path}/") for file in listed[name]), f"{name}: {path}"
        assert (ROOT / "data" / "README.md").read_text().count(path.split("/")[1]) or not path.startswith("data/")
    for name, files in listed.items():
        for file in files:
            if "/" in file:
                assert any(f"{file}/".startswith(f"{path}/") for n, path in outputs() if n == name), f"{name}: {file}"


def environment_names(text: str) -> set[str]:
    return set(re.findall(r"\b(HEADLAND_[A-Z_]*[A-Z])\b", text)) - {"HEADLAND_FAMILY", "HEADLAND_EXTERNAL_DATA"}


def test_environment_variables_are_those_the_code_reads() -> None:
    sources = [*(ROOT / "tasks").rglob("*.py"), *(ROOT / "flows").rglob("*.py"), ROOT / "prefect.yaml"]
    read = set().union(*(environment_names(file.read_text()) for file in sources))
    told = set().union(*(environment_names(document.read_text()) for document in DOCUMENTS))
    assert told == read


# Groups whose members are of one kind stand once in the reference, under the name of the kind.
_KIND = {"sites": "<site>", "model": "<model>", "fields": "<crop>", "sensors": "<sensor>"}


def inner(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """The model of a group, and whether it is one of many under names of the user's."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind, kind is not field.annotation
    return None, False


def param_fields(model: type[BaseModel] = Params, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    kinds = [inner(field)[0] for field in model.model_fields.values()]
    for (key, field), kind in zip(model.model_fields.items(), kinds, strict=True):
        yield prefix + key, field
        if kind is None:
            continue
        group = prefix.rstrip(".")
        shared = kinds.count(kind) > 1
        path = f"{group}.{_KIND[group]}" if shared else prefix + key
        if not shared or kinds.index(kind) == list(model.model_fields).index(key):
            yield from param_fields(kind, f"{path}.{_KIND[key]}." if inner(field)[1] else f"{path}.")


def limits(annotation: Any, metadata: Any = ()) -> Iterator[float]:
    for item in metadata:
        yield from limits(None, getattr(item, "metadata", ()))
        yield from (getattr(item, name) for name in ("ge", "gt", "le", "lt") if hasattr(item, name))
    for argument in get_args(annotation) if annotation is not None else ():
        if get_origin(argument) is Annotated:
            yield from limits(argument.__origin__, argument.__metadata__)
        elif get_args(argument):
            yield from limits(argument)


def test_the_parameters_in_the_reference_are_those_of_the_code() -> None:
    rows = {coded(row[0])[0]: row for row in rows_of(REFERENCE / "params.md") if coded(row[0])}
    fields = dict(param_fields())
    assert list(rows) == list(dict.fromkeys(rows)), "a key is listed twice"
    assert set(rows) == set(fields)
    for key, field in fields.items():
        _, told, allowed = rows[key]
        assert told == field.description, key
        assert {f"{limit:g}" for limit in limits(field.annotation, field.metadata) if limit < 1e6} <= set(
            re.findall(r"-?[\d.]+", allowed)
        ), key
        for option in (option for option in get_args(field.annotation) if isinstance(option, str)):
            assert f"`{option}`" in allowed, key


def test_every_key_of_params_yaml_is_in_the_reference() -> None:
    known = set(dict(param_fields()))

    def walk(value: Any, path: str) -> Iterator[str]:
        for key, item in value.items() if isinstance(value, dict) else ():
            kind = _KIND.get(path.rstrip("."))
            here = f"{path}{kind}" if kind and f"{path}{key}" not in known else f"{path}{key}"
            if here in known:
                yield here
            leaves = here if any(name.startswith(f"{here}.") for name in known) else f"{path}{kind}"
            yield from walk(item, f"{leaves}.")

    assert set(walk(yaml.safe_load((ROOT / "params.yaml").read_text()), "")) == known - {
        name
        for name in known
        if name.endswith(".survey_error") and "survey_error" not in (ROOT / "params.yaml").read_text()
    }


def test_record_columns_have_the_units_and_ranges_of_the_code() -> None:
    rows = {coded(row[0])[0]: row[1:4] for row in rows_of(REFERENCE / "records.md") if len(row) == 6 and coded(row[0])}
    assert rows == {c.name: [c.unit, f"{c.low:g}", f"{c.high:g}"] for c in COLUMN_INFO.values()}
    assert f"At most {MAX_MORNINGS} mornings" in (REFERENCE / "records.md").read_text()


def test_feature_channels_have_the_units_and_scales_of_the_code() -> None:
    rows = [
        [coded(row[0])[0], *row[1:3]] for row in rows_of(REFERENCE / "records.md") if len(row) == 4 and coded(row[0])
    ]
    assert rows == [[feature.name, feature.unit, f"{feature.scale:g}"] for feature in FEATURES]


def test_columns_of_the_season_and_weather_tables_are_described() -> None:
    from tasks.seasons.schema import SCHEMA
    from tasks.sources.schema import LIMITS

    text = (ROOT / "data" / "README.md").read_text()
    told = set(coded(text))
    assert set(SCHEMA) <= told
    assert {word for word in told if word.startswith("truth_")} - {"truth_"} <= set(SCHEMA)
    weather = {
        coded(row[0])[0]: row[3] for row in rows_of(ROOT / "data" / "README.md") if len(row) == 5 and coded(row[0])
    }
    ranges = {name: f"{low:g} to {high:g}" for name, (low, high) in LIMITS.items()}
    assert {name: limit for name, limit in weather.items() if limit} == ranges


def manifest_keys(kind: type = manifest.Manifest, prefix: str = "") -> Iterator[str]:
    """Keys of the manifest in the notation of the reference."""
    for key, hint in get_type_hints(kind).items():
        arguments = [each for each in get_args(hint) if dataclasses.is_dataclass(each)]
        if get_origin(hint) is dict:
            place = {"models": "<name>", "policy": "<crop>", "files": "<member>"}.get(key)
            if place is not None:
                yield from (
                    manifest_keys(arguments[0], f"{prefix}{key}.{place}.") if arguments else [f"{prefix}{key}.{place}"]
                )
        elif get_origin(hint) is tuple and arguments:
            yield from manifest_keys(arguments[0], f"{prefix}{key}[].")
        elif dataclasses.is_dataclass(hint) and "Rule" not in str(hint):
            assert isinstance(hint, type)
            yield from manifest_keys(hint, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_manifest_keys_in_the_reference_are_those_of_the_code() -> None:
    told: set[str] = set()
    for row in rows_of(REFERENCE / "bundle.md"):
        first, *others = coded(row[0]) or [""]
        for key in [first, *(first.rpartition(".")[0] + other if other.startswith(".") else other for other in others)]:
            told.add(key)
    told = {
        key for key in told if re.match(r"(?!MODEL)[a-z_]+(\.|\[\]|$)", key) and not key.endswith((".json", ".sha256"))
    } | {key for key in told if key.startswith("models.")}
    told -= {*RULE_KEYS}
    lineage = {f"lineage.{name}" for name in lineage_keys()}
    assert told == set(manifest_keys()) | lineage


def lineage_keys() -> set[str]:
    tree = ast.parse((ROOT / "tasks/packaging/lineage.py").read_text())
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "lineage")
    constants = {
        node.value for node in ast.walk(function) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return constants & {"git_commit", "dvc_lock_sha256", "data_versions", "run_id"} | {
        key.value
        for node in ast.walk(function)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }


def test_rules_in_the_reference_have_the_keys_of_the_code() -> None:
    rows = {
        coded(row[0])[0]: set(coded(row[1]))
        for row in rows_of(REFERENCE / "bundle.md")
        if len(row) == 3 and coded(row[0])
    }
    assert rows == {kind: set(keys) for kind, keys in RULE_KEYS.items()}


def keys_of(value: Any) -> Iterator[str]:
    """Names of keys in a metrics file, without those that name a model, crop, season, soil, scene or kernel."""
    for key, item in value.items() if isinstance(value, dict) else ():
        if re.fullmatch(r"[a-z0-9_]+", key):
            yield key
        if key not in {"kernels", "by_season", "by_soil", "profit_usd_ha_by_season", "installed_mb", "machine"}:
            yield from keys_of(item)
    for item in value if isinstance(value, list) else ():
        yield from keys_of(item)


@pytest.mark.parametrize("stage", ["train", "compress", "evaluate", "bench"])
def test_keys_of_the_metrics_are_explained(stage: str) -> None:
    files = [file for file in (ROOT / "metrics").rglob("*.json") if stage in file.relative_to(ROOT).as_posix()]
    if not files:
        pytest.skip(f"no metrics of {stage} yet: run make demo, and make bench")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    names = {*params["models"], *params["sites"], *params["fields"]}
    told = set(re.findall(r"[a-z0-9_]+", " ".join(coded((REFERENCE / "metrics.md").read_text()))))
    for file in files:
        found = set(keys_of(json.loads(file.read_text()))) - names
        unexplained = {key for key in found if not key.endswith(("_loss_frac", "_size_bytes"))} - told
        assert unexplained == set(), file


def test_policies_of_the_closed_loop_are_listed() -> None:
    from tasks.evaluation.arena import POLICY_NAMES, STRONG

    told = set(coded((REFERENCE / "metrics.md").read_text()))
    assert {name for names in POLICY_NAMES.values() for name in names} | set(STRONG.values()) <= told


def test_exit_codes_are_those_of_the_device_and_the_registry() -> None:
    from headland_edge import cli

    from tasks.registry.register import UnfitBundleError

    rows = {row[0]: row[1] for row in rows_of(REFERENCE / "exit-codes.md") if row[0].isdigit()}
    assert {
        str(code) for code in (cli.DONE, cli.FAILED, cli.REFUSED, cli.BAD_BUNDLE, UnfitBundleError.cli_exit_code)
    } <= set(rows)
    assert rows[str(cli.REFUSED)].startswith("advice refused")
    assert rows[str(cli.BAD_BUNDLE)].startswith("bundle")


def test_decisions_are_numbered_in_a_row_and_listed() -> None:
    pages = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("0*.md"))
    assert [page[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    assert pages == LINK.findall((ROOT / "docs" / "decisions" / "README.md").read_text())
    for page in pages:
        heads = re.findall(r"^## (.+)$", (ROOT / "docs" / "decisions" / page).read_text(), re.MULTILINE)
        assert heads == ["Context", "Decision", "Consequences"], page


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
