"""Scratch that a stream keeps."""

import pytest
import torch

from ring_attn_bench.relaunch import scratch


@pytest.fixture
def captured(monkeypatch):
    """Whether the current stream is, and memory that any machine has."""
    found = []
    monkeypatch.setattr(scratch, "_of_streams", {})
    monkeypatch.setattr(torch, "device", lambda *_: "cpu")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: bool(found))
    return found


def test_launches_of_a_stream_have_one_memory_and_other_streams_another(captured):
    first = scratch.of_stream(0, 7)

    assert scratch.of_stream(0, 7) is first
    others = [scratch.of_stream(0, 8), scratch.of_stream(1, 7)]
    assert len({first.address, *(x.address for x in others)}) == 3


def test_what_is_captured_has_none(captured):
    scratch.of_stream(0, 7)
    captured.append(True)

    assert scratch.of_stream(0, 7) is None


def test_of_many_streams_some_are_forgotten(captured):
    for stream in range(3 * scratch.STREAMS):
        scratch.of_stream(0, stream)

    assert len(scratch._of_streams) <= scratch.STREAMS


def test_counters_are_0_on_a_cpu_too():
    assert not scratch.counters_for(torch.empty(1)).any()
