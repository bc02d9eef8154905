"""The example runs as its first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import limit

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("world_size", [2])
def test_the_long_context_example_equals_one_device(world_size):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={world_size}", "examples/long_context.py",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=limit(120))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert f"{256 * world_size} tokens on {world_size} ranks" in line
    assert ": equal to one device" in line
