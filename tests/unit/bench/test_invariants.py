"""What needs no truth is asked of every row: sound rings keep it, and faults are named by it."""

from dataclasses import replace

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend
from torch.utils._python_dispatch import TorchDispatchMode

from ring_attn_bench.bench import inputs
from ring_attn_bench.bench.invariants import off_one, ones_for_v, sums
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import Prepared, prepare
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.bench.suite_run import _what_is_wrong
from ring_attn_bench.contract.tensors import Sums
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.exactness import (
    BATCH_APART,
    DV_SUMS_TO_DOUT,
    HEADS_APART,
    KEYS_PERMUTED,
    ROWS_SUM_TO_ONE,
)
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.options import RingOptions

WORLD_SIZE = 4
FEW = Check(full_up_to=1, sampled_rows=1)
"""Both sides of every boundary, 8 rows of 128, are compared with the truth."""
UNCOMPARED = 5
"""Of a rank's rows, one that is not among them."""


def prepared(backend=None, *, causal=False, dtype="float32", heads=(4, 2), batch=2) -> Prepared:
    place = WorkerPlace(0, 1, torch.device("cpu"), tuple(range(WORLD_SIZE)), WORLD_SIZE)
    case = Case(batch=batch, seqlen_total=128, world_size=WORLD_SIZE, heads_q=heads[0],
                heads_kv=heads[1], head_dim=16, dtype=dtype, causal=causal)  # fmt: skip
    spec = Contestant(
        backend="aten" if backend is None else "reference", partition="contiguous",
        options=RingOptions(), played="loopback",
    )  # fmt: skip
    request = Prepare(case=case, contestant=spec, directions=tuple(Direction), seed=1)
    made = prepare(request, place, Contexts(place))
    if backend is None:
        return made
    jobs = tuple(replace(job, backend=backend) for job in made.contestant.jobs)
    return replace(made, contestant=replace(made.contestant, jobs=jobs))


def judged(backend=None, check=FEW, **case):
    return prepared(backend, **case).judge(check, 0)[Direction.FORWARD_BACKWARD.value]


class Faulty(ReferenceBackend):
    """Spoils what `spoiled` says of out, in a row that is compared with no truth."""

    def forward(self, q, keys, block, score):
        out, lse = super().forward(q, keys, block, score)
        out[:, UNCOMPARED] = self.spoiled(out[:, UNCOMPARED], q, keys)
        return out, lse


class ARowTooLarge(Faulty):
    def spoiled(self, row, q, keys):
        return row * 1.01


class HeadsMixed(Faulty):
    def spoiled(self, row, q, keys):
        return row + 1e-4 * row.roll(1, dims=1)


class EntriesMixed(Faulty):
    def spoiled(self, row, q, keys):
        return row + 1e-4 * row.roll(1, dims=0)


class FirstKeyLost(Faulty):
    """... in that row: its weights still sum to one."""

    def spoiled(self, row, q, keys):
        return row + 0.05 * (keys.v[:, 0] - keys.v[:, 1]).repeat_interleave(2, dim=1)


class OtherBitsEachCall(ReferenceBackend):
    """Right, and never the same twice: as where gradients are added up in no order."""

    calls = 0

    def backward(self, *arguments, **options):
        self.calls += 1
        sums = super().backward(*arguments, **options)
        return Sums(*(x * (1 + 1e-7 * (self.calls % 7)) for x in sums))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("causal", [True, False])
def test_a_sound_ring_keeps_every_invariant(dtype, causal):
    found = judged(dtype=dtype, causal=causal, check=Check())
    assert found.is_right, found.broken
    asked = {ROWS_SUM_TO_ONE, DV_SUMS_TO_DOUT, HEADS_APART, BATCH_APART} | (
        set() if causal else {KEYS_PERMUTED}
    )
    assert set(found.invariants) == asked


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (ARowTooLarge, ROWS_SUM_TO_ONE),
        (HeadsMixed, HEADS_APART),
        (EntriesMixed, BATCH_APART),
        (FirstKeyLost, KEYS_PERMUTED),
    ],
)
def test_a_fault_in_a_row_that_no_truth_was_compared_with_is_named(fault, named):
    found = judged(fault())
    assert all(error.is_right for error in found.tensors.values())
    assert (named, "out") in found.broken
    assert not found.is_right
    assert f"invariant {named} does not hold" in _what_is_wrong(found, repeats=True)


