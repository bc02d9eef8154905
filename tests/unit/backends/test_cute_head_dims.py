"""Head dims that the CuTe tables may have: in tables that have them, with launches carried out."""

from dataclasses import replace

import pytest
import torch
from ring_attn_backends import cute
from ring_attn_backends.cute import ahead, kept, launch, serves, table
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.conformance.ask import ask
from ring_attn_bench.conformance.features import FEATURES
from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
from ring_attn_bench.plan.gathered import gathered
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.problem import Problem, Score
from ring_attn_bench.records.direction import DIRECTIONS
from ring_attn_bench.records.status import Status
from tests.carried_out import carried_out
from tests.carried_out_gathered import carried_out as carried_out_gathered

DIMS = {96: 96, 192: 128, 256: 256}
"""Of v by that of q and k."""
NAMES = {96: "head_dim_96", 192: "head_dim_192_128", 256: "head_dim_256"}
PROBLEM = Problem(
    batch=1, seqlen=4096, heads_q=8, heads_kv=2, head_dim=128, head_dim_v=128, dtype="bfloat16",
    device="cuda", backward=False,
)  # fmt: skip


def fill(monkeypatch, *, forward=True, backward=True):
    """Of these head dims the tables have what is proposed, and nothing else."""
    for has in (table.TABLE, table.BACKWARD, table.MORE_ROWS, table.ADDS):
        for key in [x for x in has if (x if isinstance(x, int) else x[1]) in DIMS]:
            monkeypatch.delitem(has, key)
    outs, gradients = table.proposed(DIMS)
    for width, config in outs.items() if forward else ():
        monkeypatch.setitem(table.TABLE, width, config)
    for key, config in gradients.items() if backward else ():
        monkeypatch.setitem(table.BACKWARD, key, config)


class OnCpu(cute.CuteBackend):
    """It refuses what it refuses on an H200."""

    def unsupported(self, problem):
        return serves.refused(replace(problem, device="cuda"), serves.CAPABILITY)


@pytest.fixture
def launched(monkeypatch):
    """The builds that were."""
    fill(monkeypatch)
    found = []

    def enqueue(call, folder=None):
        found.append(call.build)
        gathers = call.build.kernel.startswith("gathered")
        (carried_out_gathered if gathers else carried_out)(call)

    monkeypatch.setattr(launch, "enqueue", enqueue)
    monkeypatch.setattr(kept, "_kept", {})
    for lacks in ("lacking", "lacking_gpu"):
        monkeypatch.setattr(serves, lacks, lambda: None)
    return found


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dim", DIMS)
def test_what_the_tables_have_is_right(launched, dim, direction):
    answer = ask(OnCpu(), FEATURES[NAMES[dim]], direction, "cpu")

    assert answer.status is Status.OK, answer.reason
    assert {(x.config.width, x.config.width_v) for x in launched} == {(dim, DIMS[dim])}
    assert set(launched) <= set(ahead.builds())


def gathered_of(dim):
    """A rank's rows, its own and landed keys, and what sees what."""
    torch.manual_seed(0)
    shards = [PARTITIONS["zigzag"].spans(rank, 2, 130) for rank in (1, 0)]
    parts = [(i, chunk) for i, spans in enumerate(shards) for chunk in chunks(spans)]
    where = gathered(chunks(shards[0]), parts, Band(low=0), join=True)
    widths = dim, DIMS[dim]
    own, landed = (Keys(*(torch.randn(1, 130, 2, x).half() for x in widths)) for _ in range(2))
    q, dout = (torch.randn(1, 130, 4, x).half() for x in widths)
    return q, dout, Gathering(own, landed), where


@pytest.mark.parametrize("dim", DIMS)
def test_gathered_keys_have_the_same_head_dims(launched, dim):
    (q, dout, keys, where), score = gathered_of(dim), Score(0.1)
    backend, exact = OnCpu(), ReferenceBackend()
    wide = Gathering(*(Keys(*(x.double() for x in pair)) for pair in keys[:2]))
    expected = exact.gathered_forward(q.double(), wide, where, score)
    delta = (dout.double() * expected[0]).sum(-1).transpose(1, 2)
    lines = [x.float().contiguous() for x in (expected[1], delta)]
    rows, wide_rows = (
        Rows(to(q), to(dout), to(expected[0]), *lines)
        for to in (torch.Tensor.half, torch.Tensor.double)
    )
    sums, exact_sums = (
        [Keys(*(torch.full_like(x, torch.nan) for x in pair)) for pair in each[:2]]
        for each in (keys, wide)
    )
    found = [*backend.gathered_forward(q, keys, where, score)]
    found += [backend.gathered_dq(rows, keys, where, score)]
    backend.gathered_dkdv(rows, keys, *sums, where, score, own_first=True)
    expected = [*expected, exact.gathered_dq(wide_rows, wide, where, score)]
    exact.gathered_dkdv(wide_rows, wide, *exact_sums, where, score, own_first=True)

    found += [x for pair in sums for x in pair]
    expected += [x for pair in exact_sums for x in pair]
    for got, right in zip(found, expected, strict=True):
        torch.testing.assert_close(got.double(), right, rtol=2**-10, atol=1e-3)
    kernels = ["forward", "backward_dq", *table.of_keys(dim)]
    assert [x.kernel for x in launched] == [table.GATHERED[kernel] for kernel in kernels]


def test_sums_of_both_that_registers_do_not_hold_are_made_by_a_launch_each(launched):
    assert table.of_keys(96) == table.of_keys(192) == ("backward_dkdv",)
    assert table.of_keys(256) == ("backward_dk", "backward_dv")
    assert table.of_keys(80) == ()


def test_the_tables_say_what_is_served_in_each_direction(monkeypatch):
    def refused(dim, dim_v, backward):
        problem = replace(PROBLEM, head_dim=dim, head_dim_v=dim_v, backward=backward)
        return serves.refused(problem, serves.CAPABILITY)

    fill(monkeypatch, forward=False, backward=False)
    for dim, dim_v in DIMS.items():
        assert refused(dim, dim_v, backward=False) == (
            f"it has head dims 64 and 128, the same in v (got {dim, dim_v}); triton has all up to "
            "256, reference any"
        )
    fill(monkeypatch, backward=False)
    for dim, dim_v in DIMS.items():
        assert refused(dim, dim_v, backward=False) is None
        assert "has gradients of head dims 64 and 128, the same in v" in refused(
            dim, dim_v, backward=True
        )
    monkeypatch.undo()
    fill(monkeypatch)
    for dim, dim_v in DIMS.items():
        for backward in (False, True):
            assert refused(dim, dim_v, backward) is None
    assert "has head dims 64, 96, 128, 192 (128 in v) and 256, else the same in v (got" in refused(
        192, 192, backward=True
    )


def test_candidates_are_of_the_head_dims_that_they_stand_under():
    listed = [*table.CANDIDATES.items()]
    listed += [(width, configs) for (_, width), configs in table.BACKWARD_CANDIDATES.items()]
    for width, configs in listed:
        assert len(set(configs)) == len(configs)
        assert {(x.width, x.width_v) for x in configs} == {(width, DIMS.get(width, width))}
