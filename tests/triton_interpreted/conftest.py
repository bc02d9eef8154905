"""Runs the Triton kernels in Triton's interpreter, on a CPU: `pytest tests/triton_interpreted`.

Triton decides when a kernel is defined whether to interpret it, for the whole process, so these
tests need a process of their own; in any other run they are skipped, and say so.
"""

import os
from pathlib import Path

HERE = Path(__file__).parent


def pytest_configure(config):
    asked_for = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if all(path.is_relative_to(HERE) for path in asked_for):
        os.environ["TRITON_INTERPRET"] = "1"
