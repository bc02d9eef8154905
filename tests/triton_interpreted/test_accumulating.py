"""Kernels that go on from what is there, and whole rings of them, interpreted on a CPU."""

import os
from dataclasses import dataclass, replace

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_backends.triton import TritonBackend

from ring_attn_bench.calls import kernel
from ring_attn_bench.contract.backend import AccumulatingBackend, abilities
from ring_attn_bench.contract.dropout import keep
from ring_attn_bench.contract.tensors import Keys, Rows, Running, Sums
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plan
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.forward import ForwardPass, Job
from ring_attn_bench.ring.transports.loopback import Loopback
from ring_attn_bench.sharding import join_shards, shard
from ring_attn_bench.truth import oracle
from tests.triton_interpreted.checking import (
    BACKEND,
    CAUSAL,
    REFERENCE,
    Case,
    computed,
    error,
    row_sum,
    wide,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]

ROWS = (Span(0, 70), Span(430, 70))
PARTS = [(Span(0, 70), Span(430, 70)), (Span(70, 64),), (Span(360, 33), Span(200, 40))]
MARGIN = {torch.float32: 1e-5, torch.float16: 4e-3}


@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.float32, marks=pytest.mark.full)], ids=str
)
@pytest.mark.parametrize(
    "features",
    [{}, {"dropout_p": 0.3}, {"alibi": True, "softcap": 3.0, "groups": 1}, {"band": Band(0, 250)}],
    ids=str,
)
def test_blocks_one_after_another_are_the_attention_over_all_of_them(features, dtype):
    whole = Case(ROWS, tuple(s for part in PARTS for s in part), **{"band": CAUSAL, **features})
    q, k, v, dout = whole.tensors(dtype)
    true = computed(REFERENCE, whole, *wide((q, k, v, dout)))
    delta = row_sum(dout, true[0], torch.float64).float()
    acc, lse = torch.full(q.shape, torch.nan), torch.full((1, 2, 140), torch.nan)
    dq = torch.full(q.shape, torch.nan)
    dk, dv = torch.full(k.shape, torch.nan, dtype=dtype), torch.full(v.shape, torch.nan)
    target, at = torch.full_like(q, torch.nan), 0
    for index, spans in enumerate(PARTS):
        part = replace(whole, keys=spans)
        keys = slice(at, at := at + part.block.key_count)
        first, last = index == 0, index + 1 == len(PARTS)
        given = Keys(k[:, keys], v[:, keys])
        running = Running(acc, lse, target if last else None)
        BACKEND.forward_into(q, given, running, part.block, part.score, first=first)
        BACKEND.backward_into(
            Rows(q, dout, true[0].to(dtype), true[1].float(), delta), given,
            Sums(dq, dk[:, keys], dv[:, keys]), part.block, part.score,
            first=first, first_keys=True, deterministic=False,
        )  # fmt: skip

    for got, right in zip((target, lse, dq, dk, dv), true, strict=True):
        assert error(got, right) < MARGIN[dtype] * max(1.0, float(right.abs().max()))


def test_gradients_of_keys_are_added_to_those_that_are_there():
    case = Case(60, 70, groups=1, band=CAUSAL)
    q, k, v, dout = case.tensors(torch.float16)
    out, lse, *once = computed(BACKEND, case, q, k, v, dout)
    delta = row_sum(dout, out, torch.float32)
    shares, sums = ([torch.ones_like(x, dtype=torch.float32) for x in once] for _ in range(2))
    for into, first in ((shares, True), (sums, False)):
        BACKEND.backward_into(
            Rows(q, dout, out, lse, delta), Keys(k, v), Sums(*into), case.block, case.score,
            first=first, first_keys=first, deterministic=True,
        )  # fmt: skip

    for total, share, rounded in zip(sums, shares, once, strict=True):
        assert torch.equal(total, 1 + share)
        assert torch.equal(share.half(), rounded)


def test_several_chunks_of_rows_add_up_in_float32_whatever_the_gradients_travel_in():
    rows = tuple(Span(100 * i, 20) for i in range(6))
    case = Case(rows, (Span(0, 40), Span(300, 30)), band=CAUSAL, head_dim=16)
    q, k, v, dout = case.tensors(torch.float16)
    out, lse, *right = computed(BACKEND, case, q, k, v, dout)
    delta = row_sum(dout, out, torch.float32)
    dq = torch.empty_like(right[0])
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    BACKEND.backward_into(
        Rows(q, dout, out, lse, delta), Keys(k, v), Sums(dq, dk, dv), case.block, case.score,
        first=True, first_keys=True, deterministic=True,
    )  # fmt: skip

    assert torch.equal(dq, right[0])
    assert torch.equal(dk, right[1].half())
    assert torch.equal(dv, right[2].half())


