"""Launches of the Triton backend that are made once, and then again without looking further."""

import gc
import weakref

import pytest
import torch
from ring_attn_backends.triton import kept
from ring_attn_backends.triton.launching import TritonLaunch

from ring_attn_bench.plan.problem import Score


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
    monkeypatch.setattr(kept, "relaunch", lambda *_: Again())
    return found


def made(calls, table, tokens, score=None, plan=None):
    """Asks for a launch over so many tokens."""
    q = torch.empty(tokens, 4).as_subclass(OnGpu)

    def launches():
        calls.append(tokens)
        return [TritonLaunch(None, (0, 1, 1), {}, q.device, tables=(table,))]

    kept.enqueue(id(plan), (q,), (q,), (), score or Score(0.5), launches, held=plan)
    return q


def test_what_was_asked_for_before_is_launched_again_with_its_tables(again):
    calls, table = [], torch.zeros(3)
    made(calls, table, 8)
    q = made(calls, table, 8)
    made(calls, table, 16)

    assert calls == [8, 16]
    assert [[x is y for x, y in zip(one, (q, table), strict=True)] for one in again] == [[True] * 2]


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
