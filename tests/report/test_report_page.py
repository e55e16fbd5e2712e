"""The page as a whole: self-contained, small, the same each time, true to its inputs."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tasks.params import Params
from tasks.report import words
from tasks.report.build import build, main
from tasks.report.inputs import ReportError
from tests.conftest import ROOT


class Page(HTMLParser):
    """What the tests ask of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str]] = []
        self.cells: list[str] = []
        self.in_cell = False
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.references += [found[name] for name in ("src", "href", "srcset", "data", "action") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        if tag == "img":
            self.images.append(found)
        if tag in ("td", "th"):
            self.cells.append("")
            self.in_cell = True

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.cells[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")


@pytest.fixture(scope="module")
def read(page: Path) -> Page:
    return Page(page.read_text())


def copied(project: Path, tmp_path: Path) -> Path:
    target = tmp_path / "project"
    shutil.copytree(project, target, ignore=shutil.ignore_patterns("reports"))
    return target


def test_page_is_small(page: Path) -> None:
    assert 100_000 < page.stat().st_size < 3_000_000


def test_page_needs_nothing_from_elsewhere(read: Page, page: Path) -> None:
    assert read.references, "the page has images and anchors"
    assert all(reference.startswith(("data:image/svg+xml;base64,", "#")) for reference in read.references)
    assert not {"script", "link", "iframe", "object"} & set(read.tags)
    assert "@import" not in page.read_text()
    assert "url(" not in page.read_text()


def test_every_anchor_has_a_target_and_no_id_is_twice(read: Page) -> None:
    assert {reference[1:] for reference in read.references if reference.startswith("#")} <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))


def test_every_figure_says_what_it_shows_and_where_it_comes_from(page: Path, read: Page) -> None:
    blocks = re.findall(r"<figure .*?</figure>", page.read_text(), re.DOTALL)
    assert len(blocks) == len(read.images) >= 18
    assert all(len(image["alt"]) > 40 for image in read.images)
    assert len({image["alt"] for image in read.images}) == len(read.images)
    for block in blocks:
        caption = re.search(r"<figcaption>(.*)</figcaption>", block, re.DOTALL)
        assert caption
        assert len(re.findall(r'class="tag (observed|simulated|modelled|measured)"', caption[1])) >= 2


def test_every_build_is_the_same_bytes(project: Path, page: Path, params: Params, tmp_path: Path) -> None:
    # More than once: what depends on the addresses of objects differs only now and then.
    root = copied(project, tmp_path)
    for _ in range(3):
        assert build(root, params).read_bytes() == page.read_bytes()


def test_money_on_the_page_is_the_money_in_the_metrics(project: Path, read: Page) -> None:
    loops = json.loads((project / "metrics/evaluate.json").read_text())["closed_loop"]
    for crop, scenes in loops.items():
        for scene in scenes.values():
            for money in scene["profit_usd_ha_by_season"].values():
                assert {words.number(value) for value in money.values()} <= set(read.cells)
            for baseline, gain in scene["gain_usd_ha"].items():
                assert words.signed(gain["mean"]) in read.cells
                assert f"{words.signed(gain['low_95'])} to {words.signed(gain['high_95'])}" in read.cells
                if scene is scenes["home"]:
                    assert words.gain_sentence(crop, baseline, gain) in read.text


def test_compression_on_the_page_is_that_in_the_metrics(project: Path, read: Page, params: Params) -> None:
    for model in params.models:
        figures = json.loads((project / f"metrics/compress/{model}.json").read_text())
        for name in ("fp32", "pruned", "int8", "control"):
            row = figures[name]
            shown = {
                f"{row['metric']:.4g}",
                f"{row['size_bytes'] / 1e3:.1f}",
                f"{row['latency_p50_ms']:.3f}",
                str(row["parameters"]),
            }
            assert shown <= set(read.cells)


def test_scores_and_lineage_are_on_the_page(project: Path, read: Page) -> None:
    models = json.loads((project / "metrics/evaluate.json").read_text())["models"]
    for found in models.values():
        for row in (*found["by_season"].values(), *found["by_soil"].values()):
            assert {f"{row['pinball']:.4f}", f"{row['mae']:.3f}", words.number(100 * row["coverage_frac"], 1)} <= set(
                read.cells
            )
    assert {"0123abcd", "2009000, prepared for season 2009", "9f.dir"} <= set(read.cells)


def test_seasons_of_each_site_are_told(read: Page) -> None:
    assert {"2009–2018", "1990–1999", "1986, 1991, 1996, 2001, 2006", "none: never trained on"} <= set(read.cells)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("plots/yield/history.csv", "learning curve of yield"),
        ("data/evaluation/diary_maize_device.parquet", "diary_maize_device.parquet"),
        ("data/evaluation/predictions.parquet", "predictions.parquet"),
        ("data/evaluation/closed_loop.parquet", "closed_loop.parquet"),
    ],
)
def test_an_optional_input_that_is_absent_is_said(
    project: Path, params: Params, tmp_path: Path, lost: str, said: str
) -> None:
    root = copied(project, tmp_path)
    (root / lost).unlink()
    text = Page(build(root, params).read_text()).text
    assert "Not in this report" in text
    assert said in text


@pytest.mark.parametrize(
    ("crop", "scene", "said"),
    [
        ("maize", "other_soil", "closed loop of maize: a soil never trained on"),
        ("wheat", "other_site/champion", "closed loop of wheat: another site"),
        ("wheat", "home", "closed loop of wheat: where it was trained"),
        ("wheat", None, "closed loop of wheat"),
    ],
)
def test_a_scene_that_is_absent_is_said(
    project: Path, params: Params, tmp_path: Path, crop: str, scene: str | None, said: str
) -> None:
    root = copied(project, tmp_path)
    path = root / "metrics/evaluate.json"
    content = json.loads(path.read_text())
    if scene:
        del content["closed_loop"][crop][scene]
    else:
        del content["closed_loop"][crop]
    path.write_text(json.dumps(content))
    assert said in Page(build(root, params).read_text()).text


def test_nothing_is_said_to_be_absent_when_all_is_there(read: Page) -> None:
    assert "Not in this report" not in read.text


@pytest.mark.parametrize(
    "lost",
    [
        "metrics/evaluate.json",
        "metrics/compress/nitrogen.json",
        "metrics/train/yield.json",
        "data/weather/tunis.json",
        "data/weather/champion.parquet",
        "data/policies.json",
        "data/bundle/headland-2009.tar",
    ],
)
def test_a_required_input_that_is_absent_is_named(project: Path, params: Params, tmp_path: Path, lost: str) -> None:
    root = copied(project, tmp_path)
    (root / lost).unlink()
    with pytest.raises(ReportError, match=re.escape(lost)) as caught:
        build(root, params)
    assert "dvc repro" in str(caught.value)
    assert not (root / "reports").exists()


@pytest.mark.parametrize(
    "damaged", ["metrics/evaluate.json", "data/evaluation/predictions.parquet", "data/bundle/headland-2009.tar"]
)
def test_a_damaged_input_is_named(project: Path, params: Params, tmp_path: Path, damaged: str) -> None:
    root = copied(project, tmp_path)
    path = root / damaged
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(ReportError, match=re.escape(path.name)):
        build(root, params)


def test_metrics_of_another_season_are_refused(project: Path, params: Params, tmp_path: Path) -> None:
    root = copied(project, tmp_path)
    path = root / "metrics/evaluate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "as_of": 2008}))
    with pytest.raises(ReportError, match="2008"):
        build(root, params)


def test_the_stage_ends_with_one_and_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main() == 1
    assert "metrics/evaluate.json" in capsys.readouterr().err
