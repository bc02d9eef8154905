"""Every backend's shares of dq, dk and dv, against float64."""

from dataclasses import replace

import pytest
import torch

from ring_attn_bench.positions import Span
from ring_attn_bench.problem import DTYPES
from tests.conformance.checking import (
    CASES,
    GRID,
    LOCAL,
    Case,
    backward_faults,
    gradients,
    inputs,
    refusal,
    truth,
    two_block_faults,
)

# numpy, which runs interpreted kernels, warns where hardware gives the -inf that is meant
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning")

LONGER_ROWS = [
    replace(
        LOCAL, title=title, rows=(Span(before, 61),), keys=(Span(0, before + 61),),
        heads=4, token_major=token_major, dtype=dtype,
    )
    for title, before, token_major in [
        ("rows after a longer block", 90, False),
        ("rows after a shorter block, token-major", 37, True),
    ]
    for dtype in DTYPES
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_right(question):
    assert backward_faults(*question) == []


@pytest.mark.full
@pytest.mark.parametrize("case", GRID, ids=str)
def test_gradients_are_right_over_the_grid(question):
    assert backward_faults(*question) == []


@pytest.mark.parametrize("case", LONGER_ROWS, ids=str)
def test_two_blocks_of_a_longer_row_add_up_to_the_whole(backend, case, device):
    reason = backend.unsupported(case.problem(device))
    if reason:
        pytest.skip(f"{backend.name}: {reason}")
    assert two_block_faults(backend, case, device) == []


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_deterministic_gradients_are_the_same_bit_for_bit(backend, dtype, key_heads, device):
    tokens = (Span(0, 2048 if device == "cuda" else 160),)  # on a GPU enough blocks to race
    case = Case("", tokens, tokens, LOCAL.mask, heads=4, key_heads=key_heads, dtype=dtype)
    reason = refusal(backend, case, device, deterministic=True)
    if reason:
        pytest.skip(reason)
    results = truth(case, device).results
    out = results["out"].to(case.torch_dtype)
    lse = results["lse"].to(torch.promote_types(case.torch_dtype, torch.float32))
    data = inputs(case, device)
    first, *others = (
        gradients(backend, case, data, out, lse, device, deterministic=True) for _ in range(3)
    )
    for again in others:
        assert all(torch.equal(first[name], again[name]) for name in first)
