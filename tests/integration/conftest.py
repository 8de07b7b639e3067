"""Demo data for the integration tests, written once."""

from __future__ import annotations

import pytest

from mmreason.demo.media import DemoFiles, write_demo_data


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return write_demo_data(tmp_path_factory.mktemp("demo-data"), seed=5, train=40, eval=10, sft=20, choices=5)
