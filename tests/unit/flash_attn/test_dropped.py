"""The third value of return_attn_probs under dropout is the pattern that the kernel used.

Attention with exactly these weights dropped, recomputed in float64, is what the call gave.
"""

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.flash_attn import flash_attn_qkvpacked_func
from tests.dropped_truth import LENGTHS, dense_faults, documents_faults

P = 0.4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window_size": (2, 1)}], ids=str)
@pytest.mark.parametrize("lengths", [(7, 7), (5, 9), (9, 5), (1, 6)], ids=str)
def test_of_a_sequence_it_is_what_was_dropped(lengths, options, dtype):
    assert dense_faults("reference", lengths, dtype, P, **options) == []


@pytest.mark.parametrize("options", [{}, {"causal": True}], ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_of_documents_it_is_what_was_dropped_in_each_and_0_beyond_its_end(lengths, options):
    assert documents_faults("reference", lengths, torch.float64, P, **options) == []


def call(**options):
    x = torch.randn(2, 6, 3, 4, 8, requires_grad=True)
    options = {"return_attn_probs": True, "backend": "reference"} | options
    return flash_attn_qkvpacked_func(x, **options)


def test_it_has_signs_in_qs_dtype_and_no_gradient():
    out, lse, pattern = call(dropout_p=P)

    assert out.requires_grad
    assert lse.requires_grad
    assert not pattern.requires_grad
    assert pattern.shape == (2, 4, 6, 6)
    assert pattern.dtype is out.dtype
    assert pattern.unique().tolist() == [-1.0, 1.0]


def test_there_is_none_without_dropout_nor_is_it_made_where_nobody_asks(monkeypatch):
    assert call()[2] is None
    monkeypatch.setattr("ring_attn_bench.one_device.dropped.of_sequence", None)
    assert isinstance(call(dropout_p=P, return_attn_probs=False), torch.Tensor)


def test_of_a_kernel_with_a_pattern_of_its_own_there_is_none(monkeypatch):
    monkeypatch.setattr(ReferenceBackend, "drops_by_position", False)
    x, starts = torch.randn(1, 6, 2, 8), torch.tensor([0, 6], dtype=torch.int32)
    options = {"dropout_p": P, "return_attn_probs": True, "backend": "reference"}

    assert flash_attn_func(x, x, x, **options)[2] is None
    packed = x[0], x[0], x[0], starts, starts, 6, 6
    assert flash_attn_varlen_func(*packed, **options)[2] is None


def test_one_seed_is_one_pattern_and_another_seed_another():
    first, again, other = (call(dropout_p=P, dropout_seed=seed)[2] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
