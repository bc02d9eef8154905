"""Packed tensors are views to a kernel, and their gradients come back in one tensor."""

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import InvalidArgument, flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.flash_attn import (
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

STARTS = torch.tensor([0, 3, 3, 8], dtype=torch.int32)
QUERIES = torch.tensor([0, 2, 4, 9], dtype=torch.int32)
BACKENDS = pytest.mark.parametrize("backend", ["reference", "aten", "flex"])
OPTIONS = {"causal": True, "softmax_scale": 0.3, "return_attn_probs": True}


def leaf(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random).requires_grad_()


def same_with_gradients(function, apart, leaves, parts):
    """Whether both give the same out, lse and gradients; parts: the same leaves, taken apart."""
    found, right = function(*leaves), apart(*parts)
    assert torch.equal(found[0], right[0])
    assert torch.equal(found[1], right[1])
    dout, dlse = torch.randn_like(found[0]), torch.randn_like(found[1])
    gradients = torch.autograd.grad(found[:2], leaves, (dout, dlse))
    expected = torch.autograd.grad(right[:2], leaves, (dout, dlse))
    assert all(map(torch.equal, gradients, expected))


@BACKENDS
def test_qkv_is_q_k_and_v(backend):
    qkv = leaf(2, 8, 3, 4, 16)
    same_with_gradients(
        lambda qkv: flash_attn_qkvpacked_func(qkv, **OPTIONS, backend=backend),
        lambda q, k, v: flash_attn_func(q, k, v, **OPTIONS, backend=backend),
        [qkv], qkv.unbind(2),
    )  # fmt: skip


@BACKENDS
def test_kv_is_k_and_v_of_other_lengths_and_heads_too(backend):
    q, kv = leaf(2, 5, 4, 16), leaf(2, 9, 2, 2, 16, seed=1)
    same_with_gradients(
        lambda q, kv: flash_attn_kvpacked_func(q, kv, **OPTIONS, backend=backend),
        lambda q, k, v: flash_attn_func(q, k, v, **OPTIONS, backend=backend),
        [q, kv], [q, *kv.unbind(2)],
    )  # fmt: skip


@BACKENDS
def test_documents_of_qkv_are_those_of_q_k_and_v(backend):
    qkv = leaf(8, 3, 4, 16)
    same_with_gradients(
        lambda qkv: flash_attn_varlen_qkvpacked_func(qkv, STARTS, 5, **OPTIONS, backend=backend),
        lambda q, k, v: flash_attn_varlen_func(
            q, k, v, STARTS, STARTS, 5, 5, **OPTIONS, backend=backend
        ),
        [qkv], qkv.unbind(1),
    )  # fmt: skip


@BACKENDS
def test_documents_of_kv_are_those_of_k_and_v(backend):
    q, kv = leaf(9, 4, 16), leaf(8, 2, 2, 16, seed=1)
    where = QUERIES, STARTS, 5, 5
    same_with_gradients(
        lambda q, kv: flash_attn_varlen_kvpacked_func(q, kv, *where, **OPTIONS, backend=backend),
        lambda q, k, v: flash_attn_varlen_func(q, k, v, *where, **OPTIONS, backend=backend),
        [q, kv], [q, *kv.unbind(1)],
    )  # fmt: skip


def test_every_option_reaches_the_call():
    sink, slopes = torch.randn(4), torch.rand(4)
    options = {
        "dropout_p": 0.4, "softmax_scale": -0.3, "causal": True, "window_size": (3, 1),
        "softcap": 2.0, "alibi_slopes": slopes, "deterministic": True, "return_attn_probs": True,
        "backend": "reference", "sink": sink, "dropout_seed": 7,
    }  # fmt: skip
    qkv, packed = leaf(2, 8, 3, 4, 16), leaf(8, 3, 4, 16)
    for found, right in (
        (flash_attn_qkvpacked_func(qkv, **options), flash_attn_func(*qkv.unbind(2), **options)),
        (
            flash_attn_kvpacked_func(qkv[:, :, 0], qkv[:, :, 1:], **options),
            flash_attn_func(*qkv.unbind(2), **options),
        ),
        (
            flash_attn_varlen_qkvpacked_func(packed, STARTS, 5, **options),
            flash_attn_varlen_func(*packed.unbind(1), STARTS, STARTS, 5, 5, **options),
        ),
        (
            flash_attn_varlen_kvpacked_func(
                packed[:, 0], packed[:, 1:], STARTS, STARTS, 5, 5, **options
            ),
            flash_attn_varlen_func(*packed.unbind(1), STARTS, STARTS, 5, 5, **options),
        ),
    ):
        assert all(map(torch.equal, found, right))


def test_a_kernel_gets_views_of_what_was_packed(monkeypatch):
    seen = []
    forward = ReferenceBackend.forward

    def looking(self, q, keys, *rest):
        seen.extend([q, *keys])
        return forward(self, q, keys, *rest)

    monkeypatch.setattr(ReferenceBackend, "forward", looking)
    qkv = leaf(2, 8, 3, 4, 16)
    flash_attn_qkvpacked_func(qkv, backend="reference")

    assert [x.data_ptr() for x in seen] == [qkv[:, :, part].data_ptr() for part in range(3)]
    assert all(x.stride() == qkv[:, :, 0].stride() for x in seen)
    assert all(x.stride(-1) == 1 for x in seen)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: flash_attn_qkvpacked_func(leaf(2, 8, 2, 4, 16)),
            r"qkv must have shape \(batch, tokens, 3, heads, dim\), got \(2, 8, 2, 4, 16\)",
        ),
        (lambda: flash_attn_qkvpacked_func(leaf(8, 3, 4, 16)), r"got \(8, 3, 4, 16\)"),
        (
            lambda: flash_attn_kvpacked_func(leaf(2, 8, 4, 16), leaf(2, 8, 3, 4, 16)),
            r"kv must have shape \(batch, tokens, 2, heads, dim\)",
        ),
        (
            lambda: flash_attn_varlen_qkvpacked_func(leaf(2, 8, 3, 4, 16), STARTS, 5),
            r"qkv must have shape \(tokens, 3, heads, dim\), got \(2, 8, 3, 4, 16\)",
        ),
        (
            lambda: flash_attn_varlen_kvpacked_func(
                leaf(8, 4, 16), leaf(8, 3, 4, 16), STARTS, STARTS, 5, 5
            ),
            r"kv must have shape \(tokens, 2, heads, dim\)",
        ),
        (lambda: flash_attn_qkvpacked_func(None), "qkv must be a tensor and have shape .*NoneType"),
        (
            lambda: flash_attn_kvpacked_func(leaf(1, 8, 3, 16), leaf(1, 8, 2, 2, 16)),
            "query heads must be a multiple",
        ),
        (
            lambda: flash_attn_varlen_qkvpacked_func(leaf(8, 3, 4, 16), STARTS, 4),
            r"^max_seqlen is 4, but a document has 5 tokens",
        ),
        (
            lambda: flash_attn_varlen_qkvpacked_func(leaf(8, 3, 4, 16), STARTS.long(), 5),
            "^cu_seqlens is int64; it must be int32",
        ),
        (
            lambda: flash_attn_varlen_qkvpacked_func(leaf(8, 3, 4, 16), STARTS.to("meta"), 5),
            "^cu_seqlens is on meta",
        ),
    ],
)
def test_what_is_packed_otherwise_is_a_sentence_in_the_functions_own_words(call, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        call()
