"""What every test run knows: --full, and the marks `full` and `gpu` (see pyproject.toml)."""

from __future__ import annotations

import warnings

import pytest

WITHOUT_GPU = pytest.StashKey[str | None]()
"""Why what is marked `gpu` does not run, or None."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declares --full."""
    parser.addoption("--full", action="store_true", help="run the exhaustive grids too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is marked `full` unless asked for, and `gpu` where there is none."""
    if not config.getoption("--full"):
        _leave_out(config, items, "full")
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    config.stash[WITHOUT_GPU] = _no_gpu() if on_gpu else None
    reason = config.stash[WITHOUT_GPU]
    if reason and len(on_gpu) < len(items):
        _leave_out(config, items, "gpu")
        config.stash[WITHOUT_GPU] = f"{len(on_gpu)} tests are left out: each {reason}"
    elif reason:  # nothing else was asked for, and an answer is due
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    """Says in a line what would be 1,663 skips."""
    return config.stash.get(WITHOUT_GPU, None) or ""  # a path that is not there collects nothing


def _leave_out(config: pytest.Config, items: list[pytest.Item], mark: str) -> None:
    left_out = [item for item in items if item.get_closest_marker(mark)]
    items[:] = [item for item in items if not item.get_closest_marker(mark)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def _no_gpu() -> str | None:
    """Why there is no GPU to test on, or None. Only asked when a test wants one."""
    try:
        import torch
    except ImportError as error:
        return f"needs a CUDA device, and torch cannot be imported: {error}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a torch with CUDA but no driver says so in a warning
        return None if torch.cuda.is_available() else "needs a CUDA device"
