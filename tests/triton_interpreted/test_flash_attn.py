"""flash-attn's functions on our kernels, interpreted: halves of a ring, patterns of dropout."""

import os
from functools import partial

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_backends.triton import TritonBackend

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.flash_attn import _flash_attn_backward, _flash_attn_forward
from tests.dropped_truth import LENGTHS, dense_faults, documents_faults
from tests.halves import half_passes_faults

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_two_halves_of_the_keys_merge_into_the_whole_with_its_gradients(dtype, causal):
    assert half_passes_faults("triton", dtype, causal, rows=40) == []


@pytest.mark.parametrize(
    ("dtype", "width", "in_place"),
    [(torch.float16, 0, True), (torch.float32, 2, True), (torch.bfloat16, 0, False)],
    ids=str,
)
def test_gradients_are_written_where_they_are_told(monkeypatch, dtype, width, in_place):
    """By the kernel itself, into a part of a buffer too, in q's dtype or the accumulators'."""
    calls = []
    into = TritonBackend.backward_into
    monkeypatch.setattr(
        TritonBackend, "backward_into", lambda *x, **named: calls.append(into(*x, **named))
    )
    random = torch.Generator().manual_seed(1)
    shapes = (1, 30, 4, 16), (1, 45, 2, 16), (1, 45, 2, 16), (1, 30, 4, 16)
    q, k, v, dout = (torch.randn(shape, generator=random).half() for shape in shapes)
    how = 0.0, None, True, -1, -1, 0.0, None
    out, lse, _, _ = _flash_attn_forward(q, k, v, *how, False, backend="triton")
    around = [torch.zeros(*x.shape[:3], 16 + width, dtype=dtype) for x in (q, k, v)]
    found = [x[..., width:] for x in around]
    _flash_attn_backward(dout, q, k, v, out, lse, *found, *how, False, backend="triton")

    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    right = torch.autograd.grad(
        flash_attn_func(*leaves, causal=True, backend="triton"), leaves, dout
    )
    assert len(calls) == in_place
    for x, y in zip(found, right, strict=True):
        rounded = x.half() if dtype is torch.float32 else x
        assert torch.equal(rounded, y.to(rounded.dtype))
    assert not any(x[..., :width].any() for x in around)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window_size": (2, 1)}], ids=str)
@pytest.mark.parametrize("lengths", [(70, 70), (20, 90), (90, 20)], ids=str)
def test_of_a_sequence_the_pattern_is_what_was_dropped(lengths, options):
    assert dense_faults("triton", lengths, torch.float16, 0.4, **options) == []


@pytest.mark.parametrize("lengths", [*LENGTHS, [(70, 90), (3, 0), (40, 20)]], ids=str)
def test_of_documents_the_pattern_is_what_was_dropped_in_each(lengths):
    assert documents_faults("triton", lengths, torch.float32, 0.4, causal=True) == []


def test_what_is_behind_the_used_keys_is_not_felt():
    random = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(30, heads, 16, generator=random) for heads in (4, 2, 2))
    starts = torch.tensor([0, 12, 30], dtype=torch.int32)
    used = torch.tensor([5, 18], dtype=torch.int32)
    call = partial(
        flash_attn_varlen_func, q, cu_seqlens_q=starts, cu_seqlens_k=starts, max_seqlen_q=18,
        max_seqlen_k=18, causal=True, seqused_k=used, backend="triton",
    )  # fmt: skip
    right = call(k, v)
    k[5:12] = v[5:12] = float("nan")

    assert torch.equal(call(k, v), right)
    assert right.isfinite().all()
