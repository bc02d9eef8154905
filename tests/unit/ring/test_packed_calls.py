"""Rings of documents by packed calls, in one process, against float64: each document by itself."""

from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.document_sharding import dealt_documents
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.layout import Queries
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.problem import Mask, Problem, Score
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.backend_choice import able
from ring_attn_bench.ring.jobs import jobs
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.settle import laid_out, one_launch_is_ruled, settled
from tests.packed_truth import NAMES, expected
from tests.unit.ring.packing_backend import PackingBackend

DIM, DIM_V = 4, 2
CAUSAL = Mask(causal=True)


@pytest.fixture(autouse=True)
def _memory_is_nan_until_written(monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    mode = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True)
    yield
    torch.set_deterministic_debug_mode(mode)


@dataclass(frozen=True)
class Asked:
    """A ring of documents, all of whose ranks are played; queries: where they begin, if others."""

    ranks: int
    starts: tuple[int, ...]
    partition: str = "contiguous"
    mask: Mask = CAUSAL
    schedule: str = "auto"
    heads: int = 2
    key_heads: int = 2
    softcap: float = 0.0
    alibi: bool = False
    keeps: bool = False
    dropout_p: float = 0.0
    queries: tuple[int, ...] | None = None

    @property
    def score(self):
        slopes = 0.5 ** torch.arange(1.0, self.heads + 1) if self.alibi else None
        return Score(DIM**-0.5, self.softcap, slopes, self.dropout_p, 7)

    def dealt(self, starts):
        mask = self.mask
        left, right = (-1 if x is None else x for x in (mask.window_left, mask.window_right))
        return dealt_documents(
            starts, self.partition, self.ranks, causal=mask.causal, window_size=(left, right),
            uneven=True,
        )  # fmt: skip

    def inputs(self):
        """q, k, v and dout of the packed sequences."""
        random = torch.Generator().manual_seed(3)
        rows = self.starts[-1] if self.queries is None else self.queries[-1]
        shapes = ((rows, self.heads, DIM), (self.starts[-1], self.key_heads, DIM),
                  (self.starts[-1], self.key_heads, DIM_V), (rows, self.heads, DIM_V))  # fmt: skip
        return [torch.randn(*s, generator=random, dtype=torch.float64) for s in shapes]

    def truth(self):
        starts = self.starts if self.queries is None else self.queries
        both = zip(pairwise(starts), pairwise(self.starts), strict=True)
        apart = [(slice(*rows), slice(*keys)) for rows, keys in both]
        mask = self.mask
        left, right = (-1 if x is None else x for x in (mask.window_left, mask.window_right))
        return expected(
            *self.inputs(), apart, causal=mask.causal, window_size=(left, right),
            softcap=self.softcap, alibi_slopes=self.score.alibi_slopes,
        )  # fmt: skip


class Side:
    """A packed sequence and who holds what of it."""

    def __init__(self, dealt):
        self.dealt = dealt
        every = range(dealt.world_size)
        self.places = [
            torch.tensor([at for span in dealt.spans(rank) for at in span.positions()])
            for rank in every
        ]

    def deal(self, x, padding=0.0):
        whole = self.dealt.world_size * self.dealt.tokens
        x = torch.cat([x, x.new_full((whole - len(x), *x.shape[1:]), padding)])
        return [x[at][None] for at in self.places]

    def joined(self, shards):
        order = torch.cat(self.places).argsort()
        return torch.cat([x[0] for x in shards])[order][: self.dealt.starts[-1]]


def attend(asked, backend):
    """The packed sequence's results, by name."""
    keys = Side(asked.dealt(asked.starts))
    rows, queries = keys, None
    if asked.queries is not None:
        rows = Side(asked.dealt(asked.queries))
        queries = Queries(rows.dealt.partition, rows.dealt.tokens, rows.dealt.starts)
    where = keys.dealt.partition, asked.ranks, keys.dealt.tokens, asked.mask
    problem = Problem(
        1, asked.ranks * keys.dealt.tokens, asked.heads, asked.key_heads, DIM, DIM_V, "float64",
        "cpu", asked.mask, asked.softcap, asked.alibi, asked.dropout_p,
    )  # fmt: skip
    blocks = able(backend, problem, documents=True)
    waits = one_launch_is_ruled(blocks, *where[:3], arrives=False, documents=True)
    options = RingOptions(schedule=asked.schedule, keep_keys=asked.keeps)
    took = settled(*where, options, waits=waits, documents=keys.dealt.starts, queries=queries)
    layout = laid_out(*where, took, keys.dealt.starts, queries)
    made = jobs(problem, layout, backend, asked.score, options, range(asked.ranks))
    q, k, v, dout = asked.inputs()
    shards = [Keys(*x) for x in zip(keys.deal(k), keys.deal(v), strict=True)]
    every = list(zip(rows.deal(q), shards, strict=True))
    if asked.keeps:
        results, kept = zip(*passes.loopback_forward_keeping(made, every), strict=True)
    else:
        results, kept = passes.loopback_forward(made, every), None
    outs, lses = zip(*results, strict=True)
    mine = zip(rows.deal(q), rows.deal(dout), outs, lses, strict=True)
    sums = passes.loopback_backward(
        made, [(Rows(*x), y) for x, y in zip(mine, shards, strict=True)], kept
    )
    sides = rows, keys, keys
    gradients = (side.joined(x) for side, x in zip(sides, zip(*sums, strict=True), strict=True))
    lse = rows.joined([x.mT for x in lses]).mT
    return dict(zip(NAMES, (rows.joined(outs), lse, *gradients), strict=True))


