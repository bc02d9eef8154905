"""Peers that import flash-attn run on our functions where these are in its place."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.patience import limit

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("peer", "function"),
    [
        ("ring_flash_attn", "zigzag_ring_flash_attn_func"),
        ("ring_flash_attn", "zigzag_ring_flash_attn_varlen_func"),
        ("yunchang", "zigzag_ring_flash_attn_func"),
    ],
)
def test_a_zigzag_ring_of_two_ranks_is_right(peer, function):
    if find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "tests/distributed/in_place_of_flash_attn.py", peer, function,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=limit(120))

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["done", "done"]
