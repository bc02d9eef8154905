"""Queries that are others than the keys, dealt to ranks: more of them or fewer, in documents."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from ring_attn_bench import RingContext, RingOptions, documents, ring_attn_varlen_func
from ring_attn_bench import shard_documents as dealt
from tests.distributed.pool import Raised, Ring
from tests.packed_truth import expected


@dataclass(frozen=True)
class Cross:
    """A call of three ranks. queries, keys: where their documents begin."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    partitions: tuple[str, str] = ("zigzag", "zigzag")
    causal: bool = False
    window: tuple[int, int] = (-1, -1)
    alibi: bool = False
    sink: bool = False
    schedule: str = "auto"
    dropout_p: float = 0.0
    ranks: int = 3

    @property
    def options(self) -> dict[str, object]:
        slopes = torch.tensor([0.5, 0.1]) if self.alibi else None
        return {"causal": self.causal, "window_size": self.window, "alibi_slopes": slopes}

    @property
    def sinks(self) -> torch.Tensor | None:
        return torch.tensor([0.5, -1.0], dtype=torch.float64) if self.sink else None

    @property
    def values(self) -> list:
        """The documents of queries, and of keys."""
        return [
            documents(starts, name, self.ranks, uneven=True)
            for starts, name in zip((self.queries, self.keys), self.partitions, strict=True)
        ]

    def inputs(self) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(7)
        ends = self.queries[-1], self.keys[-1], self.keys[-1], self.queries[-1]
        return [
            torch.randn(end, heads, 8, generator=generator, dtype=torch.float64)
            for end, heads in zip(ends, (2, 1, 1, 2), strict=True)
        ]


def attend(ring: Ring, case: Cross) -> dict[str, torch.Tensor]:
    sides, (queries, keys) = (0, 1, 1, 0), case.values
    leaves = [
        dealt(x, (queries, keys)[side], ring.rank).requires_grad_()
        for x, side in zip(case.inputs(), sides, strict=True)
    ]
    *leaves, dout = leaves
    sink = case.sinks.requires_grad_() if case.sink else None
    with RingContext(ring.group, RingOptions(schedule=case.schedule)) as context:
        out, lse, _ = ring_attn_varlen_func(
            *leaves, keys, queries=queries, return_attn_probs=True, context=context, sink=sink,
            backend="reference", dropout_p=case.dropout_p, dropout_seed=3, **case.options,
        )  # fmt: skip
        wanted = leaves if sink is None else [*leaves, sink]
        gradients = torch.autograd.grad(out, wanted, dout.detach())
    found = {"out": out.detach(), "lse": lse.detach()}
    return found | dict(zip(("dq", "dk", "dv", "dsink"), gradients, strict=False))


def joined(case: Cross, found: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    queries, keys = case.values
    whole = {}
    for name in found[0]:
        if name == "dsink":
            whole[name] = sum(x[name] for x in found)
            continue
        side, dim = keys if name in ("dk", "dv") else queries, 1 if name == "lse" else 0
        at = torch.arange(side.starts[-1])
        order = torch.cat([dealt(at, side, rank) for rank in range(case.ranks)]).argsort()
        whole[name] = torch.cat([x[name] for x in found], dim).index_select(dim, order)
    return whole


def faults(case: Cross, found: list[dict[str, torch.Tensor]]) -> list[str]:
    apart = [
        (slice(*q), slice(*k))
        for q, k in zip(pairwise(case.queries), pairwise(case.keys), strict=True)
    ]
    right = expected(*case.inputs(), apart, sink=case.sinks, **case.options)
    results = joined(case, found)
    assert set(results) == set(right)
    return [
        name for name, x in right.items()
        if not torch.allclose(results[name], x, rtol=0, atol=1e-12)
    ]  # fmt: skip


CASES = {
    "few queries, causal": Cross((0, 5), (0, 23), causal=True),
    "many queries, causal, most see nothing": Cross((0, 23), (0, 5), causal=True),
    "one query": Cross((0, 1), (0, 17)),
    "documents": Cross((0, 4, 4, 15), (0, 9, 13, 13), causal=True, sink=True),
    "windows": Cross((0, 11, 30), (0, 14, 20), window=(4, 2)),
    "ALiBi": Cross((0, 7, 12), (0, 12, 31), causal=True, alibi=True),
}


@pytest.mark.parametrize("schedule", ["auto", "steps", "gather"])
@pytest.mark.parametrize("name", CASES)
def test_a_call_is_right(ranks, name, schedule):
    for partitions in (("zigzag", "zigzag"), ("striped", "striped"), ("contiguous", "head_tail")):
        case = Cross(**{**CASES[name].__dict__, "partitions": partitions, "schedule": schedule})
        assert faults(case, ranks.run(attend, case, world_size=3)) == [], case


@pytest.mark.parametrize("schedule", ["auto", "steps", "gather"])
@pytest.mark.parametrize("partitions", [("contiguous", "striped"), ("striped", "zigzag")])
def test_a_token_for_each_rank_is_dealt_by_stripes_and_not(ranks, partitions, schedule):
    for queries, keys in (((0, 1), (0, 17)), ((0, 1, 3), (0, 6, 12)), ((0, 8, 12), (0, 1, 3))):
        one = partitions if len(queries) and queries[-1] <= 3 else partitions[::-1]
        case = Cross(queries, keys, one, causal=True, alibi=True, schedule=schedule)
        assert faults(case, ranks.run(attend, case, world_size=3)) == [], case


def test_what_is_dropped_follows_from_no_partition(ranks):
    found = [
        joined(case, ranks.run(attend, case, world_size=3))["out"]
        for partitions in (("zigzag", "zigzag"), ("striped", "striped"))
        for case in [Cross((0, 9, 20), (0, 4, 25), partitions, dropout_p=0.4)]
    ]
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def wrongly(ring: Ring, queries: object) -> None:
    q, k = torch.zeros(4, 2, 8), torch.zeros(8, 2, 8)
    told = queries if ring.rank == 1 else [0, 12]
    ring_attn_varlen_func(
        q, k, k, [0, 24], partition="zigzag", queries=told, backend="reference", group=ring.group
    )


@pytest.mark.parametrize(
    ("queries", "said", "elsewhere"),
    [
        ([0, 6, 12], "of 2 documents and the keys of 1", "refused its arguments"),
        ([0, 13], "end at 13, but the ranks hold 12", "refused its arguments"),
        (None, "are told by queries=", "refused its arguments"),
        ([0, 11], "another cu_seqlens of queries", "another cu_seqlens of queries"),
    ],
)
def test_a_mistake_on_one_rank_is_a_sentence_on_all(ranks, queries, said, elsewhere):
    other, wrong, _ = ranks.outcomes(wrongly, queries, world_size=3)
    assert isinstance(wrong, Raised)
    assert isinstance(other, Raised)
    assert said in wrong.text, wrong.traceback
    assert elsewhere in other.text
