"""Whole rings in one process against float64, in memory that is NaN until something is written."""

from dataclasses import dataclass, replace

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.contract import dropout
from ring_attn_bench.contract.backend import abilities
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import Plan, plan
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.forward import ForwardPass, Job
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.settle import layout_of
from ring_attn_bench.ring.transports.loopback import Loopback
from ring_attn_bench.sharding import join_shards, shard
from ring_attn_bench.truth import oracle

BACKEND = ReferenceBackend()
CAUSAL = Mask(causal=True)
EVERY = abilities(BACKEND, alibi=True)
SPLIT = Abilities(frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW}))
"""Without blocks by position: windows come in pieces that overlap in part."""
NAMES = ("out", "lse", "dq", "dk", "dv")
BATCH, DIM, DIM_V = 2, 8, 4
UNCOPIED = ("merges_once", "adds_keys_once")
every_partition = pytest.mark.parametrize("partition", PARTITIONS)


@pytest.fixture(autouse=True)
def _memory_is_nan_until_written(monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # blocks this small spend most of their time waiting for threads
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


@dataclass(frozen=True)
class Question:
    mask: Mask = CAUSAL
    softcap: float = 0.0
    alibi: bool = False
    heads: int = 2
    key_heads: int = 2
    slots: int = 2
    gather: bool = False
    tokens: int = 6
    able: Abilities = EVERY
    one_launch: bool = False
    dropout_p: float = 0.0
    sink: bool = False
    landing_tokens: int | None = None

    @property
    def score(self):
        slopes = 0.7 ** torch.arange(1.0, self.heads + 1) if self.alibi else None
        return Score(DIM**-0.5, self.softcap, slopes, self.dropout_p, 2**33 + 5)

    @property
    def sinks(self):
        return torch.arange(self.heads, dtype=torch.float64) - 1 if self.sink else None

    def inputs(self, world_size):
        """dout, q, k, v of the whole sequence."""
        shapes = ((self.heads, DIM_V), (self.heads, DIM), (self.key_heads, DIM),
                  (self.key_heads, DIM_V))  # fmt: skip
        random = torch.Generator().manual_seed(5)
        tokens = (BATCH, self.tokens * world_size)
        return [torch.randn(*tokens, *s, generator=random, dtype=torch.float64) for s in shapes]

    def truth(self, world_size):
        dout, q, k, v = self.inputs(world_size)
        where = torch.arange(q.shape[1])
        score, keep = self.score, None
        if self.dropout_p:
            drawn = score.dropout_seed, self.dropout_p, BATCH, self.heads
            keep = dropout.keep(*drawn, where, where)
        asked = oracle.Inquiry(where, where, self.mask, score, keep)
        out, lse = oracle.forward(q, k, v, asked)
        if self.sink:
            alone, lse = lse, torch.logaddexp(lse, self.sinks[:, None])
            out = out * (alone - lse).exp().transpose(1, 2)[..., None]
        gradients = oracle.backward(dout, q, k, v, out, lse, asked)
        return dict(zip(NAMES, (out, lse, *gradients), strict=True))

    def jobs(self, partition, world_size):
        together = self.gather or self.one_launch
        if self.landing_tokens is not None:
            options = RingOptions(
                schedule="one_launch", slots=self.slots, landing_tokens=self.landing_tokens
            )
            layout = layout_of(partition, world_size, self.tokens, self.mask, options)
            plans = [plan(layout, rank, self.able) for rank in range(world_size)]
            return [Job(p, BACKEND, self.score, torch.float64) for p in plans]
        layout = Layout(
            PARTITIONS[partition], world_size, self.tokens, self.mask.band, self.slots,
            (world_size - 1,) if together and world_size > 1 else None, self.one_launch,
        )  # fmt: skip
        plans = [plan(layout, rank, self.able) for rank in range(world_size)]
        return [Job(p, BACKEND, self.score, torch.float64) for p in plans]


def ring(jobs, partition, tensors, sink=None, *, keeps=False):
    """The whole sequence's results of a loopback ring."""
    world_size, board = len(jobs), Loopback()
    cut = [[shard(x, r, world_size, partition) for x in tensors] for r in range(world_size)]
    both = zip(jobs, cut, strict=True)
    ranks = [
        ForwardPass(job, board, q, Keys(k, v), sink, keeps=keeps) for job, (_, q, k, v) in both
    ]
    outputs = passes.run_together(ranks)
    shards = [
        (Rows(q, dout, *result), Keys(k, v))
        for (dout, q, k, v), result in zip(cut, outputs, strict=True)
    ]
    kept = [rank.kept for rank in ranks] if keeps else None
    gradients = passes.loopback_backward(jobs, shards, kept)
    joined = zip(*((*a, *b) for a, b in zip(outputs, gradients, strict=True)), strict=True)
    dims = {"lse": 2}
    return {
        name: join_shards(parts, partition, dims.get(name, 1))
        for name, parts in zip(NAMES, joined, strict=True)
    }


def errors(question, partition, world_size):
    jobs, inputs = question.jobs(partition, world_size), question.inputs(world_size)
    found = ring(jobs, partition, inputs, question.sinks)
    truth = question.truth(world_size)
    assert all(found[name].dtype is torch.float64 for name in NAMES)
    return {name: (found[name] - truth[name]).abs().max().item() for name in NAMES}


QUESTIONS = {
    "full": Question(Mask()),
    "causal": Question(),
    "grouped heads, one slot": Question(heads=6, key_heads=2, slots=1),
    "gather": Question(gather=True, heads=3, key_heads=1),
    "narrow window, run-ahead": Question(Mask(True, 1), slots=9),
    "window on both sides, gather": Question(Mask(False, 9, 4), gather=True),
    "window of one key": Question(Mask(False, 0, 0)),
    "window in pieces": Question(Mask(False, 2, 2), able=SPLIT),
    "causal window in pieces, gather": Question(Mask(True, 8), gather=True, able=SPLIT),
    "softcap": Question(softcap=1.5, heads=4),
    "ALiBi over a window, softcap": Question(Mask(True, 11), 2.0, True, 4, 2, slots=3),
    "sink, dropout": Question(sink=True, dropout_p=0.3),
}
QUESTIONS |= {
    "one launch that comes in windows": Question(landing_tokens=12, heads=6),
    "windows in one area": Question(Mask(), landing_tokens=12, slots=1),
    "windows of halos": Question(Mask(False, 9, 4), landing_tokens=12),
}
BY_POSITION = abilities(BACKEND, alibi=True, dropout=True)
QUESTIONS |= {
    f"one launch, {name}": replace(question, one_launch=True)
    for name, question in {
        "full": Question(Mask(), able=abilities(BACKEND, alibi=False)),
        "causal, grouped heads": Question(heads=6, able=abilities(BACKEND, alibi=False)),
        "narrow window": Question(Mask(True, 1)),
        "window on both sides, sink": Question(Mask(False, 9, 4), sink=True),
        "window of one key": Question(Mask(False, 0, 0)),
        "ALiBi, softcap": Question(Mask(True, 11), 2.0, True, 4, 2),
        "dropout, sink": Question(dropout_p=0.3, sink=True, able=BY_POSITION),
    }.items()
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 8])
@every_partition
def test_a_float64_ring_is_exact(partition, world_size, question):
    found = errors(question, partition, world_size)
    assert all(error < 1e-12 for error in found.values()), found