@pytest.mark.parametrize(
    ("old", "new"), [(1e4, -1e4), (-1e4, 1e4), (80.0, 80.0), (float("inf"), 0.0)]
)
def test_huge_weights_do_not_overflow_and_an_infinite_one_is_handed_on(old, new):
    """q.k is `new` for each of 30 keys; what is there has lse `old` and out 1."""
    q, k = torch.full((1, 5, 1, 16), new / 16), torch.ones(1, 30, 1, 16)
    acc, lse = torch.ones(1, 5, 1, 16), torch.full((1, 1, 5), old)
    acc *= torch.nan if old == float("inf") else 1.0
    case = Case(5, 30, heads=1, groups=1, head_dim=16, softmax_scale=1.0)
    running = Running(acc, lse)
    BACKEND.forward_into(q, Keys(k, 3 * k), running, case.block, case.score, first=False)
    own = torch.tensor(new, dtype=torch.float64) + torch.tensor(30.0).log()
    total = torch.logaddexp(torch.tensor(old, dtype=torch.float64), own)
    share = torch.exp(own - total)

    torch.testing.assert_close(lse.double(), total.expand(1, 1, 5), rtol=1e-6, atol=0)
    right = torch.nan if old == float("inf") else float(1 + 2 * share)
    torch.testing.assert_close(acc, torch.full_like(acc, right), equal_nan=True)


MASK = Mask(causal=True)


@dataclass(frozen=True)
class Ring:
    """A ring in one process; `tokens` for each rank."""

    mask: Mask = MASK
    tokens: int = 20
    world_size: int = 4
    heads: int = 2
    key_heads: int = 2
    softcap: float = 0.0
    alibi: bool = False
    dropout_p: float = 0.0
    gather: bool = False
    by_position: bool = False
    one_launch: bool = False

    @property
    def score(self):
        slopes = 0.4 ** torch.arange(1.0, self.heads + 1) if self.alibi else None
        return Score(0.25, self.softcap, slopes, self.dropout_p, 2**33 + 5)

    def jobs(self, partition, gradients):
        layout = Layout(
            PARTITIONS[partition], self.world_size, self.tokens, self.mask.band, 2,
            (self.world_size - 1,) if self.gather or self.one_launch else None, self.one_launch,
        )  # fmt: skip
        backend = TritonBackend(by_position=self.by_position)
        able = abilities(backend, alibi=self.alibi, dropout=self.dropout_p > 0)
        plans = [plan(layout, rank, able) for rank in range(self.world_size)]
        return [Job(p, backend, self.score, gradients) for p in plans]

    def inputs(self, dtype):
        """dout, q, k, v of the whole sequence."""
        random = torch.Generator().manual_seed(5)
        shape = (1, self.tokens * self.world_size)
        heads = (self.heads, self.heads, self.key_heads, self.key_heads)
        return [torch.randn(*shape, h, 16, generator=random).to(dtype) for h in heads]

    def truth(self, tensors):
        dout, q, k, v = wide(tensors)
        at = torch.arange(q.shape[1])
        stays = None
        if self.dropout_p:
            stays = keep(self.score.dropout_seed, self.dropout_p, 1, self.heads, at, at)
        asked = oracle.Inquiry(at, at, self.mask, self.score, stays)
        out, lse = oracle.forward(q, k, v, asked)
        return out, lse, *oracle.backward(dout, q, k, v, out, lse, asked)


RINGS = {
    "full": Ring(Mask()),
    "causal": Ring(),
    "causal, one rank": Ring(world_size=1, tokens=150),
    "grouped heads": Ring(heads=4, key_heads=2, world_size=3),
    "gather": Ring(gather=True),
    "gather, by position": Ring(gather=True, by_position=True),
    "window": Ring(Mask(True, 25)),
    "window, by position": Ring(Mask(True, 25), by_position=True),
    "window on both sides, gather": Ring(Mask(False, 9, 14), gather=True),
    "ALiBi": Ring(alibi=True),
    "ALiBi, gather, softcap": Ring(alibi=True, gather=True, softcap=2.0),
    "dropout": Ring(dropout_p=0.3),
    "dropout, ALiBi, window, gather, by position": Ring(
        Mask(True, 30), alibi=True, dropout_p=0.2, gather=True, by_position=True
    ),
    "one launch": Ring(heads=4, one_launch=True),
    "one launch, ALiBi, dropout, window": Ring(
        Mask(False, 30, 9), alibi=True, dropout_p=0.2, one_launch=True
    ),
}


