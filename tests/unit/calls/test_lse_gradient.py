"""The gradient of lse, alone and beside out's, whether a kernel is told delta or computes its own.

The truth is dense, in float64, and differentiated by autograd.
"""

from dataclasses import replace

import pytest
import torch

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.calls.attend import attend
from ring_attn_bench.calls.lse_gradient import with_lse
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.prepare import prepared
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.one_device.call import OneDevice
from ring_attn_bench.registry import load
from tests.dense_truth import truth

BACKENDS = pytest.mark.parametrize("backend", ["reference", "aten"])
"""Told delta, and with one of its own."""
USED = pytest.mark.parametrize("used", ["lse", "out and lse"])


def tensors(rows=6, keys=9, dtype=torch.float64):
    random = torch.Generator().manual_seed(2)
    shapes = [(1, rows, 4, 8), (1, keys, 2, 8), (1, keys, 2, 8)]
    leaves = [torch.randn(s, generator=random, dtype=dtype).requires_grad_() for s in shapes]
    dout = torch.randn(1, rows, 4, 8, generator=random, dtype=dtype)
    dlse = torch.randn(1, 4, rows, generator=random, dtype=dtype)
    return leaves, dout, dlse


def loss(found, dout, dlse, used):
    of_lse = (found[1] * dlse).sum()
    return of_lse if used == "lse" else of_lse + (found[0] * dout).sum()


def assert_gradients_are_the_truth(found, right, leaves, dout, dlse, used, atol=1e-12):
    gradients = torch.autograd.grad(loss(found, dout, dlse, used), leaves, allow_unused=True)
    expected = torch.autograd.grad(loss(right, dout, dlse, used), leaves, allow_unused=True)
    for a, b, x in zip(gradients, expected, leaves, strict=True):
        a, b = (torch.zeros_like(x) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@BACKENDS
@USED
@pytest.mark.parametrize("with_sink", [False, True], ids=["", "sink"])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_lse_is_differentiable_on_one_device(backend, used, with_sink, causal):
    leaves, dout, dlse = tensors()
    options = {"causal": causal}
    if with_sink:
        options["sink"] = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()

    found = flash_attn_func(*leaves, return_attn_probs=True, backend=backend, **options)

    inputs = [*leaves, *([options["sink"]] if with_sink else [])]
    assert_gradients_are_the_truth(found, truth(*leaves, **options), inputs, dout, dlse, used)


@BACKENDS
@USED
def test_lse_is_differentiable_in_documents(backend, used):
    (q, k, v), dout, dlse = tensors(6, 6)
    starts, lengths = torch.tensor([0, 2, 2, 6], dtype=torch.int32), [2, 0, 4]

    out, lse, _ = flash_attn_varlen_func(
        q[0], k[0], v[0], starts, starts, 4, 4, causal=True, return_attn_probs=True, backend=backend
    )

    parts = zip(*(x.split(lengths, 1) for x in (q, k, v)), strict=True)
    each = [truth(*part, causal=True) for part in parts]
    right = torch.cat([one for one, _ in each], 1), torch.cat([one for _, one in each], 2)
    assert_gradients_are_the_truth((out[None], lse[None]), right, [q, k, v], dout, dlse, used)


@BACKENDS
def test_rows_that_see_nothing_pass_no_gradient_of_lse_on(backend):
    """Whatever is asked of them: exp(lse - other) of two such rows is NaN."""
    leaves, _, dlse = tensors(7, 4)
    found = flash_attn_func(*leaves, causal=True, return_attn_probs=True, backend=backend)
    unseen = found[1].isneginf()
    assert unseen.any()
    gradients = torch.autograd.grad(found[1], leaves, dlse.masked_fill(unseen, float("nan")))
    _, lse = truth(*leaves, causal=True)
    expected = torch.autograd.grad(lse, leaves[:2], dlse.masked_fill(unseen, 0.0))

    for a, b in zip(gradients, [e.nan_to_num() for e in expected], strict=False):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


class OwnDelta:
    """The reference, as a kernel that computes delta by itself."""

    needs_delta = False

    def __init__(self):
        self._kernel = load("reference")

    def __getattr__(self, name):
        return getattr(self._kernel, name)

    def backward(self, rows, keys, block, score, *, deterministic):
        own = rows._replace(delta=(rows.dout * rows.out).sum(-1).transpose(1, 2))
        return self._kernel.backward(own, keys, block, score, deterministic=deterministic)


@USED
def test_what_dropout_drops_is_not_dropped_of_lse(used):
    (q, k, v), dout, dlse = tensors()
    options = Options("reference", dropout_p=0.5, dropout_seed=3, softcap=1.5)
    told, given, _ = prepared(q, k, v, options, OneDevice())
    told = told.seeded(3)
    by_itself = replace(told, backend=OwnDelta())

    results = [
        torch.autograd.grad(
            loss(attend(call, given, return_attn_probs=True), dout, dlse, used), (q, k)
        )
        for call in (told, by_itself)
    ]

    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gradient_of_any_size_keeps_its_digits_in_half_precision(dtype, size):
    """Two columns of a half precision are 16 bits or more."""
    random = torch.Generator().manual_seed(4)
    q, k, v = (torch.zeros(1, 64, 2, 8, dtype=dtype) for _ in range(3))
    dlse = size * torch.rand(1, 2, 64, generator=random).add(0.1)
    seen = []

    def kernel(rows: Rows, keys: Keys, score: object) -> Sums:
        dp = torch.einsum("bmhe,bnhe->bhmn", rows.dout.double(), keys.v.double())
        seen.append(dp[..., 0])
        return Sums(*(torch.zeros_like(x) for x in (rows.q, *keys)))

    rows = Rows(q, torch.ones_like(q), torch.ones_like(q), torch.zeros(1, 2, 64))
    with_lse(kernel, rows, Keys(k, v), load_score(), dlse)

    ratio = seen[1] / dlse.double()
    assert (ratio / ratio[0, 0, 0] - 1).abs().max() < 2**-15


def load_score():
    return Options().score(8)
