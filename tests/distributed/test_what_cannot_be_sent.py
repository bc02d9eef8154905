"""What no rank can send or add is refused before anything is, in words that say what differs."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate

from ring_attn_bench import InvalidArgument, RingContext, unshard, zigzag_ring_flash_attn_func
from tests.distributed.pool import Ring

X = torch.randn(1, 4, 2, 8)
CPU = torch.device("cpu")


def said(use: object) -> str:
    try:
        use()
    except InvalidArgument as error:
        return str(error)
    return "nothing"


def in_eight_bits(ring: Ring, dtype: torch.dtype) -> tuple[str, bool]:
    x = X.to(dtype)
    text = said(lambda: unshard(x.clone().requires_grad_(), "zigzag", ring.group))
    whole = unshard(x, "zigzag", ring.group)
    return text, whole.dtype is dtype and whole.shape[1] == 8


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_gradient_in_eight_bits_is_refused_in_the_forward_and_bytes_travel(ranks, dtype):
    for text, travelled in ranks.run(in_eight_bits, dtype, world_size=2):
        assert "no group adds numbers of that dtype; pass x.detach(), or x in bfloat16" in text
        assert travelled


def with_a_sink_on_one(ring: Ring) -> str:
    sink = torch.zeros(2) if ring.rank == 0 else None
    return said(lambda: zigzag_ring_flash_attn_func(X, X, X, group=ring.group, sink=sink))


def test_a_sink_on_one_rank_only_is_said_to_be(ranks):
    first, second = ranks.run(with_a_sink_on_one, world_size=2)
    assert "rank 1 of the ring was called without a sink, this rank with a sink" in first
    assert "rank 0 of the ring was called with a sink, this rank without a sink" in second
    assert "pass sink= on every rank, or on none" in first


def gradients_of_other_kinds(ring: Ring) -> list[str]:
    mesh = init_device_mesh("cpu", (4,))
    x = X.clone().requires_grad_()
    out = zigzag_ring_flash_attn_func(x, x, x)
    whole = unshard(x, "zigzag")
    return [
        said(partial(y.backward, given, retain_graph=True))
        for y in (out, whole)
        for given in (
            torch.ones_like(y).to_sparse(),
            DTensor.from_local(torch.ones_like(y), mesh, [Replicate()]),
        )
    ]


def test_gradients_that_no_kernel_can_read_are_sentences(ranks):
    for sparse, split, unshard_sparse, unshard_split in ranks.run(gradients_of_other_kinds):
        assert "the gradient of out must be a dense tensor" in sparse
        assert "the gradient of out is a DTensor; pass its to_local()" in split
        assert "the gradient of what unshard gave must be a dense tensor" in unshard_sparse
        assert "the gradient of what unshard gave is a DTensor" in unshard_split


def reserved(ring: Ring, arguments: tuple[object, ...]) -> str:
    with RingContext(ring.group) as context:
        return said(lambda: context.reserve(*arguments))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("x", 8, torch.float32, CPU), "tokens is 'x'; it must be an integer"),
        ((0, 8, torch.float32, CPU), "tokens is 0; it must be a number from 1 to 2147483647"),
        ((4, None, torch.float32, CPU), "width is None; it must be an integer"),
        ((4, 8, 3, CPU), "dtype is 3; it must be that of the keys, as torch.bfloat16"),
        ((4, 8, torch.float32, 4), "device is 4; it must be that of the keys"),
        ((4, 8, torch.float32, CPU), "nothing"),
    ],
)
def test_memory_that_cannot_be_is_refused_by_every_transport(ranks, arguments, sentence):
    for text in ranks.run(reserved, arguments, world_size=2):
        assert sentence in text
