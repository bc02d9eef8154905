"""Calls in turns, on a GPU that is made up."""

import pytest
import torch

from scripts.measuring import turns


@pytest.fixture
def gpu(monkeypatch):
    """A list of what happened; time passes in milliseconds as calls say, and for each flush."""
    happened, now = [], [0.0]

    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self):
            self.at = now[0]
            happened.append("event")

        def elapsed_time(self, end):
            return end.at - self.at

    class Memory:
        def zero_(self):
            now[0] += 100
            happened.append("flush")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: happened.append("wait"))
    monkeypatch.setattr(turns.torch, "empty", lambda *_, **__: Memory())

    def call(name, *durations):
        left = list(durations)

        def run():
            happened.append(name)
            now[0] += left.pop(0)

        return run

    return happened, call


def test_times_are_medians_of_the_calls_alone_after_the_warm_up(gpu):
    _, call = gpu
    calls = {"one": call("one", 90, 90, 90, 3, 1, 8), "other": call("other", 0, 0, 0, 5, 5, 6)}

    assert turns.in_turns(calls, 3) == {"one": 3, "other": 5}


def test_each_call_runs_once_in_every_round_from_a_cold_cache_with_the_host_ahead(gpu):
    happened, call = gpu
    turns.in_turns({name: call(name, *[1] * 20) for name in "abc"}, 17)

    one = ["flush"] * turns.FLUSHES + ["event", "call", "event", "wait"]
    assert [x if x not in "abc" else "call" for x in happened] == one * 60
    names = [x for x in happened if x in "abc"]
    rounds = [tuple(names[at : at + 3]) for at in range(0, 60, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1
