"""On a GPU: packed documents by the Triton kernels, of which Hopper's read each by TMA.

A tile's last rows lie beyond its document, in the next one or in memory that is nobody's.
"""

from __future__ import annotations

import random
from itertools import accumulate

import pytest
import torch

from ring_attn_bench import flash_attn_varlen_func
from tests.flash_attn_grid import Question, wrong

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280), pytest.mark.filterwarnings("default")]

DIMS = (64, 96, 128, 256)
LENGTHS = ((130, 200), (0, 5), (77, 77), (9, 0), (300, 129), (1, 64), (64, 1))
"""Queries and keys of documents."""
UNUSED = 101
"""Tokens behind the last document."""


def starts(side):
    found = list(accumulate((pair[side] for pair in LENGTHS), initial=0))
    return torch.tensor(found, dtype=torch.int32, device="cuda")


def inputs(dim):
    torch.manual_seed(dim)
    sizes = [sum(pair[side] for pair in LENGTHS) + UNUSED for side in (0, 1)]
    shapes = [(sizes[0], 6, dim), (sizes[1], 2, dim), (sizes[1], 2, dim), (sizes[0], 6, dim)]
    return [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes]


def results(q, k, v, dout, **options):
    """out, lse with tokens first, dq, dk, dv."""
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    longest = [max(pair[side] for pair in LENGTHS) for side in (0, 1)]
    out, lse, _ = flash_attn_varlen_func(
        *leaves, starts(0), starts(1), *longest, backend="triton", return_attn_probs=True, **options
    )
    gradients = torch.autograd.grad(out, leaves, dout)
    return [out.detach(), lse.T, *gradients]


def of_documents(found, chosen):
    """The rows of these documents only: of out, lse and dq the queries, of dk and dv the keys."""
    bounds = [starts(side).tolist() for side in (0, 1)]
    sides = (0, 0, 0, 1, 1)
    return [
        torch.cat([x[bounds[side][n] : bounds[side][n + 1]] for n in chosen])
        for x, side in zip(found, sides, strict=True)
    ]


@pytest.mark.parametrize("options", [{"causal": True}, {}, {"softcap": 5.0}], ids=str)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("spoiled", [0, 2, 4, None], ids=str)
def test_what_is_not_finite_in_a_document_or_behind_the_last_stays_there(dim, options, spoiled):
    given = inputs(dim)
    others = [n for n in range(len(LENGTHS)) if n != spoiled]
    expected = of_documents(results(*given, **options), others)
    for x, side in zip(given, (0, 1, 1, 0), strict=True):
        bounds = [*starts(side).tolist(), x.shape[0]]
        number = len(LENGTHS) if spoiled is None else spoiled
        x[bounds[number] : bounds[number + 1]] = float("nan")

    found = of_documents(results(*given, **options), others)

    assert all(torch.isfinite(x).all() for x in expected[2:])
    assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True] * 5


@pytest.mark.parametrize("seed", range(12))
def test_documents_of_any_lengths_are_right(seed):
    drawn = random.Random(seed)
    lengths = tuple(
        (drawn.choice((0, 1, 63, 64, 65, 200, 513)), drawn.choice((0, 1, 64, 127, 128, 129, 700)))
        for _ in range(drawn.randrange(1, 12))
    )
    lengths = (*lengths, (5, 5))  # there is something to compute
    question = Question(
        drawn.choice((40, *DIMS)), drawn.choice(("mha", "mqa", "gqa")), lengths,
        causal=drawn.random() < 0.5, local=drawn.random() < 0.3, softcap=drawn.random() < 0.2,
        packed=True, dtype=drawn.choice(("bfloat16", "float16")),
    )  # fmt: skip

    assert wrong([question], "cuda", "triton") == []
