"""Packed documents on gloo ranks by a kernel that takes them packed, and no keys of many ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import ring_attn_backends
import torch

from ring_attn_bench import RingContext, RingOptions, ring_attn_varlen_func
from tests.distributed.documents import Packed, attend, faults
from tests.distributed.pool import Ring

FOLDER = "tests.unit.ring.packing_backend"
KERNELS = {"packing": f"{FOLDER}:PackingBackend", "packing_own_delta": f"{FOLDER}:OwnDelta"}
ACROSS = (0, 1, 7, 7, 19, 22)
CHANGES = {
    "causal": {},
    "full, grouped heads": {"causal": False, "heads": 6},
    "window on both sides": {"window": (4, 1), "causal": False},
    "softcap, window, sink": {"softcap": 1.5, "window": (3, -1), "sink": True},
    "ALiBi": {"alibi": True},
    "uneven": {"uneven": True, "sink": True},
    "padding inside": {"used": (1, 4, 0, 9, 3)},
}


@contextmanager
def known() -> Iterator[None]:
    """The kernels by name in this rank's process, and no longer."""
    ring_attn_backends.BACKENDS.update(KERNELS)
    try:
        yield
    finally:
        for name in KERNELS:
            del ring_attn_backends.BACKENDS[name]


def packed(ring: Ring, case: Packed, options: RingOptions) -> dict[str, torch.Tensor]:
    """A rank's results."""
    with known(), RingContext(ring.group, options) as context:
        return attend(ring, case, context)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("partition", ["contiguous", "zigzag", "head_tail", "balanced"])
def test_a_call_is_right(ranks, partition, change):
    case = replace(Packed(3, ACROSS, partition, backend="packing"), **change)
    assert faults(case, ranks.run(packed, case, RingOptions(), world_size=3)) == []


@pytest.mark.parametrize("schedule", ["steps", "gather"])
@pytest.mark.parametrize("partition", ["contiguous", "striped", "zigzag"])
def test_a_call_is_right_by_schedule(ranks, partition, schedule):
    for change in ({}, {"causal": False, "window": (2, 3), "sink": True}):
        case = replace(Packed(4, (0, 3, 4, 18, 25, 32), partition, backend="packing"), **change)
        options = RingOptions(schedule=schedule, keep_keys=True)
        found = ranks.run(packed, case, options, world_size=4)
        assert faults(case, found) == []


def with_lse(ring: Ring, case: Packed, name: str) -> list[torch.Tensor]:
    """A rank's gradients of a loss of out and lse."""
    *leaves, dout = (x[case.order(ring.rank)].clone() for x in case.inputs())
    leaves = [x.requires_grad_() for x in leaves]
    with known():
        out, lse, _ = ring_attn_varlen_func(
            *leaves, case.batch, group=ring.group, backend=name, causal=True,
            return_attn_probs=True,
        )  # fmt: skip
        loss = (out * dout).sum() + lse.masked_fill(lse.isneginf(), 0.0).square().sum()
        return list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("name", KERNELS)
def test_gradients_of_lse_are_those_of_one_launch(ranks, name):
    for partition in ("zigzag", "striped"):
        case = Packed(2, (0, 5, 14, 16), partition)
        exact = ranks.run(with_lse, case, "reference", world_size=2)
        for wanted, found in zip(exact, ranks.run(with_lse, case, name, world_size=2), strict=True):
            for x, y in zip(wanted, found, strict=True):
                torch.testing.assert_close(x, y, rtol=0, atol=1e-10)
