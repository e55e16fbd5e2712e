from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def external() -> Path:
    """The folder of other people's data, which does not come with the project."""
    folder = Path(os.environ.get("HEADLAND_EXTERNAL_DATA", str(ROOT.parent / "shared" / "data")))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set HEADLAND_EXTERNAL_DATA to run this")
    return folder
