"""The backends that can run in this process, each by its name in the registry."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ring_attn_bench.backend import Backend
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.registry import backend_class, backends, load
from tests.conformance.questions import DEVICE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Other people's kernels may warn of what they like; their numbers are judged here."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def device() -> str:
    return DEVICE


@pytest.fixture(scope="session", params=sorted(backends()))
def backend(request: pytest.FixtureRequest, device: str) -> Backend:
    name: str = request.param
    try:
        needed = backend_class(name).worker_environment.get(device, {})
        for variable, value in needed.items():
            # read when the kernel's package is imported: too late to set it here
            if os.environ.get(variable) != value:
                pytest.skip(f"{name} on {device} needs a process started with {variable}={value}")
        return load(name)
    except BackendUnavailable as error:
        pytest.skip(f"{name}: {error.reason}")
