"""Links, paths, commands and stages named in the documents exist. Stale text fails here."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from tasks.cli import app
from tests.documents import DOCUMENTS, ROOT, anchors_of, code_of, coded, links_of, name_of, paths_of, rows_of

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    for link in links_of(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_every_document_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = {ROOT / "README.md"}
    while ahead:
        document = ahead.pop()
        reached.add(document)
        targets = {(document.parent / link.partition("#")[0]).resolve() for link in links_of(document)}
        ahead |= {path for path in targets if path.suffix == ".md"} - reached
    assert [name_of(document) for document in DOCUMENTS if document not in reached] == []


@every_document
def test_paths_of_the_code_exist(document: Path) -> None:
    assert [path for path in paths_of(document.read_text()) if not (ROOT / path).exists()] == []


@every_document
def test_names_beside_a_file_of_the_code_are_in_it(document: Path) -> None:
    """A table row that begins with files of the code speaks of names in them: ``THIS``, ``This`` and ``This.that``."""
    for row in rows_of(document):
        text = "".join((ROOT / path).read_text() for path in paths_of(row[0]) if path.endswith(".py"))
        words = [word for cell in row[1:] for word in coded(cell) if re.fullmatch(r"[A-Z]\w+(\.\w+)?", word)]
        unknown = [word for word in words if not re.search(rf"\b{word.rpartition('.')[2]}\b", text)]
        assert not text or unknown == []


@every_document
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for code in code_of(document) for word in re.findall(r"^make ([a-z-]+)", code)}
    assert named <= targets


@cache
def usage(*command: str) -> str:
    words = [sys.executable, "-m", *command, "--help"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def edge_commands() -> list[str]:
    return re.findall(r"^ {4}([a-z]+) ", usage("headland_edge"), re.MULTILINE)


def cloud_commands() -> dict[str, Any]:
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]  # a group has them
    return commands


def options_of(program: str, word: str, more: list[str]) -> set[str] | None:
    """Options of ``headland WORD MORE`` or ``headland-edge WORD``; None if there is no such subcommand."""
    if word not in (edge_commands() if program == "headland-edge" else cloud_commands()):
        return None
    if word in edge_commands():
        # `headland advise` hands its options to the device's own command.
        return set(re.findall(r"--[a-z-]+", usage("headland_edge", word)))
    command = cloud_commands()[word]
    while more and (below := getattr(command, "commands", None)):
        command = below.get(more.pop(0))
    return command and {option for each in command.params for option in (*each.opts, *each.secondary_opts)}


@every_document
def test_subcommands_and_their_options_exist(document: Path) -> None:
    for code in code_of(document):
        if found := re.search(r"(?:^|[/ ])(headland|headland-edge) ([a-z]+)\b(.*)", code):
            options = options_of(found[1], found[2], found[3].split())
            assert options is not None, code
            assert set(re.findall(r"(?<!\S)--[a-z-]+", found[3])) <= options, code


def test_every_subcommand_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    told = [f"`headland {word}" for word in cloud_commands()] + [f"`headland-edge {word}" for word in edge_commands()]
    assert [command for command in told if command not in text] == []


@every_document
def test_modules_to_run_exist(document: Path) -> None:
    for code in code_of(document):
        for module in re.findall(r"-m ((?:tasks|flows|benchmarks)\.[\w.]+)", code):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists(), code


def test_options_of_the_closed_loop_are_all_explained() -> None:
    table = rows_of(ROOT / "docs" / "how-to" / "your-own-weather.md")
    explained = {option for row in table for option in re.findall(r"--[a-z-]+", row[0])}
    options = set(re.findall(r"--[a-z-]+", usage("tasks.evaluation.closed_loop")))
    # The two that are required stand in the command above the table.
    assert explained == options - {"--help", "--bundle", "--weather"}


@every_document
def test_stages_that_are_named_exist(document: Path) -> None:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    models = yaml.safe_load((ROOT / "params.yaml").read_text())["models"]
    command = r"(?:dvc repro(?: -s)?|dvc commit|headland retrain --force) ([a-z][\w-]*)(?:@([a-z_]+))?"
    for code in code_of(document):
        for stage, model in re.findall(command, code):
            assert stage in graph, code
            parts = graph[stage].get("foreach", models if "matrix" in graph[stage] else ())
            assert not model or model in parts, code


def test_environment_variables_are_those_the_code_reads() -> None:
    def named(files: list[Path]) -> set[str]:
        return {name for file in files for name in re.findall(r"\bHEADLAND_[A-Z_]*[A-Z]\b", file.read_text())}

    rooms = (ROOT / room for room in ("tasks", "flows", "benchmarks"))
    code = [*(file for room in rooms for file in room.rglob("*.py")), ROOT / "prefect.yaml"]
    of_itself = {"HEADLAND_FAMILY"}
    assert named(DOCUMENTS) == named(code) - of_itself


def test_decisions_are_numbered_in_a_row_and_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(path.name for path in folder.glob("0*.md"))
    assert [page[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    assert pages == links_of(folder / "README.md")
    for page in pages:
        heads = re.findall(r"^## (.+)$", (folder / page).read_text(), re.MULTILINE)
        assert heads == ["Context", "Decision", "Consequences"], page