ON_ALL = {"causal", "window, by position", "ALiBi, gather, softcap", "one launch"}
"""The rings that meet every partition by default; the others are zigzag's alone, or --full's."""


@pytest.mark.parametrize(
    ("partition", "question"),
    [
        pytest.param(
            partition, ring, id=f"{partition}-{name}",
            marks=[] if partition == "zigzag" or name in ON_ALL else [pytest.mark.full],
        )
        for partition in PARTITIONS
        for name, ring in RINGS.items()
    ],
)  # fmt: skip
def test_a_ring_merges_in_its_kernels_and_nowhere_else(partition, question, monkeypatch):
    assert isinstance(BACKEND, AccumulatingBackend)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    for name in ("forward", "backward"):
        monkeypatch.setattr(kernel, name, None)
    monkeypatch.setattr("ring_attn_bench.ring.forward.merge", None)
    dtype = torch.float16
    tensors, world_size = question.inputs(dtype), question.world_size
    jobs = question.jobs(partition, torch.float32)
    cut = [[shard(x, r, world_size, partition) for x in tensors] for r in range(world_size)]
    outputs = passes.loopback_forward(jobs, [(q, Keys(k, v)) for _, q, k, v in cut])
    shards = [
        (Rows(q, dout, *result), Keys(k, v))
        for (dout, q, k, v), result in zip(cut, outputs, strict=True)
    ]
    gradients = passes.loopback_backward(jobs, shards)
    parts = zip(*((*a, *b) for a, b in zip(outputs, gradients, strict=True)), strict=True)
    for index, (got, right) in enumerate(zip(parts, question.truth(tensors), strict=True)):
        whole = join_shards(list(got), partition, 2 if index == 1 else 1)
        limit = 1e-5 if index == 1 else MARGIN[dtype]  # lse is float32
        assert error(whole, right) < limit * max(1.0, float(right.abs().max()))
        assert whole.dtype is (torch.float32 if index == 1 else dtype)


def test_the_same_weights_are_dropped_on_any_ring_and_by_any_partition():
    question = Ring(Mask(), dropout_p=0.5, heads=1, key_heads=1, world_size=1, tokens=48)
    _, q, k, v = question.inputs(torch.float32)
    q, v = torch.zeros_like(q), torch.eye(48)[None, :, None, :].contiguous()
    found = []
    for partition, world_size in (("contiguous", 1), ("zigzag", 3), ("striped", 4), ("zigzag", 2)):
        ring = replace(question, world_size=world_size, tokens=48 // world_size)
        jobs = ring.jobs(partition, torch.float32)
        shards = [
            tuple(shard(x, rank, world_size, partition) for x in (q, k, v))
            for rank in range(world_size)
        ]
        outs = [
            out for out, _ in passes.loopback_forward(jobs, [(q, Keys(k, v)) for q, k, v in shards])
        ]
        found.append(join_shards(outs, partition, 1) != 0)

    assert all(torch.equal(found[0], other) for other in found[1:])
    at = torch.arange(48)
    assert torch.equal(found[0][0, :, 0], keep(2**33 + 5, 0.5, 1, 1, at, at)[0, 0])


def test_a_sink_is_what_the_kernels_go_on_from():
    question = Ring(world_size=1, tokens=40)
    _, q, k, v = question.inputs(torch.float32)
    sink = torch.tensor([0.7, -1.0])
    (job,) = question.jobs("contiguous", torch.float32)
    out, lse = passes.run(ForwardPass(job, Loopback(), q, Keys(k, v), sink))
    at = torch.arange(40)
    asked = oracle.Inquiry(at, at, question.mask, question.score)
    plain, plain_lse = oracle.forward(*wide((q, k, v)), asked)
    right_lse = torch.logaddexp(plain_lse, sink.double()[None, :, None])
    right = plain * torch.exp(plain_lse - right_lse).transpose(1, 2)[..., None]

    torch.testing.assert_close(lse.double(), right_lse, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.double(), right, rtol=0, atol=1e-5)
