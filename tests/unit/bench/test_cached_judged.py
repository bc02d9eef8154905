"""A kernel that is wrong over a cache is wrong in its record, and one that is right has a speed."""

import time

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import registry
from ring_attn_bench.bench.cached import prepared
from ring_attn_bench.bench.cached.prepared import PreparedCache
from ring_attn_bench.bench.in_graphs import Replay
from ring_attn_bench.bench.messages import Sample, Subject
from ring_attn_bench.bench.suite import Suite
from ring_attn_bench.bench.suite_run import SuiteRun
from ring_attn_bench.bench.timing import Timer
from ring_attn_bench.records.record import Record
from ring_attn_bench.records.status import Status
from tests.unit.bench.here import HereGroup, Watcher
from tests.unit.conformance import faulty_caches

SHAPES = {
    "rows": {},
    "pages": {"page": [16]},
    "leftpad": {"leftpad": [3]},
    "append": {"append": [True]},
    "turned": {"append": [True], "rotary": ["pairs"]},
    "latent": {"head_dim_v": [4], "latent": [True]},
}
"""By name, what is over a cache of two entries of 40 tokens with two queries each."""
SPOILT = {
    "AllTheRoom": set(SHAPES),
    "PaddingSeen": {"leftpad"},
    "PagesInOrder": {"pages"},
    "Forgetful": {"append", "turned"},
    "Untidy": {"append", "turned"},
    "TurnedAlike": {"turned"},
    "TurnedInHalves": {"turned"},
    "EndsAtTheLastOfOld": {"append", "turned"},
}
"""By planted fault, where it must be found; entries do not name their rows in a suite."""