def check(asked, backend):
    right = asked.truth()
    for name, found in attend(asked, backend).items():
        nowhere = right[name].isneginf()
        torch.testing.assert_close(
            found.masked_fill(nowhere, 0.0), right[name].masked_fill(nowhere, 0.0),
            rtol=0, atol=1e-12, msg=lambda said, name=name: f"{name} of {asked}: {said}",
        )  # fmt: skip


@st.composite
def questions(draw):
    ranks, side = draw(st.sampled_from([1, 2, 4])), st.none() | st.integers(0, 12)
    end = draw(st.integers(ranks, 40))
    starts = (0, *sorted(draw(st.lists(st.integers(0, end), max_size=6))), end)
    alibi = draw(st.booleans()) and draw(st.booleans())
    queries = None
    if draw(st.booleans()):
        cuts = sorted(draw(st.integers(1, 40)) for _ in starts[1:])
        queries = (0, *cuts)
    heads = draw(st.sampled_from([(2, 2), (4, 1), (6, 3)]))
    partition = draw(st.sampled_from([*PARTITIONS, *DEALS]))
    return Asked(
        ranks, starts, partition, Mask(draw(st.booleans()), draw(side), draw(side)),
        draw(st.sampled_from(["auto", "steps", "gather", "grouped"])), *heads,
        draw(st.sampled_from([0.0, 2.0])), alibi, draw(st.booleans()), queries=queries,
    )  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(questions())
def test_documents_masks_and_partitions_of_every_kind_are_right(asked):
    backend = PackingBackend()
    if asked.alibi and (asked.schedule != "auto" or asked.partition == "striped"):
        with suppress(Unsupported):  # blocks that count distances inside
            check(asked, backend)
        return
    check(asked, backend)
    assert not backend.blocks


ACROSS = (0, 1, 7, 7, 19, 22, 30)


@pytest.mark.parametrize("mask", [Mask(), Mask(True), Mask(True, 5), Mask(False, 4, 2)], ids=str)
@pytest.mark.parametrize("partition", ["contiguous", "zigzag", "balanced", "head_tail"])
def test_by_default_a_pass_is_one_launch_on_each_rank(partition, mask):
    for ranks in (1, 2, 4):
        backend = PackingBackend()
        check(Asked(ranks, ACROSS, partition, mask), backend)
        assert (backend.launches, backend.blocks) == (ranks, 0)


@pytest.mark.parametrize("partition", ["contiguous", "zigzag", "balanced", "head_tail"])
@pytest.mark.parametrize("mask", [Mask(), Mask(True), Mask(False, 4, 2)], ids=str)
def test_alibi_by_index_is_by_position_in_one_launch(partition, mask):
    backend = PackingBackend()
    check(Asked(4, ACROSS, partition, mask, alibi=True), backend)
    assert (backend.launches, backend.blocks) == (4, 0)


def test_many_documents_are_no_more_launches_than_few():
    found = []
    for starts in ((0, 10, 64), tuple(range(0, 65, 2))):
        backend = PackingBackend()
        check(Asked(4, starts, "zigzag", schedule="steps"), backend)
        found.append((backend.launches, backend.blocks))
    assert found[1][0] <= 4 * 4 * 2
    assert found[1][1] == 0


def test_stripes_go_by_steps_for_they_are_no_rows_of_one_launch():
    backend = PackingBackend()
    check(Asked(4, ACROSS, "striped"), backend)
    assert backend.blocks == 0
    with pytest.raises(Unsupported, match="rows of stripes are none"):
        check(Asked(4, ACROSS, "striped", schedule="one_launch"), backend)


@pytest.mark.parametrize("schedule", ["auto", "steps"])
def test_what_a_forward_drops_its_backward_drops(schedule):
    """out is linear in v, so that out with dout is v with dv, whatever was dropped."""
    asked = Asked(4, ACROSS, "zigzag", schedule=schedule, dropout_p=0.4)
    found, (_, _, v, dout) = attend(asked, PackingBackend()), asked.inputs()
    torch.testing.assert_close((found["out"] * dout).sum(), (found["dv"] * v).sum())
    assert not torch.allclose(found["out"], asked.truth()["out"])


def test_a_kernel_that_drops_by_position_is_not_given_packed_calls_of_it():
    backend = PackingBackend()
    backend.drops_by_position = True
    attend(Asked(2, ACROSS, dropout_p=0.4), backend)
    assert backend.launches == 0
    assert backend.blocks
