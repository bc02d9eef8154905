"""Keys are packed, and gradients added up, by one kernel, whatever the strides and head dims."""

import pytest
import torch

from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.ring import packing_triton
from ring_attn_bench.ring.packing import Packing

SHAPES = [(1, 7, 2, 64, 64), (2, 33, 3, 16, 24), (2, 130, 1, 40, 8)]


def keys_of(batch, tokens, heads, dim, dim_v, dtype=torch.float32):
    return Keys(*(torch.randn(batch, tokens, heads, d).to(dtype) for d in (dim, dim_v)))


def buffers(keys, packing):
    tokens = keys.k.shape[1]
    yield torch.full((tokens, packing.width), float("nan"), dtype=keys.k.dtype)
    unit = packing.head_dim + packing.head_dim_v
    shape = packing.batch * packing.heads, tokens, unit
    yield torch.full(shape, float("nan"), dtype=keys.k.dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_keys_are_packed_by_tokens_and_by_heads(shape):
    keys = keys_of(*shape, dtype=torch.float16)
    packing = Packing.of(keys)
    for buffer in buffers(keys, packing):
        packing_triton.copy_keys(keys, packing.views(buffer))
        assert not buffer.isnan().any()
        for found, wanted in zip(packing.views(buffer), keys, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_part_is_added_where_it_belongs_and_rounded_once(shape):
    batch, tokens, heads, dim, dim_v = shape
    home, into = keys_of(*shape), keys_of(*shape, dtype=torch.float16)
    part = keys_of(batch, tokens - 5, heads, dim, dim_v, dtype=torch.float16)
    packing_triton.sum_keys(home, part, 3, into)
    for total, share, found in zip(home, part, into, strict=True):
        wanted = total.clone()
        wanted[:, 3 : tokens - 2] += share.float()
        assert torch.equal(found, wanted.half())
