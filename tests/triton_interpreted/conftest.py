"""Runs the Triton kernels in Triton's interpreter, on a CPU: `pytest tests/triton_interpreted`.

Triton decides when a kernel is defined whether to interpret it, for the whole process, so these
tests need a process of their own; in any other run they are skipped, and say so.
"""

import os
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.triton_interpreted.representative import REPRESENTATIVE

HERE = Path(__file__).parent


def pytest_configure(config):
    asked_for = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if all(path.is_relative_to(HERE) for path in asked_for):
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(config, items):
    """Marks those that the oldest Triton runs too, and sees to it that none is lost by its name."""
    patterns = {_literal(pattern): pattern for pattern in REPRESENTATIVE}
    found = set()
    for item in items:
        if HERE in item.path.parents:
            name = item.nodeid.rpartition("tests/triton_interpreted/")[2]
            chosen = {pattern for pattern in patterns if fnmatchcase(name, pattern)}
            if chosen:
                item.add_marker("representative")
                found |= chosen
    lost = [patterns[pattern] for pattern in patterns.keys() - found]
    whole_folder = config.args and all(Path(x).resolve() == HERE for x in config.args)
    if lost and whole_folder and os.environ["TRITON_INTERPRET"] == "1":
        raise pytest.UsageError(f"representative.py names tests that there are not: {lost}")


def _literal(pattern):
    """Brackets are those of a test's parameters, and no set of letters."""
    return pattern.replace("[", "[[]")