def test_a_dv_that_is_lost_in_a_key_where_no_truth_looks_is_named():
    class LastStepsDvLost(ReferenceBackend):
        def backward(self, *arguments, **options):
            sums = super().backward(*arguments, **options)
            sums.dv[:, UNCOMPARED] *= 0.9
            return sums

    made = prepared(LastStepsDvLost())
    every = made.judge(Check(), 0)[Direction.BACKWARD.value]
    assert not every.tensors["dv"].is_right  # the truth looks at every key, where it is asked
    whole, ones = inputs.make(made.request.case, 0, made.place.device), []
    shards = made._cut(whole)
    for shard in shards:
        ones_for_v(shard)
    ones = made._results(shards)
    found = sums(made.request.case, made.place, ones, [x.dout for x in shards])
    assert found[ROWS_SUM_TO_ONE]["out"].is_kept
    assert not found[DV_SUMS_TO_DOUT]["dv"].is_kept


def test_other_bits_in_each_call_are_not_held_against_heads():
    found = judged(OtherBitsEachCall())
    assert found.is_right, found.broken
    assert found.invariants[HEADS_APART]["dq"].max_abs > 0
    assert found.invariants[HEADS_APART]["out"].allowed_max_abs == 0


def test_other_bits_in_one_call_of_many_are_not_held_against_heads():
    class OtherBitsOnce(ReferenceBackend):
        calls = 0

        def forward(self, *arguments):
            out, lse = super().forward(*arguments)
            self.calls += 1
            return out * (1 + 2e-7 * (self.calls == at)), lse

    for at in range(1, 120, 13):  # wherever in the judging it is
        found = judged(OtherBitsOnce(), batch=1, heads=(2, 2))
        assert found.is_right, (at, found.broken)


def test_a_backward_fault_is_none_of_the_forwards():
    class GradientsMixed(ReferenceBackend):
        def backward(self, *arguments, **options):
            sums = super().backward(*arguments, **options)
            sums.dq[:, UNCOMPARED] += 1e-3 * sums.dq[:, UNCOMPARED].roll(1, dims=1)
            return sums

    of_all = prepared(GradientsMixed()).judge(FEW, 0)
    assert of_all[Direction.FORWARD.value].is_right
    assert (HEADS_APART, "dq") in of_all[Direction.BACKWARD.value].broken


@pytest.mark.parametrize(("heads", "asked"), [((1, 1), False), ((4, 1), True), ((2, 2), True)])
def test_heads_are_asked_about_where_there_are_several(heads, asked):
    found = judged(heads=heads, batch=1)
    assert (HEADS_APART in found.invariants) is asked
    assert BATCH_APART not in found.invariants
    if heads == (4, 1):
        assert set(found.invariants[HEADS_APART]) == {"out", "lse", "dq"}


def test_nobody_asks_where_a_suite_says_so():
    assert judged(check=Check(invariants=False)).invariants is None


def test_what_rows_may_be_off_one_by_is_a_few_roundings_of_a_dtype():
    assert off_one(torch.bfloat16, 2**20) < 1.1 * torch.finfo(torch.bfloat16).eps
    assert off_one(torch.float32, 2**20) < 2e-4
    assert off_one(torch.float64, 2**10) < 1e-14


class LargestMade(TorchDispatchMode):
    """How many bytes the largest memory has that an operation made, and not one of these tensors.

    Torch sums in another dtype by a copy in it, which is none that an operation makes.
    """

    def __init__(self, *others):
        super().__init__()
        self.most = 0
        self._others = {x.untyped_storage().data_ptr() for x in others}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            memory = made.untyped_storage()
            if memory.data_ptr() not in self._others:
                self.most = max(self.most, memory.nbytes())
            if function is torch.ops.aten.sum.dim_IntList and args[0].dtype is not made.dtype:
                self.most = max(self.most, args[0].numel() * made.element_size())
        return made


def test_sums_take_no_memory_that_grows_with_the_sequence():
    place = WorkerPlace(0, 1, torch.device("cpu"), (0,), 1)

    def most(tokens):
        case = Case(batch=64, seqlen_total=tokens, world_size=1, heads_q=32, heads_kv=16,
                    head_dim=64, dtype="bfloat16", causal=True)  # fmt: skip
        out, dout = torch.ones(2, 64, tokens, 32, 64, dtype=torch.bfloat16)
        dv = torch.ones(64, tokens, 16, 64, dtype=torch.bfloat16)
        with LargestMade(out, dv, dout) as made:
            found = sums(case, place, [{"out": out, "dv": dv}], [dout])
        assert found[ROWS_SUM_TO_ONE]["out"].is_kept
        return made.most

    assert most(1024) <= most(512) <= 2**27, "a piece in float64"
