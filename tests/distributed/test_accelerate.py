"""accelerate's own program with our ring in it, where accelerate is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import limit

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("world_size", [2, 4])
def test_gradients_under_accelerate_are_those_of_one_process(world_size):
    pytest.importorskip("accelerate", reason="accelerate is not installed: no extra has it")
    pytest.importorskip("transformers", reason="transformers is in the extra `hf`")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={world_size}", "-m", "tests.distributed.with_accelerate",
    ]  # fmt: skip
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, timeout=limit(120), env=environment,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("gradients are as near the truth as those of one process\n")
