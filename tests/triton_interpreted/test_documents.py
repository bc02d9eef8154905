"""Rings of packed documents by our kernels, interpreted: in one launch, and block by block."""

import os
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_bench.contract.backend import abilities
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plan
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.sharding import join_shards, shard
from tests.packed_truth import expected
from tests.triton_interpreted.checking import BACKEND, error
from tests.triton_interpreted.test_accumulating import MARGIN, MASK

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]

WORLD, TOKENS = 2, 80
STARTS = (0, 3, 75, 75, 92, 151)
"""Within a tile, over the ends of chunks and of shards, empty; nine tokens of padding."""


@dataclass(frozen=True)
class Packed:
    """A ring in one process of two query heads to a key head, 16 columns each."""

    mask: Mask = MASK
    one_launch: bool = True
    softcap: float = 0.0
    alibi: bool = False

    def jobs(self, partition):
        grouping = (WORLD - 1,) if self.one_launch else None
        layout = Layout(
            PARTITIONS[partition], WORLD, TOKENS, self.mask.band, 2, grouping, self.one_launch,
            STARTS,
        )  # fmt: skip
        slopes = torch.tensor([0.4, 0.1]) if self.alibi else None
        score = Score(0.25, self.softcap, slopes)
        able = abilities(BACKEND, alibi=self.alibi)
        plans = [plan(layout, rank, able) for rank in range(WORLD)]
        assert all(one.gathers is self.one_launch for one in plans)
        return [Job(one, BACKEND, score, torch.float32) for one in plans]

    def truth(self, q, k, v, dout):
        documents = [(slice(a, b), slice(a, b)) for a, b in pairwise(STARTS)]
        window = (
            -1 if self.mask.window_left is None else self.mask.window_left,
            -1 if self.mask.window_right is None else self.mask.window_right,
        )
        return expected(
            *(x[0] for x in (q, k, v, dout)), documents, causal=self.mask.causal,
            window_size=window, softcap=self.softcap,
            alibi_slopes=torch.tensor([0.4, 0.1]) if self.alibi else None,
        )  # fmt: skip


RINGS = {
    "one launch": Packed(),
    "one launch, full": Packed(Mask()),
    "one launch, window on both sides, ALiBi": Packed(Mask(False, 30, 9), alibi=True),
    "by blocks, window, softcap": Packed(Mask(True, 25), one_launch=False, softcap=2.0),
}


@pytest.mark.parametrize("ring", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize(
    "partition",
    ["zigzag", *(pytest.param(x, marks=pytest.mark.full) for x in ("contiguous", "striped"))],
)
def test_a_ring_of_documents_is_as_good_as_plain_torch(partition, ring):
    random = torch.Generator().manual_seed(3)
    tensors = [
        torch.randn(1, WORLD * TOKENS, heads, 16, generator=random).to(torch.float16)
        for heads in (2, 1, 1, 2)
    ]
    for x in tensors:
        x[:, STARTS[-1] :] = 0.0  # as the functions hand padding over
    jobs = ring.jobs(partition)
    cut = [[shard(x, rank, WORLD, partition) for x in tensors] for rank in range(WORLD)]
    outputs = passes.loopback_forward(jobs, [(q, Keys(k, v)) for q, k, v, _ in cut])
    shards = [
        (Rows(q, dout, *result), Keys(k, v))
        for (q, k, v, dout), result in zip(cut, outputs, strict=True)
    ]
    gradients = passes.loopback_backward(jobs, shards)
    parts = zip(*((*a, *b) for a, b in zip(outputs, gradients, strict=True)), strict=True)
    right = ring.truth(*tensors)
    for name, got in zip(("out", "lse", "dq", "dk", "dv"), parts, strict=True):
        whole = join_shards(list(got), partition, 2 if name == "lse" else 1)[0].double()
        wanted = right[name]
        assert torch.equal(whole.isneginf(), wanted.isneginf())
        whole, wanted = (x.masked_fill(x.isneginf(), 0.0) for x in (whole, wanted))
        limit = 1e-5 if name == "lse" else MARGIN[torch.float16]  # lse is float32
        assert error(whole, wanted) < limit * max(1.0, float(wanted.abs().max())), name


def test_a_line_is_of_one_document_and_a_padded_one_visits_nothing():
    found = [step.gathered for job in Packed().jobs("zigzag") for step in job.plan.steps]
    lines = [line for where in found if where is not None for line in where.rows]
    assert sum(len(line.tokens) for line in lines if not line.visits) == WORLD * TOKENS - STARTS[-1]
