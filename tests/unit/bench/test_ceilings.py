"""Plain work is measured quickly on a CPU, once for each ring, and never where nothing is timed."""

import time

import pytest
import torch

from ring_attn_bench.bench import ceilings
from ring_attn_bench.bench.ceilings import ON_CPU, gauge
from ring_attn_bench.bench.gauges import Gauges
from ring_attn_bench.bench.messages import Envelope, Gauge
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.suite import Suite
from ring_attn_bench.bench.timing import Timer
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.reply import WorkerFailed
from tests.patience import limit

ALONE = WorkerPlace(0, 1, torch.device("cpu"), (0,), 1)


def entries(world_size=2, dtypes=("float32", "float16"), **changed):
    table = {
        "name": "some",
        "grid": [
            {
                "backends": ["reference", "aten"], "seqlen_per_gpu": [8, 16], "heads": ["2:1"],
                "head_dim": [8], "dtype": list(dtypes),
            }
        ],
    }  # fmt: skip
    return Suite.model_validate(table).entries(world_size, changed.pop("played", "real"), **changed)


class Group:
    """Two processes, the second of which is slower; or one that fails."""

    def __init__(self, failure=None):
        self.asked, self._failure = [], failure

    def ask(self, command, seconds):
        command = Envelope.model_validate_json(command).command
        assert isinstance(command, Gauge)
        self.asked.append(command.dtypes)
        if self._failure:
            raise WorkerFailed(Status.OOM, self._failure, [])
        rates = [dict.fromkeys(command.dtypes, 100.0 - at) for at in range(2)]
        return [{"gauged": {"matmul_tflops": rate, "copy_gbs": 10.0}} for rate in rates]


def test_a_process_alone_measures_products_and_a_copy_within_three_seconds():
    timer = Timer(ALONE)
    began = time.process_time()  # of all threads: what others do on the machine is not in it
    found = gauge(ALONE, timer, ("float32", "bfloat16"))

    assert time.process_time() - began < limit(3.0)
    assert found.matmul_tflops.keys() == {"float32", "bfloat16"}
    assert found.copy_gbs > 0
    assert (found.messages_gbs, found.pulls_gbs, found.unmeasured) == (None, None, "")


def test_rates_are_work_over_the_median_time(monkeypatch):
    """Of calls that take 2 ms, and a pilot that takes 5: as many as a twentieth of a second has."""
    counts = []

    class Clock:
        def sample(self, call, count, warmup):
            counts.append(count)
            return [5.0] if warmup else [1.0, 2.0, 9.0]

    found = gauge(ALONE, Clock(), ("float32",))

    assert counts == [1, 10, 1, 10, 1, 10]
    assert found.matmul_tflops["float32"] == pytest.approx(2 * ON_CPU.square**3 / 2e-3 / 1e12, 1e-4)
    assert found.copy_gbs == pytest.approx(2 * ON_CPU.copied / 2e-3 / 1e9, 1e-4)
    assert found.read_gbs == pytest.approx(ON_CPU.copied / 2e-3 / 1e9, 1e-4)


def test_where_memory_is_too_small_nothing_is_measured_and_why_is_said(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", full)
    found = gauge(ALONE, Timer(ALONE), ("float32",))

    assert found.matmul_tflops == {}
    assert found.unmeasured == "a process has no 3 MiB to measure with"


def test_the_sizes_are_too_large_for_caches_that_are_known():
    assert ceilings.ON_GPU.copied > 10 * 60e6
    assert ceilings.ON_CPU.sent < 2**24


def test_a_group_is_asked_for_all_dtypes_of_its_ring_at_once():
    group = Group()
    wanted = entries()
    gauges = Gauges(wanted, lambda entry: group, 5.0)

    assert gauges.of(wanted[0]) is None
    gauges.measure(wanted[0])

    assert group.asked == [("float32", "float16")]
    assert {gauges.of(entry).dtype for entry in wanted} == {"float32", "float16"}
    assert gauges.of(wanted[0]).matmul_tflops == (100.0, 99.0)


def test_rings_of_several_sizes_have_ceilings_of_their_own():
    one, other = entries(2), entries(4, ("float32",), played="4on2", playing=(0, 3))
    gauges = Gauges((*one, *other), lambda entry: Group(), 5.0)
    gauges.measure(one[0])

    assert gauges.of(other[0]) is None
    gauges.measure(other[0])
    assert gauges.of(other[0]).matmul == 99.0


def test_why_a_group_has_no_ceilings_is_kept():
    wanted = entries()
    gauges = Gauges(wanted, lambda entry: Group("out of memory"), 5.0)
    gauges.measure(wanted[0])

    found = gauges.of(wanted[0])
    assert (found.matmul, found.unmeasured) == (None, "out of memory")
