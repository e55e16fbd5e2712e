"""The page in a real browser: nothing is wider than a phone, and letters in figures stay readable."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine's PATH")

# The page stands in a frame of a phone's width, because a headless window cannot be made that narrow.
FRAME = """<!DOCTYPE html><body style="margin:0">
<iframe id="phone" style="border:0;width:{width}px;height:800px"></iframe>
<pre id="found"></pre><script>
const frame = document.getElementById("phone");
frame.onload = () => {{
  const page = frame.contentDocument, inside = page.documentElement;
  const boxes = [...page.querySelectorAll("body *")].filter(e => !e.closest(".scroll table"));
  document.getElementById("found").textContent = JSON.stringify({{
    shown: inside.clientWidth, needed: inside.scrollWidth,
    wide: boxes.filter(e => e.getBoundingClientRect().right > inside.clientWidth + 0.5).map(e => e.tagName),
    tables: [...page.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth).length,
    images: [...page.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width]),
  }});
}};
frame.srcdoc = {page};
</script>"""


def measured(page: Path, width: int, folder: Path) -> dict[str, object]:
    """What a browser finds at ``width`` px."""
    assert BROWSER
    outer = folder / "frame.html"
    outer.write_text(FRAME.format(width=width, page=json.dumps(page.read_text()).replace("</", "<\\/")))
    quiet = (
        "--hide-scrollbars",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    )
    command = [BROWSER, "--headless", "--no-sandbox", *quiet, f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=20000", "--dump-dom", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found
    assert found[1], "the page did not load in the frame"
    result: dict[str, object] = json.loads(found[1])
    return result


@pytest.mark.parametrize("width", [360, 390])
def test_nothing_is_wider_than_a_phone(page: Path, tmp_path: Path, width: int) -> None:
    found = measured(page, width, tmp_path)
    assert found["shown"] == width
    assert found["needed"] == width
    assert found["wide"] == []
    assert found["tables"], "wide tables scroll inside their own box"


def test_letters_in_figures_are_nine_points_on_a_phone(page: Path, tmp_path: Path) -> None:
    images = measured(page, 360, tmp_path)["images"]
    assert isinstance(images, list)
    assert images
    # Figures are drawn with 9 pt letters at their natural width.
    assert all(shown >= natural - 1 for natural, shown in images)
