"""The backends that can run in this process, each by its name in the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring_attn_bench.contract.backend import Backend
from tests.conformance.questions import BACKENDS, DEVICE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Other people's kernels may warn of what they like; their numbers are judged here."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def device() -> str:
    return DEVICE


@pytest.fixture(scope="session", params=BACKENDS.values(), ids=BACKENDS.keys())
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.param
    return found
