"""The conformance suite's questions for an adapter whose package is a fake on a CPU."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from ring_attn_bench.conformance.ask import faults, refusal
from ring_attn_bench.conformance.feature import Asks
from ring_attn_bench.conformance.features import FEATURES
from ring_attn_bench.records.direction import DIRECTIONS, Direction


def questions(dtype, *patterns):
    """(asks, case, direction) of all features, or of those whose names begin so."""
    found = [
        (feature.asks, replace(case, dtype=dtype), direction)
        for feature in FEATURES.values()
        for case in feature.chosen("cpu", dtype)
        for direction in DIRECTIONS
        if not patterns or feature.name.startswith(patterns)
    ]
    return [
        pytest.param(*question, id=f"{question[2].value}: {question[1]}")
        for question in dict.fromkeys(found)
        if question[1].dtype == dtype
    ]


def answer(backend, asks, case, direction):
    """None where it is right, else the sentence in which it was refused; fails otherwise."""
    reason = refusal(backend, asks, case, direction, "cpu")
    if reason is None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        assert faults(backend, asks, case, direction, "cpu") == []
        torch.set_num_threads(threads)
    else:
        assert len(reason.split()) > 3
    return reason


def made(cls, monkeypatch, package=None, capability=(9, 0), **modules):
    """A backend of a class, made where torch has a GPU of that kind, and the fake is installed."""
    if package is not None:
        for name, fake in ((package, modules.pop("fake")), *modules.items()):
            monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    with monkeypatch.context() as for_now:
        for_now.setattr(torch.cuda, "is_available", lambda: True)
        return cls()


def module(name, **attributes):
    """A module that holds these."""
    found = ModuleType(name)
    found.__dict__.update(attributes)
    return found


__all__ = ["Asks", "Direction", "answer", "made", "module", "questions"]
