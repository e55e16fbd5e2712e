"""One made-up project and its page, shared by the tests that only read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.params import Params
from tasks.report.build import build
from tests.report.project import make_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    """A project whose stages before the report are done."""
    return make_project(tmp_path_factory.mktemp("project"), params)


@pytest.fixture(scope="session")
def page(project: Path, params: Params) -> Path:
    """Its report."""
    return build(project, params)
