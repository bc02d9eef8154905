"""What every test run knows: --full, and the marks `full` and `gpu` (see pyproject.toml)."""

from __future__ import annotations

import warnings

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declares --full."""
    parser.addoption("--full", action="store_true", help="run the exhaustive grids too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is marked `full` unless asked for, and skips `gpu` where there is none."""
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    reason = _no_gpu() if on_gpu else None
    if reason:
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason=reason))


def _no_gpu() -> str | None:
    """Why there is no GPU to test on, or None. Only asked when a test wants one."""
    try:
        import torch
    except ImportError as error:
        return f"needs a CUDA device, and torch cannot be imported: {error}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a torch with CUDA but no driver says so in a warning
        return None if torch.cuda.is_available() else "needs a CUDA device"
