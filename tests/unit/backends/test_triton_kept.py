"""Launches of the Triton backend that are made once, and then again without looking further."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend
from ring_attn_backends.triton import TritonBackend, kept
from ring_attn_backends.triton.launching import TritonLaunch

from ring_attn_bench.contract.used import UsedKernel, kernels_used
from ring_attn_bench.plan.problem import Score
from ring_attn_bench.relaunch import Made


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True


class Plan:
    """What is told by its identity alone."""


@pytest.fixture
def again(monkeypatch):
    """The tensors of every launch that was made again."""
    found = []

    class Again:
        def run(self, tensors):
            found.append(tensors)

    monkeypatch.setattr(kept, "_kept", {})
    monkeypatch.setattr(kept, "_kept_of_batches", {})
    monkeypatch.setattr(kept, "relaunch", lambda *_: Again())
    return found


def made(calls, table, tokens, score=None, plan=None, of_batch=False):
    """Asks for a launch over so many tokens."""
    q = torch.empty(tokens, 4).as_subclass(OnGpu)

    def launches():
        calls.append(tokens)
        return [TritonLaunch(None, (0, 1, 1), {}, q.device, tables=(table,))]

    kept.enqueue(id(plan), (q,), (q,), (), score or Score(0.5), launches, held=plan,
                 of_batch=of_batch)  # fmt: skip
    return q


def test_what_was_asked_for_before_is_launched_again_with_its_tables(again):
    calls, table = [], torch.zeros(3)
    made(calls, table, 8)
    q = made(calls, table, 8)
    made(calls, table, 16)

    assert calls == [8, 16]
    assert [[x is y for x, y in zip(one, (q, table), strict=True)] for one in again] == [[True] * 2]


def test_of_new_lengths_every_time_a_few_launches_are_kept_and_others_stay(again):
    calls = []
    made(calls, torch.zeros(3), 8)
    for _ in range(300):
        plan = Plan()
        for _ in range(2):  # layers of one batch
            made(calls, torch.zeros(3), 16, plan=plan, of_batch=True)

    assert calls == [8] + [16] * 300
    assert len(again) == 300
    assert len(kept._kept_of_batches) <= kept.KEPT_OF_BATCHES
    made(calls, torch.zeros(3), 8)
    assert len(calls) == 301


def test_a_score_with_dropout_is_made_each_time(again):
    calls, score = [], Score(0.5, dropout_p=0.1)
    for _ in range(2):
        made(calls, torch.zeros(3), 8, score)

    assert calls == [8, 8]
    assert not again


def test_what_is_told_by_identity_stays_while_its_launch_is_kept(again):
    plan = Plan()
    there = weakref.ref(plan)
    made([], torch.zeros(3), 8, plan=plan)
    del plan
    gc.collect()

    assert there() is not None
    kept._kept.clear()
    gc.collect()
    assert there() is None


def test_kernels_are_those_launched_since_somebody_asked(monkeypatch, again):
    monkeypatch.setattr(kept, "_made_since", set())
    sizes = {8: UsedKernel("small", 100, 0, 0, 4), 16: UsedKernel("large", 255, 8, 0, 8)}

    def launch(tokens):
        q = torch.empty(tokens, 4).as_subclass(OnGpu)
        call = SimpleNamespace(used=sizes[tokens])
        launches = [SimpleNamespace(made=lambda: (call,), tables=(), scratch=())]
        kept.enqueue("once", (q,), (q,), (), Score(0.5), lambda: launches)

    launch(16)
    launch(8)
    assert kept.used() == (sizes[16], sizes[8])
    assert kept.used() == ()
    launch(8)  # again, as it was made
    assert kept.used() == (sizes[8],)
    assert kept.used() == ()


def test_what_a_compiler_made_is_read_from_its_kernel_and_nothing_of_an_interpreted_one():
    about = SimpleNamespace(name="forward_kernel", shared=98304, num_warps=8)
    compiled = SimpleNamespace(metadata=about, n_regs=168, n_spills=2)

    assert Made(compiled, (1, 1, 1), ()).used == UsedKernel("forward_kernel", 168, 2, 98304, 8)
    assert Made(None, (1, 1, 1), ()).used is None


def test_the_backend_tells_its_kernels_and_others_have_none_to_tell(monkeypatch):
    told = UsedKernel("forward_kernel", 168, 0, 98304, 8)
    monkeypatch.setattr(kept, "_kept", {})
    monkeypatch.setattr(kept, "_made_since", {told})

    assert kernels_used(TritonBackend()) == (told,)
    assert kernels_used(ReferenceBackend()) == ()
    assert kernels_used(None) == ()
