"""How Hopper's kernels find packed documents, without a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.plan.problem import Documents, Mask, Score

pytest.importorskip("triton")

from ring_attn_backends.triton.hopper import descriptors, serves
from ring_attn_backends.triton.lines import FAR

BYTES = 2
"""Of a number in half precision."""


@given(
    heads=st.integers(1, 128), dim=st.sampled_from([8, 40, 64, 128, 256]),
    begin=st.integers(0, 2**26), length=st.integers(1, 2**26), data=st.data(),
)  # fmt: skip
def test_a_token_of_a_document_is_found_and_one_behind_its_last_is_outside(
    heads, dim, begin, length, data
):
    token = data.draw(st.integers(0, length + 255))
    head = data.draw(st.integers(0, heads - 1))
    stride = heads * dim
    shape, strides = descriptors._ragged([2**27, heads, dim], [stride, dim, 1])
    place = (FAR, begin + length, FAR - length + token, head, 0)  # as `programs.place` has it

    inside = all(0 <= at < size for at, size in zip(place, shape, strict=True))
    address = BYTES * sum(at * step for at, step in zip(place, strides, strict=True)) % 2**64

    assert inside == (token < length)
    assert address == BYTES * ((begin + token) * stride + head * dim)


@pytest.mark.parametrize("stride", [8, 128 * 64, 2**22])
def test_strides_are_what_tma_takes(stride):
    shape, strides = descriptors._ragged([1000, 4, 64], [stride, 64, 1])

    assert all(0 < BYTES * step < 2**40 and BYTES * step % 16 == 0 for step in strides[:-1])
    assert all(0 < size <= 2**32 for size in shape)


def documents(*starts, longest):
    found = torch.tensor(starts, dtype=torch.int32)
    return Documents(found, found, *longest, Mask(causal=True))


@pytest.mark.parametrize(
    ("where", "left"),
    [
        (documents(0, 100, 256, longest=(156, 156)), False),
        (documents(0, longest=(0, 0)), True),
        (documents(0, 0, 0, longest=(0, 0)), True),
        (documents(0, 100, longest=(100, 0)), True),
    ],
)
def test_documents_are_left_to_the_plain_kernels_where_a_grid_would_be_empty(where, left):
    q = torch.empty(1, 256, 4, 64, dtype=torch.bfloat16)

    assert (serves.lacks((q, q, q), where, Score(0.125)) is not None) == left


def test_documents_with_a_bias_are_left_to_the_plain_kernels():
    q = torch.empty(1, 256, 4, 64, dtype=torch.bfloat16)
    where = documents(0, 256, longest=(256, 256))

    assert serves.lacks((q, q, q), where, Score(0.125, alibi_slopes=torch.ones(4)))
