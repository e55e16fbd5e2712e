from __future__ import annotations

import pytest
from headland_edge.bundle import Bundle

from tests.edge.small_bundle import conv_net, make_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of random tiny nets."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "random.tar")


@pytest.fixture(scope="session")
def known_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose nets always say the same, out of order: 0.5 of scale is the median."""
    nets = {name: conv_net(quantiles=(0.8, 0.3, 0.5)) for name in ("irrigation", "nitrogen", "yield")}
    return make_bundle(tmp_path_factory.mktemp("bundle") / "known.tar", nets)


@pytest.fixture(scope="session")
def nan_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose nets say NaN."""
    nets = {name: conv_net(quantiles=(float("nan"), 0.3, 0.5)) for name in ("irrigation", "nitrogen", "yield")}
    return make_bundle(tmp_path_factory.mktemp("bundle") / "nan.tar", nets)
