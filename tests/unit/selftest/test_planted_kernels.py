"""Each fault of a kernel spoils the results that it says, in this process, and no others."""

import pytest
import torch

from ring_attn_bench import registry
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.suite import Suite
from ring_attn_bench.records.status import Status
from ring_attn_bench.selftest import kernels
from ring_attn_bench.selftest.planted import FAULTS
from ring_attn_bench.selftest.suites import CHECKS, GRID

SOUND = registry.load("reference")
ANSWER = (Status.OK, Status.WRONG)
OF_KERNELS = [x for x in FAULTS if x.kind == "backend" and x.names.status in ANSWER]


def wrong_results(fault, monkeypatch):
    """By case, what the harness finds wrong by loopback."""
    grid = {**GRID, **fault.grid, "backends": ["reference"]}
    words = [line.split(" = ") for line in CHECKS[fault.rows].splitlines()]
    check = {name: int(value) for name, value in words}
    table = {"name": "planted", "check": check, "grid": [{k: list(v) for k, v in grid.items()}]}
    suite = Suite.model_validate(table)
    place = WorkerPlace(0, 1, torch.device("cpu"), (0, 1), 2)
    found = {}
    for entry in suite.entries(2, "loopback"):
        monkeypatch.setattr(registry, "load", lambda name: SOUND)
        planted = getattr(kernels, fault.plant)()
        monkeypatch.setattr(registry, "load", lambda name, planted=planted: planted)
        request = Prepare(case=entry.case, contestant=entry.contestant,
                          directions=entry.directions, seed=suite.seed)  # fmt: skip
        judged = prepare(request, place, Contexts(place)).judge(suite.check, suite.seed)
        (accuracy,) = judged.values()
        wrong = {name for name, error in accuracy.tensors.items() if not error.is_right}
        found[entry.case.name] = wrong, accuracy
    return found


@pytest.mark.parametrize("fault", OF_KERNELS, ids=lambda fault: fault.name)
def test_a_fault_spoils_what_it_says_where_it_says_and_nothing_else(fault, monkeypatch):
    for case, (wrong, _) in wrong_results(fault, monkeypatch).items():
        assert wrong == (fault.names.wrong if case.startswith(fault.names.cases) else set())


def by_name(name):
    return next(fault for fault in FAULTS if fault.name == name)


def test_one_head_of_many_that_the_mean_hides_is_wrong_and_named(monkeypatch):
    ((_, accuracy),) = wrong_results(by_name("only in the last head"), monkeypatch).values()

    out = accuracy.tensors["out"]
    assert out.is_right_as_a_whole
    assert not out.is_right
    assert (out.head.batch, out.head.head) == (0, 31)
    assert out.head.rmse > 2 * out.head.bound_rmse
    assert accuracy.tensors["lse"].head is None


def test_a_row_that_is_no_number_is_wrong_though_it_is_not_compared(monkeypatch):
    ((_, accuracy),) = wrong_results(by_name("one NaN row"), monkeypatch).values()

    assert accuracy.oracle == "sampled"
    assert accuracy.oracle_rows < 100
    assert accuracy.tensors["out"].max_abs is None
    assert accuracy.tensors["out"].rmse < accuracy.tensors["out"].bound_rmse


def test_a_second_call_that_is_wrong_is_told_as_the_second(monkeypatch):
    ((_, accuracy),) = wrong_results(by_name("only at the second call"), monkeypatch).values()

    assert accuracy.call == 2


def test_a_row_that_is_not_compared_is_wrong_by_an_invariant(monkeypatch):
    ((_, accuracy),) = wrong_results(by_name("heads mixed in a row"), monkeypatch).values()

    assert all(error.is_right for error in accuracy.tensors.values())
    assert ("heads_apart", "out") in accuracy.broken
