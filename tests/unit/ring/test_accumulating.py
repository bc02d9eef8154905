"""Kernels that merge by themselves, in whole rings in one process, against float64."""

from dataclasses import replace

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.calls import kernel
from ring_attn_bench.contract.backend import AccumulatingBackend, abilities
from ring_attn_bench.contract.tensors import Keys, Rows, Running, Sums
from ring_attn_bench.plan.block import Alibi, Block, Form
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.ring.merge import merge
from tests.unit.ring.test_ring_loopback import QUESTIONS, Question, ring

pytestmark = pytest.mark.usefixtures("_memory_is_nan_until_written")


class Accumulating(ReferenceBackend):
    """Does what the ring would do, so that the ring need not."""

    def forward_into(self, q, keys, running, block, score, *, first):
        out, lse = self.forward(q, keys, block, score)
        if first:
            running.result.copy_(out)
            running.lse.copy_(lse)
        else:
            merge(running.out, running.lse, out, lse, running.target)

    def backward_into(self, rows, keys, sums, block, score, *, first, first_keys, deterministic):
        shares = self.backward(rows, keys, block, score, deterministic=deterministic)
        starts = (first, first_keys, first_keys)
        for total, share, begins in zip(sums, shares, starts, strict=True):
            total.copy_(share) if begins else total.add_(share)


class ByIndex(Accumulating):
    """Counts inside a block whatever it counts: distances, and who sees whom."""

    forms = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
    alibi = Alibi.INDEX

    def forward(self, q, keys, block, score):
        return super().forward(q, keys, inside(block), score)

    def backward(self, rows, keys, block, score, **options):
        return super().backward(rows, keys, inside(block), score, **options)


def inside(block):
    shift = block.key_count - block.row_count
    rows, keys = Span(shift, block.row_count), Span(0, block.key_count)
    return Block((rows,), (keys,), block.index_band.shifted(shift))


@pytest.fixture
def _memory_is_nan_until_written(monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)


MERGED = {name: question for name, question in QUESTIONS.items() if not question.one_launch}


def assert_exact(backend, question, partition, world_size, monkeypatch, within=1e-12):
    """In a ring that has nothing else to merge with."""
    for module in ("forward", "backward"):
        monkeypatch.setattr(kernel, module, None)
    monkeypatch.setattr("ring_attn_bench.ring.forward.merge", None)
    jobs = [replace(job, backend=backend) for job in question.jobs(partition, world_size)]
    found = ring(jobs, partition, question.inputs(world_size), question.sinks)
    truth = question.truth(world_size)
    for name, right in truth.items():
        torch.testing.assert_close(found[name], right, rtol=0, atol=within, msg=name)


@pytest.mark.parametrize("question", MERGED.values(), ids=MERGED.keys())
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_float64_ring_is_exact(partition, world_size, question, monkeypatch):
    assert isinstance(Accumulating(), AccumulatingBackend)
    assert_exact(Accumulating(), question, partition, world_size, monkeypatch)


@pytest.mark.parametrize("mask", [Mask(True), Mask(True, 7)], ids=str)
@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_a_bias_by_index_is_put_right_in_what_is_accumulated(world_size, mask, monkeypatch):
    question = Question(mask, alibi=True, able=abilities(ByIndex(), alibi=True))
    # slopes, and with them what is added to lse, are float32
    assert_exact(ByIndex(), question, "striped", world_size, monkeypatch, within=1e-6)


def test_a_backend_that_hands_its_share_back_does_not_accumulate():
    assert not isinstance(ReferenceBackend(), AccumulatingBackend)


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("band", [Band(30, 34), Band(4, 9)], ids=["nothing is seen", "some rows"])
def test_rows_that_a_window_by_index_leaves_out_keep_what_they_have(band, first, with_target):
    random = torch.Generator().manual_seed(0)
    q, k, v, dout = (torch.randn(1, 12, 2, 8, generator=random).double() for _ in range(4))
    block, score = Block((Span(0, 12),), (Span(0, 12),), band), Score(0.3)
    results = []
    for backend in (ByIndex(), Accumulating()):
        acc, lse = torch.ones_like(q), torch.zeros(1, 2, 12).double()
        dq, dk, dv = (torch.ones_like(q) for _ in range(3))
        target = torch.full_like(q, torch.nan) if with_target else None
        keys, running, sums = Keys(k, v), Running(acc, lse, target), Sums(dq, dk, dv)
        kernel.forward_into(backend, q, keys, running, block, score, first=first)
        kernel.backward_into(
            backend, Rows(q, dout, q, lse, torch.zeros_like(lse)), keys, sums, block, score,
            first=first, first_keys=first, deterministic=True,
        )  # fmt: skip
        results.append((acc if target is None else target, lse, dq, dk, dv))

    for got, right in zip(*results, strict=True):
        torch.testing.assert_close(got, right, rtol=0, atol=1e-12)
