"""A block's share of the gradients by autograd, against the formula and against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend
from ring_attn_backends.shared import through_autograd

from ring_attn_bench.conformance.cases import CAUSAL, FULL, LOCAL, BlockCase
from ring_attn_bench.conformance.judge import result_faults, two_block_faults
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.block import Block, Form
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import DTYPES, Mask, Score


class Differentiated(ReferenceBackend):
    """A kernel with nothing but a forward pass, in plain torch operators."""

    forms = frozenset(Form)

    def backward(self, rows, keys, block, score, *, deterministic):
        def attend(q, keys):
            return self.forward(q, keys, block, score)

        return through_autograd.share(attend, rows, keys)


CASES = [
    FULL,
    LOCAL,
    replace(LOCAL, heads=6, key_heads=2, softcap=2.5, alibi=True),
    replace(LOCAL, mask=Mask(True, 17), storage="token_major"),
    replace(FULL, dim=40, dim_v=24),
    BlockCase("rows that see nothing", (Span(0, 60),), (Span(30, 50),), CAUSAL),
    BlockCase("no row sees anything", (Span(0, 30),), (Span(30, 50),), CAUSAL),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_share_is_right_in_every_dtype(case, dtype):
    backend, case = Differentiated(), replace(case, dtype=dtype)
    assert case.refusal(backend, "cpu") is None
    assert result_faults(backend, case, "cpu", backward=True) == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_shares_of_two_blocks_are_those_of_the_whole_row(dtype):
    case = BlockCase(
        "", (Span(90, 61),), (Span(0, 151),), CAUSAL, heads=4, key_heads=2, dtype=dtype
    )
    assert two_block_faults(Differentiated(), case, "cpu", backward=True) == []


@pytest.mark.parametrize("others", [-30.0, 0.0, 3.0, 80.0, 800.0])
def test_it_is_exact_however_much_the_rest_of_the_row_weighs(others):
    """In float64 to its last bits; where the block weighs next to nothing, next to nothing."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v, dout = tensor(2, 9, 4, 8), tensor(2, 12, 2, 8), tensor(2, 12, 2, 5), tensor(2, 9, 4, 5)
    block, score = Block((Span(4, 9),), (Span(0, 12),), Band(0)), Score(0.4, 1.5)
    backend = Differentiated()
    own_out, own_lse = backend.forward(q, Keys(k, v), block, score)
    rest_lse, rest_out = own_lse + others + tensor(2, 4, 9), tensor(2, 9, 4, 5)
    lse = torch.logaddexp(own_lse, rest_lse)
    weight = torch.exp(own_lse - lse).transpose(1, 2)[..., None]
    out = weight * own_out + (1 - weight) * rest_out
    delta = (dout * out).sum(-1).transpose(1, 2)
    given = Rows(q, dout, out, lse, delta), Keys(k, v), block, score
    expected = ReferenceBackend().backward(*given, deterministic=True)
    found = backend.backward(*given, deterministic=True)
    for ours, right in zip(found, expected, strict=True):
        assert torch.allclose(ours, right, rtol=1e-11, atol=1e-14 * right.abs().max().item())
        assert ours.isfinite().all()


def test_it_works_inside_a_backward_pass_and_leaves_no_graph():
    """Where autograd is off and its engine is running."""
    q = torch.randn(1, 5, 1, 4, dtype=torch.float64)
    block, score = Block((Span(0, 5),), (Span(0, 5),), Band(0)), Score(0.5)

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            out, lse = ReferenceBackend().forward(x, Keys(x, x), block, score)
            ctx.save_for_backward(x, out, lse)
            return out

        @staticmethod
        def backward(ctx, dout):
            x, out, lse = ctx.saved_tensors
            delta = (dout * out).sum(-1).transpose(1, 2)
            found = Differentiated().backward(
                Rows(x, dout, out, lse, delta), Keys(x, x), block, score, deterministic=True
            )
            assert not any(gradient.requires_grad for gradient in found)
            return sum(found)

    assert torch.autograd.gradcheck(Attention.apply, q.requires_grad_())