@every_partition
def test_sixty_four_ranks_of_two_tokens_are_exact(partition):
    found = errors(Question(heads=1, key_heads=1, tokens=2), partition, 64)
    assert all(error < 1e-12 for error in found.values()), found


@every_partition
def test_inputs_are_left_alone_and_may_be_views_of_one_tensor(partition):
    question = Question()
    tensors = question.inputs(3)
    shards = [[shard(x, r, 3, partition) for x in tensors] for r in range(3)]
    packed = [torch.cat([q, k, v], dim=3).transpose(0, 1).contiguous() for _, q, k, v in shards]
    views = [p.transpose(0, 1).split([DIM, DIM, DIM_V], dim=3) for p in packed]
    before = [p.clone() for p in packed]
    jobs = question.jobs(partition, 3)
    plain = passes.loopback_forward(jobs, [(q, Keys(k, v)) for _, q, k, v in shards])
    viewed = passes.loopback_forward(jobs, [(q, Keys(k, v)) for q, k, v in views])

    for (out, lse), (out_viewed, lse_viewed) in zip(plain, viewed, strict=True):
        torch.testing.assert_close(out_viewed, out, rtol=0, atol=1e-14)
        torch.testing.assert_close(lse_viewed, lse, rtol=0, atol=1e-14)
    assert all(torch.equal(a, b) for a, b in zip(packed, before, strict=True))


def test_memory_is_poisoned_here():
    zeros = torch.zeros(3)
    for fresh in (torch.empty(3), torch.empty_like(zeros), zeros.new_empty(3)):
        assert fresh.isnan().all()


IN_PIECES = QUESTIONS["window in pieces"]


@pytest.mark.parametrize(
    ("lie", "spoiled"),
    [
        (lambda p: replace(p, rows_start_at_zero=False), {"out", "lse", "dq"}),
        (lambda p: replace(p, unfinished=()), {"out"}),
        (
            lambda p: replace(
                p, steps=tuple(replace(s, keys_start_at_zero=False) for s in p.steps)
            ),
            {"dk", "dv"},
        ),
    ],
    ids=["rows start at zero", "unfinished rows", "keys start at zero"],
)
def test_storage_that_a_plan_forgets_comes_out_as_nan(lie, spoiled):
    jobs = IN_PIECES.jobs("zigzag", 3)
    lying = [replace(job, plan=lie(job.plan)) for job in jobs]
    tensors = IN_PIECES.inputs(3)
    assert not any(x.isnan().any() for x in ring(jobs, "zigzag", tensors).values())

    found = ring(lying, "zigzag", tensors)
    assert spoiled <= {name for name, x in found.items() if x.isnan().any()}


