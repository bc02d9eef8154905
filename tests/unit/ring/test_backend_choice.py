"""Whom `auto` asks first: where documents are many, kernels that take them in one launch."""

import pytest

from ring_attn_bench import registry
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.problem import Problem
from ring_attn_bench.ring.backend_choice import choose

PROBLEM = Problem(1, 64, 2, 2, 8, 8, "float32", "cpu")


class Kernel:
    """A backend that can do everything."""

    forms, alibi = frozenset(), None

    def __init__(self, name):
        self.name = name

    def unsupported(self, problem):
        return None


class Gatherer(Kernel):
    """One that takes the keys of all ranks in a launch, too."""

    gathered_forward = gathered_dkdv = gathered_dq = lambda self: None


@pytest.fixture(autouse=True)
def backends(monkeypatch):
    """Three, of which the first is not there, and the last gathers."""
    made = {"gone": None, "blocks": Kernel("blocks"), "gathers": Gatherer("gathers")}

    def load(name):
        if made[name] is None:
            raise BackendUnavailable(name, "it is not installed")
        return made[name]

    monkeypatch.setattr(registry, "backends", lambda: made)
    monkeypatch.setattr(registry, "load", load)


def asked(name, **how):
    """Which backend, and for whom its plan was made."""
    backend, plan = choose(name, PROBLEM, lambda name: lambda able: (name,), announces=False, **how)
    return backend.name, plan


def test_auto_asks_kernels_that_gather_first_where_it_is_told_to():
    assert asked("auto") == ("blocks", ("blocks",))
    assert asked("auto", gathers=True) == ("gathers", ("gathers",))
    assert asked("blocks", gathers=True) == ("blocks", ("blocks",))
