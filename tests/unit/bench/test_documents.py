"""Cases of packed documents: what suites may say of them, their work, who sees another's keys."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import flash_attn_varlen_func
from ring_attn_bench.bench import flops, inputs, packed_call
from ring_attn_bench.bench.contestant import Refused
from ring_attn_bench.bench.documents import dealt_of, first_tokens, starts_of
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.suite import Check, Suite
from ring_attn_bench.errors import SuiteError
from ring_attn_bench.plan.partition import get_partition
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.exactness import DOCUMENTS_APART, KEYS_PERMUTED
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.options import RingOptions

GRID = {
    "backends": ["reference"], "seqlen_per_gpu": [128], "heads": ["4:2"], "head_dim": [16],
    "dtype": ["float32"], "documents": ["histogram:1"],
    "partitions": ["contiguous", "zigzag", "balanced", "head_tail"],
}  # fmt: skip
CASE = Case(
    batch=1, seqlen_total=512, world_size=4, heads_q=4, heads_kv=2, head_dim=16, dtype="float32",
    causal=True, documents="histogram:1",
)  # fmt: skip
FEW = Check(full_up_to=1, sampled_rows=1)
"""Both sides of every boundary are compared with the truth, of ranks and of documents."""


def entries(ranks=4, **changes):
    suite = Suite.model_validate({"name": "documents", "grid": [{**GRID, **changes}]})
    return suite.entries(ranks, "real")


def prepared(partition="contiguous", backend=None, case=CASE, name="reference", **spec):
    ranks = case.world_size
    place = WorkerPlace(0, 1, torch.device("cpu"), tuple(range(ranks)), ranks)
    who = Contestant(
        backend=name, partition=partition, options=RingOptions(), played="loopback", **spec
    )
    request = Prepare(case=case, contestant=who, directions=tuple(Direction), seed=1)
    made = prepare(request, place, Contexts(place))
    if backend is None:
        return made
    jobs = tuple(replace(job, backend=backend) for job in made.contestant.jobs)
    return replace(made, contestant=replace(made.contestant, jobs=jobs))


def judged(*given, check=FEW, **named):
    return prepared(*given, **named).judge(check, 0)[Direction.FORWARD_BACKWARD.value]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"documents": ["mixed"]}, "it must be histogram:SEED"),
        ({"documents": ["histogram:-1"]}, "it must be histogram:SEED"),
        ({"documents": ["histogram:1:0"]}, "multiple of UNIT"),
        ({"documents": [3]}, "3 is no word"),
        ({"batch": [2]}, "packed into one row of tokens, and batch is"),
        ({"documents": ["unset"]}, "partition 'balanced' deals packed documents"),
        ({"documents": ["histogram:1", "unset"]}, "and nothing else in this grid"),
        ({"partitions": ["even"]}, "balanced, contiguous, head_tail"),
        ({"queries": [1], "directions": ["forward"], "partitions": ["zigzag"]}, "is of a ring"),
    ],
)  # fmt: skip
def test_what_no_documents_can_be_is_refused_in_a_sentence(changes, said):
    with pytest.raises(ValueError, match=said):
        entries(**changes)


def test_lengths_that_cannot_fill_the_batch_are_refused_where_it_is_dealt():
    with pytest.raises(SuiteError, match="multiples of 100, and a batch has 512 tokens"):
        entries(documents=["histogram:1:100"])


def test_a_word_is_the_same_documents_wherever_it_is_read_and_others_for_another_seed():
    assert starts_of(CASE) == (0, 198, 256, 512)
    assert starts_of(CASE.model_copy(update={"documents": "histogram:7"})) == (0, 278, 503, 512)
    assert starts_of(CASE.model_copy(update={"documents": None})) is None


def test_documents_of_a_unit_are_multiples_of_it_and_fill_the_batch():
    starts = starts_of(CASE.model_copy(update={"documents": "histogram:1:64"}))
    assert starts[-1] == 512
    assert all(start % 64 == 0 for start in starts)


def test_on_one_rank_all_partitions_are_one_contestant_and_on_several_each_is_one():
    assert [entry.contestant.partition for entry in entries(1)] == ["contiguous"]
    assert [entry.contestant.partition for entry in entries(4)] == GRID["partitions"]
    assert {entry.case.name for entry in entries(4)} == {
        "b1_s512_w4_h4-2_d16_float32_causal_documents-histogram-1"
    }


@pytest.mark.parametrize("window", [(-1, -1), (40, 0)])
@pytest.mark.parametrize("causal", [True, False])
def test_work_is_that_of_pairs_inside_documents(causal, window):
    case = CASE.model_copy(update={"causal": causal, "window": window})
    left, right = (512 if side < 0 else side for side in window)
    allowed = torch.zeros(512, 512, dtype=torch.bool)
    for start, stop in pairwise(starts_of(case)):
        allowed[start:stop, start:stop] = True
    at = torch.arange(512)
    apart = at[:, None] - at
    allowed &= (apart <= left) & (apart >= (0 if causal else -right))
    assert flops.area(case) == allowed.sum()
    assert flops.area_of_first(case, 300) == allowed[:300, :300].sum()


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_one_devices_share_is_the_documents_that_a_batch_begins_with(devices):
    length = flops.equal_work_length(CASE, devices, unit=1)
    share = flops.area(CASE) / devices
    nearest = min(range(1, 513), key=lambda n: abs(flops.area_of_first(CASE, n) - share))
    assert abs(flops.area_of_first(CASE, length) - share) == abs(
        flops.area_of_first(CASE, nearest) - share
    )


def test_the_first_tokens_of_documents_end_in_one_that_is_cut():
    assert first_tokens((0, 198, 256, 512), 300) == (0, 198, 256, 300)
    assert first_tokens((0, 198, 256, 512), 256) == (0, 198, 256)
    assert first_tokens((0, 198, 256, 512), 600) == (0, 198, 256, 512)


@pytest.mark.parametrize("check", [Check(), FEW], ids=["every row", "some rows"])
@pytest.mark.parametrize("partition", GRID["partitions"])
@pytest.mark.parametrize("changes", [{}, {"causal": False}, {"window": (40, 0)}], ids=str)
def test_a_ring_of_documents_is_right_and_keeps_them_apart(partition, changes, check):
    made = prepared(partition, case=CASE.model_copy(update=changes))
    found = made.judge(check, 0)[Direction.FORWARD_BACKWARD.value]
    assert found.is_right, found.broken
    assert {"out", "lse", "dq", "dk", "dv"} == set(found.invariants[DOCUMENTS_APART])
    assert KEYS_PERMUTED not in found.invariants
    work = made.flops(Direction.FORWARD)
    assert work["executed_flops"] == work["useful_flops"]
    band = flops.band(made.request.case)
    assert work["imbalance"] == pytest.approx(
        dealt_of(made.request.case, partition).imbalance(band)
    )
    assert made.contestant.took.schedule == "one_launch"


@pytest.mark.parametrize("partition", GRID["partitions"])
def test_a_kernel_that_has_no_launch_over_all_of_them_is_right_by_one_for_each(partition):
    made = prepared(partition, name="aten")
    assert made.contestant.took.schedule == "steps"
    assert made.judge(FEW, 0)[Direction.FORWARD_BACKWARD.value].is_right


class SeesAKeyOfAnother(ReferenceBackend):
    """In row 30 of each rank: its weights still sum to one. Rank 1 has two documents, and the key
    is of the other one."""

    def gathered_forward(self, q, keys, where, score):
        out, lse = super().gathered_forward(q, keys, where, score)
        v = keys.own.v
        out[:, 30] += 0.05 * (v[:, 100] - v[:, 0]).repeat_interleave(2, dim=1)
        return out, lse


def test_a_key_of_another_document_is_wrong_by_the_truth_in_a_row_that_is_compared():
    assert not judged(backend=SeesAKeyOfAnother(), check=Check()).tensors["out"].is_right


def test_a_key_of_another_document_is_named_in_a_row_that_no_truth_was_compared_with():
    found = judged(backend=SeesAKeyOfAnother())
    assert all(error.is_right for error in found.tensors.values())
    assert (DOCUMENTS_APART, "out") in found.broken
    assert {invariant for invariant, _ in found.broken} == {DOCUMENTS_APART}


def test_a_larger_ring_of_documents_is_not_played_and_says_why():
    place = WorkerPlace(0, 2, torch.device("cpu"), (0,), 2)
    who = Contestant(
        backend="reference", partition="zigzag", options=RingOptions(), played="4on2",
        playing=(0, 3),
    )  # fmt: skip
    request = Prepare(case=CASE, contestant=who, directions=(Direction.FORWARD,), seed=1)
    with pytest.raises(Refused, match="packed documents are not played by fewer processes"):
        prepare(request, place, ContextsOfNobody())


class ContextsOfNobody:
    def of(self, spec):
        return None


ONE = CASE.model_copy(update={"world_size": 1})


@pytest.mark.parametrize("name", ["reference", "aten"])
def test_on_one_rank_the_kernels_packed_call_is_what_is_judged_and_timed(name):
    made = prepared(case=ONE, name=name)
    found = made.judge(Check(), 0)[Direction.FORWARD_BACKWARD.value]
    assert found.is_right, found.broken
    x = inputs.make(ONE, 1, torch.device("cpu"))
    starts = torch.tensor(starts_of(ONE), dtype=torch.int32)
    q, k, v = (t[0].requires_grad_() for t in (x.q, x.k, x.v))
    out = flash_attn_varlen_func(q, k, v, starts, starts, 256, 256, causal=True, backend=name)
    gradients = torch.autograd.grad(out, (q, k, v), x.dout[0])
    (outputs,) = made.contestant.forward([x])
    torch.testing.assert_close(outputs[0][0], out, rtol=0, atol=0)
    (ours,) = made.contestant.backward([x], [outputs])
    for one, other in zip(ours, gradients, strict=True):
        torch.testing.assert_close(one[0], other, rtol=0, atol=0)


def test_a_mask_that_a_kernel_has_no_block_for_is_refused_beforehand():
    with pytest.raises(Refused, match="it has no window block"):
        prepared(case=ONE.model_copy(update={"window": (40, 0)}), name="aten")


class Packs(ReferenceBackend):
    """Takes documents packed, by its calls for each."""

    def packed_forward(self, q, keys, documents, score):
        return packed_call.OneByOne(ReferenceBackend()).packed_forward(q, keys, documents, score)

    def packed_backward(self, rows, keys, documents, score, *, deterministic):
        one_by_one = packed_call.OneByOne(ReferenceBackend())
        return one_by_one.packed_backward(rows, keys, documents, score, deterministic=deterministic)


def test_a_ring_is_held_against_the_packed_call_of_one_ranks_share():
    made = prepared("balanced", backend=Packs())
    assert made.judge(Check(), 0)[Direction.FORWARD.value].tensors["out"].one_gpu_rmse > 0
    for direction in Direction:
        made._one_call(direction)()
    alone = made._kernel(made.one_call_length)
    assert alone.starts.tolist() == list(first_tokens(starts_of(CASE), made.one_call_length))


def test_a_kernel_that_needs_a_call_for_each_document_has_no_one_call():
    assert prepared("balanced")._kernel(256) is None


def test_partitions_that_know_of_no_documents_deal_them_as_any_sequence():
    assert dealt_of(CASE, "zigzag").partition is get_partition("zigzag")