class KnowsTheCache(ReferenceBackend):
    """Answers what it answered to a cache of that shape in that memory, whatever lies there now."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def cached_forward(self, call):
        key = call.cache.k.data_ptr(), call.q.shape
        if key not in self.known:
            self.known[key] = super().cached_forward(call)
        return self.known[key]


def run(monkeypatch, kind, group, *, enabled=True, invariants=True, graphs=True, **axes):
    """The record of one case; what the library keeps by a kernel's name is this kind's alone."""
    named = type(kind.__name__, (kind,), {"name": kind.__name__})()
    monkeypatch.setattr(registry, "load", lambda name: named)
    grid = {
        "backends": ["reference"], "seqlen_total": [40], "batch": [2], "heads": ["4:2"],
        "head_dim": [8], "dtype": ["float32"], "directions": ["forward"], "queries": [2], **axes,
    }  # fmt: skip
    suite = Suite.model_validate({
        "name": "cached", "grid": [grid], "check": {"invariants": invariants},
        "timing": {"min_samples": 6, "max_samples": 6, "warmup": 1, "enabled": enabled,
                   "graphs": graphs},
    })  # fmt: skip
    watcher = Watcher()

    def make(*, entry, **fields):
        return Record(run="r", suite="s", case=entry.case, contestant=entry.contestant, **fields)

    SuiteRun(suite, suite.entries(1, "real"), lambda entry: group, make, watcher).run()
    (record,) = watcher.records
    return record


class TakesOtherValues(ReferenceBackend):
    """Values that are part of the keys are taken to begin where they do not."""

    def cached_forward(self, call):
        cache = call.cache
        v = cache.k[..., -cache.v.shape[-1] :] if cache.latent else cache.v
        return super().cached_forward(call._replace(cache=cache._replace(v=v)))


@pytest.mark.parametrize("shape", SHAPES)
def test_values_that_are_other_columns_of_latent_keys_are_found(monkeypatch, shape):
    record = run(monkeypatch, TakesOtherValues, HereGroup(), enabled=False, **SHAPES[shape])

    assert (record.status is Status.WRONG) is (shape == "latent"), record.reason


class LengthsOfTheFirst(ReferenceBackend):
    """All entries are as long as the first."""

    def cached_forward(self, call):
        lengths = call.cache.lengths[:1].expand(len(call.q)).contiguous()
        return super().cached_forward(call._replace(cache=call.cache._replace(lengths=lengths)))


@pytest.mark.parametrize("shape", SHAPES)
def test_lengths_of_entries_that_are_mixed_up_are_found(monkeypatch, shape):
    record = run(monkeypatch, LengthsOfTheFirst, HereGroup(), enabled=False, **SHAPES[shape])

    assert record.status is Status.WRONG


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fault", SPOILT)
def test_a_planted_fault_is_found_where_it_spoils_something_and_nowhere_else(
    monkeypatch, fault, shape
):
    kind = getattr(faulty_caches, fault)

    record = run(monkeypatch, kind, HereGroup(), enabled=False, **SHAPES[shape])

    assert (record.status is Status.WRONG) is (shape in SPOILT[fault]), record.reason
    assert record.speed is None


def test_no_fault_is_forgotten():
    planted = {
        name
        for name, kind in vars(faulty_caches).items()
        if isinstance(kind, type) and issubclass(kind, ReferenceBackend)
    }
    of_no_axis = {"RowsInOrder", "SinkDropped"}
    assert planted - {"ReferenceBackend", "WithSinks"} == SPOILT.keys() | of_no_axis


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sound_kernel_is_right_has_a_speed_and_what_it_reads_is_on_record(monkeypatch, shape):
    group = HereGroup()

    record = run(monkeypatch, ReferenceBackend, group, **SHAPES[shape])

    assert record.status is Status.OK
    keys = 37 if shape == "leftpad" else 40
    columns, in_memory = (8 + 4, 8) if shape == "latent" else (8 + 8, 8 + 8)
    assert record.speed.cache_bytes == 2 * keys * 2 * in_memory * 4
    assert record.speed.useful_flops == 2 * 4 * columns * (keys + keys - 1) * 2
    assert len(record.speed.samples.ring) == 6
    assert record.speed.samples.twin == record.speed.samples.one_gpu == []
    assert record.accuracy.invariants["rows_sum_to_one"]["out"].is_kept
    assert record.accuracy.oracle_rows == 2
    asked = {command.subject for command in group.log if isinstance(command, Sample)}
    assert asked == {Subject.RING, Subject.GRAPH}  # of a CPU there is no graph
    assert not record.speed.samples.graph


def test_a_kernel_that_goes_by_the_memory_of_a_cache_is_wrong_after_its_timing(monkeypatch):
    record = run(monkeypatch, KnowsTheCache, HereGroup(), invariants=False)

    assert record.status is Status.WRONG
    assert record.reason.startswith("right before it was timed, and wrong afterwards")


def test_without_a_mask_queries_see_what_comes_after_them_and_a_long_sample_is_enough(monkeypatch):
    for axes in ({"causal": [False]}, {"window": [[5, 0]]}, {"softcap": [3.0]}):
        assert run(monkeypatch, ReferenceBackend, HereGroup(), enabled=False, **axes).status == "ok"


def test_what_has_no_attention_over_a_cache_says_so(monkeypatch):
    class Dense(ReferenceBackend):
        cached_forward = None

    record = run(monkeypatch, Dense, HereGroup())

    assert record.status is Status.UNSUPPORTED
    assert record.reason == "it has no attention over a cache"


def test_results_in_which_nothing_is_finite_are_wrong(monkeypatch):
    class Nothing(ReferenceBackend):
        def cached_forward(self, call):
            return tuple(torch.full_like(x, float("nan")) for x in super().cached_forward(call))

    record = run(monkeypatch, Nothing, HereGroup(), enabled=False)

    assert record.status is Status.WRONG
    assert "not finite" in record.reason


class Graph:
    """A stand-in for a CUDA graph: it leaves results where they were when it was captured."""

    def __init__(self, step, *, stuck=False):
        self._step, self._stuck = step, stuck
        self.outputs = step()

    def replay(self):
        if not self._stuck:
            for there, new in zip(self.outputs, self._step(), strict=True):
                there.copy_(new)


def with_graphs(monkeypatch, *, stuck=False):
    """As on a GPU, four calls in a sample; stuck: what is captured is what is replayed."""

    def captured(step):
        graph = Graph(step, stuck=stuck)
        return Replay(graph, graph.outputs)

    monkeypatch.setattr(prepared, "captured", captured)
    monkeypatch.setattr(PreparedCache, "_has_graphs", property(lambda self: self.request.graphs))
    monkeypatch.setattr(PreparedCache, "calls", 4)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_call_in_a_graph_is_judged_and_timed_too(monkeypatch, shape):
    with_graphs(monkeypatch)

    record = run(monkeypatch, ReferenceBackend, HereGroup(), **SHAPES[shape])

    assert record.status is Status.OK
    assert len(record.speed.samples.graph) == 6


@pytest.mark.parametrize("shape", SHAPES)
def test_a_graph_that_keeps_what_it_was_captured_with_is_wrong(monkeypatch, shape):
    with_graphs(monkeypatch, stuck=True)

    record = run(monkeypatch, ReferenceBackend, HereGroup(), **SHAPES[shape])

    assert record.status is Status.WRONG
    assert record.accuracy.call == 3
    assert record.reason.startswith("right when it is called, and in a CUDA graph too far from")


def test_a_suite_that_wants_no_graphs_has_none(monkeypatch):
    with_graphs(monkeypatch, stuck=True)

    record = run(monkeypatch, ReferenceBackend, HereGroup(), graphs=False)

    assert record.status is Status.OK
    assert not record.speed.samples.graph


def test_a_samples_time_is_shared_among_its_calls(monkeypatch):
    """Of a kernel that takes five milliseconds, the time of one call and not of four."""

    class Slow(ReferenceBackend):
        def cached_forward(self, call):
            time.sleep(5e-3)
            return super().cached_forward(call)

    with_graphs(monkeypatch)
    timed = []
    sample = Timer.sample

    def noted(self, call, count, *arguments):
        found = sample(self, call, count, *arguments)
        timed.extend(found if len(arguments) > 1 else [])
        return found

    monkeypatch.setattr(Timer, "sample", noted)
    record = run(monkeypatch, Slow, HereGroup())

    told = [one for of in (record.speed.samples.ring, record.speed.samples.graph) for (one,) in of]
    assert min(timed) >= 20
    assert sorted(told) == pytest.approx(sorted(x / 4 for x in timed), abs=1e-3)
