"""The page of seasons in a row, from seasons as they are kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tasks.report.seasons_page import write_page


def season(as_of: int, **release: Any) -> dict[str, Any]:
    played = {
        "crop": "maize", "season": as_of, "fields": 8, "gain_usd_ha": [1.0, 2.0, 3.0, 2.0], "refused": 1,
        "advised": 900,
        "profit_usd_ha": {"device": 512.0, "tuned_day_curve": 510.0}, "everything_bytes": 50_000,
        "irrigation_mm": {"device": 201.0}, "nitrogen_kg_ha": {"device": 0.0},
    }  # fmt: skip
    made = {"counter": as_of * 1000, "bytes": 584_000, "patch_bytes": 37_000, "published": True, **release}
    return {
        "as_of": as_of,
        "commit": f"{as_of}abcdef0123",
        "release": made,
        "rollout": {"status": "completed", "running": [as_of * 1000] * 3 + [None]},
        "played": [played],
        "sync": {
            "messages": {"record": 9},
            "bytes": {"record": 4_500, "advice": 60_000},
            "events": {"rolled_back": 1},
            "rows": 400,
        },
    }


def rows_of(page: str) -> list[str]:
    """Cells of every table's rows, joined by strokes."""
    cells = [re.sub("<[^>]+>", "|", row) for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL)]
    return ["|".join(each for each in row.split("|") if each.strip()) for row in cells]


def test_every_season_is_on_the_page_with_its_figures(tmp_path: Path) -> None:
    first = season(2009, patch_bytes=None)
    second = season(2010)
    second["rollout"] = {"status": "refused by the gate", "running": [2009000] * 4}
    page = write_page(tmp_path, [first, second]).read_text()
    rows = rows_of(page)
    assert "2009|maize (2009)|8|512|510|+2.0|201|0|1" in rows
    assert "2010|50|4|9.0%|9|60|0|400" in rows
    assert "2009|2009000|2009abcdef|completed|3 of 4|1|0|584|-|-" in rows
    assert "2010|2010000|2010abcdef|refused by the gate|0 of 4|1|0|584|37|6%" in rows
    assert "+2.0 ± 0.0 USD/ha" in page
    assert write_page(tmp_path / "again", [first, second]).read_text() == page


def test_what_records_are_worth_stands_beside_everything_and_random(tmp_path: Path) -> None:
    first, second, last = season(2009), season(2010), season(2011)
    for each, sent, random in ((first, 0.27, 0.285), (second, 0.33, 0.327)):
        each["sync"]["worth"] = {
            "loss_t_ha": {"nothing": 0.4, "everything": 0.3, "sent": sent, "random": random},
            "bytes": {"everything": 50_000, "sent": 4_500, "random": 4_700},
            "sent_less_random_frac": (sent - random) / 0.3,
            "sent_less_random_frac_se": 0.004,
            "seeds": 12,
        }
    last["sync"]["worth"] = None  # no weather of a season after it
    page = write_page(tmp_path, [first, second, last]).read_text()
    rows = rows_of(page)
    assert "2009|0.4000|0.3000|0.2700|0.2850|-5.00 ± 0.40|4.5|4.7" in rows
    assert "2010|0.4000|0.3000|0.3300|0.3270|+1.00 ± 0.40|4.5|4.7" in rows
    assert "the next season’s loss is +0.00 ± 10.00 % against that with every record" in page
    assert "the next season’s loss is -2.00 ± 3.00 % against that with a random draw of as many bytes" in page


def test_one_season_alone_has_no_error(tmp_path: Path) -> None:
    page = write_page(tmp_path, [season(2009)]).read_text()
    assert "+2.0 USD/ha" in page
    assert "nan" not in page.lower().replace("src=", "").split("<main>")[1].split("base64")[0]