@pytest.mark.parametrize(
    "question",
    [
        Question(gather=True, slots=9), Question(one_launch=True), Question(slots=9),
        Question(Mask(True, 4), heads=4, slots=9), Question(gather=True, slots=9, sink=True),
    ],
    ids=["gather", "one launch", "steps", "window, grouped heads", "sink"],
)  # fmt: skip
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@every_partition
def test_a_backward_of_kept_keys_gives_what_one_of_fetched_keys_does(
    partition, world_size, question
):
    """To the last bit, but for the order in which dq is added up."""
    tensors = question.inputs(world_size)
    jobs = question.jobs(partition, world_size)
    fetched = ring(jobs, partition, tensors, question.sinks)
    kept = ring(jobs, partition, tensors, question.sinks, keeps=True)
    for name in NAMES:
        torch.testing.assert_close(kept[name], fetched[name], rtol=0, atol=1e-13)


@every_partition
@pytest.mark.parametrize("gradients", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_results_that_are_added_to_uncopied_have_the_bits_of_copies(
    monkeypatch, partition, world_size, gradients
):
    """A sum of two is rounded once either way; of more, accumulators are wider than results."""
    for question in (Question(gather=True), Question(Mask(), heads=6), Question()):
        tensors = [x.bfloat16() for x in question.inputs(world_size)]
        jobs = [replace(job, gradients=gradients) for job in question.jobs(partition, world_size)]
        once = {name: [getattr(job.plan, name) for job in jobs] for name in UNCOPIED}
        assert world_size > 2 or all(once["merges_once"])
        uncopied = ring(jobs, partition, tensors)
        with monkeypatch.context() as patched:
            for name in UNCOPIED:
                patched.setattr(Plan, name, False)
            again = [
                replace(job, plan=replace(job.plan)) for job in jobs
            ]  # which have kept no answer
            copied = ring(again, partition, tensors)
        for name in NAMES:
            assert uncopied[name].dtype is copied[name].dtype
            assert torch.equal(uncopied[name], copied[name]), (name, question)


class Together(ReferenceBackend):
    """All gradients at once; the others' leave before dq is made."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def gathered_backward(self, rows, keys, own, landed, where, score, *, own_first, leave):
        self.asked += 1
        self.gathered_dkdv(rows, keys, own, landed, where, score, own_first=own_first)
        leave()
        return self.gathered_dq(rows, keys._replace(arrived=None), where, score)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
@every_partition
def test_a_kernel_that_makes_all_gradients_together_does_unless_the_same_bits_are_asked_for(
    partition, keeps, deterministic
):
    question, kernel = Question(one_launch=True, heads=6), Together()
    jobs = [
        replace(job, backend=kernel, deterministic=deterministic)
        for job in question.jobs(partition, 3)
    ]
    found, truth = ring(jobs, partition, question.inputs(3), keeps=keeps), question.truth(3)

    assert kernel.asked == (0 if deterministic else 3)
    for name in NAMES:
        torch.testing.assert_close(found[name], truth[name], rtol=0, atol=1e-12)


class Rounding(ReferenceBackend):
    rounds_gradients = True

    def backward(self, rows, keys, block, score, *, deterministic):
        shares = super().backward(rows, keys, block, score, deterministic=deterministic)
        return Sums(*(x.to(rows.q.dtype) for x in shares))


@every_partition
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_a_share_that_travels_as_the_kernel_gave_it_changes_no_bit(partition, world_size):
    question, backend = Question(able=abilities(Rounding(), alibi=False)), Rounding()
    tensors = [x.bfloat16() for x in question.inputs(world_size)]
    wide, narrow = (
        [replace(job, backend=backend, gradients=dtype)
         for job in question.jobs(partition, world_size)]
        for dtype in (torch.float32, torch.bfloat16)
    )  # fmt: skip
    assert all(job.plan.gives_shares for job in wide)
    one, other = ring(wide, partition, tensors), ring(narrow, partition, tensors)
    for name in NAMES:
        assert torch.equal(one[name], other[name]), name


@every_partition
def test_gradients_of_keys_that_nobody_else_reads_are_in_memory_of_their_own(partition):
    """Of sums in the inputs' own dtype, which are not handed out as the views that they are."""
    question = Question()
    shards = [[shard(x, r, 3, partition) for x in question.inputs(3)] for r in range(3)]
    jobs, given = question.jobs(partition, 3), [(q, Keys(k, v)) for _, q, k, v in shards]
    outputs = passes.loopback_forward(jobs, given)
    rows = [Rows(q, dout, *o) for (dout, q, *_), o in zip(shards, outputs, strict=True)]
    keys = [k for _, k in given]
    for _, dk, dv in passes.loopback_backward(jobs, list(zip(rows, keys, strict=True))):
        assert dk.is_contiguous()
        assert dv.is_contiguous()
        assert dk.untyped_storage().data_ptr() != dv.untyped_storage().data_ptr()
