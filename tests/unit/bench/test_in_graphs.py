"""A ring in a CUDA graph: when it is asked for, beside what, and what is said where it cannot."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from ring_attn_bench.bench import in_graphs, prepared
from ring_attn_bench.bench.in_graphs import Replay
from ring_attn_bench.bench.messages import Prepare, Subject
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.suite import Suite
from ring_attn_bench.bench.suite_run import SuiteRun
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant, Record
from ring_attn_bench.ring.options import RingOptions
from tests.unit.bench.here import HereGroup, Watcher

IN_GRAPHS = (Subject.GRAPH, Subject.ONE_CALL_GRAPH)
OF_RINGS = [Direction.FORWARD, Direction.FORWARD_BACKWARD]


@pytest.fixture
def alone(tmp_path):
    """A group of this process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/met", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def captures(monkeypatch, alone):
    """As on GPUs; whose calls were captured."""
    names = []

    def captured(call, place, what):
        names.append(what)
        return Replay(SimpleNamespace(replay=call), call())

    monkeypatch.setattr(prepared, "captured_by_all", captured)
    asked = property(lambda self: self.request.graphs)
    monkeypatch.setattr(prepared.Prepared, "_has_graphs", asked)
    return names


def timed(tokens, **timing):
    """The records of a ring of one rank, by direction."""
    grid = {
        "backends": ["reference"], "seqlen_total": [tokens], "heads": ["2:2"], "head_dim": [8],
        "dtype": ["float32"], "directions": [x.value for x in Direction],
    }  # fmt: skip
    few = {"min_samples": 3, "max_samples": 3, "warmup": 1, "ceilings": False}
    suite = Suite.model_validate({"name": "rings", "grid": [grid], "timing": {**few, **timing}})
    watcher = Watcher()

    def make(*, entry, **fields):
        return Record(run="r", suite="s", case=entry.case, contestant=entry.contestant, **fields)

    SuiteRun(suite, suite.entries(1, "real"), lambda entry: HereGroup(), make, watcher).run()
    return {record.direction: record.speed.samples for record in watcher.records}


def test_a_short_ring_and_its_one_call_are_timed_in_graphs_too(captures):
    found = timed(32, ring_graph_tokens=32)

    assert {x: len(found[x].graph) for x in OF_RINGS} == dict.fromkeys(OF_RINGS, 3)
    assert {x: len(found[x].one_gpu_graph) for x in OF_RINGS} == dict.fromkeys(OF_RINGS, 3)
    assert len(captures) == 4


def test_a_backward_alone_is_in_none(captures):
    found = timed(32, ring_graph_tokens=32)[Direction.BACKWARD]

    assert found.graph == found.one_gpu_graph == []
    assert found.ring


@pytest.mark.parametrize(
    "timing", [{}, {"ring_graph_tokens": 31}], ids=["nobody asks", "a longer one"]
)
def test_what_no_suite_asks_for_is_in_none(captures, timing):
    found = timed(32, **timing)

    assert captures == []
    assert not any(samples.graph for samples in found.values())


@pytest.mark.parametrize("subject", IN_GRAPHS)
def test_a_ring_by_loopback_is_in_none(subject):
    place = WorkerPlace(0, 1, torch.device("cpu"), (0, 1), 2)
    case = Case(batch=1, seqlen_total=32, world_size=2, heads_q=2, heads_kv=2, head_dim=8,
                dtype="float32", causal=True)  # fmt: skip
    spec = Contestant(
        backend="reference", partition="zigzag", options=RingOptions(), played="loopback"
    )
    request = Prepare(
        case=case, contestant=spec, directions=(Direction.FORWARD,), seed=0, graphs=True
    )
    ring = prepared.prepare(request, place, Contexts(place))

    assert ring.call(Direction.FORWARD, subject) is None


def everybody(failed):
    """A process of a group in which somebody failed, or nobody did."""
    return SimpleNamespace(device=torch.device("cpu"), largest=lambda x: x.clamp_(min=failed))


def graph_of(call, monkeypatch, *, writes=True, factor=1.0):
    """What is captured; a replay writes the call's results, times a factor, or nothing."""
    results = call()

    def replay():
        for x, y in zip(results[0], call()[0], strict=True):
            if writes and x is not None:
                x.copy_(factor * y)

    made = Replay(SimpleNamespace(replay=replay), results)
    monkeypatch.setattr(in_graphs, "captured", lambda _: made)
    return made


def results():
    """A forward's, with a row that sees nothing."""
    return [(torch.arange(6.0).view(2, 3), torch.tensor([0.5, float("-inf")]), None)]


def test_a_call_that_one_process_could_not_capture_is_in_none_on_any(monkeypatch, caplog):
    made = graph_of(results, monkeypatch)

    assert in_graphs.captured_by_all(results, everybody(failed=0), "it") is made
    assert in_graphs.captured_by_all(results, everybody(failed=1), "it") is None
    assert caplog.records == []


@pytest.mark.parametrize("wrong", [{"writes": False}, {"factor": 1.05}], ids=str)
def test_a_replay_that_gives_something_else_is_in_none(monkeypatch, caplog, wrong):
    graph_of(results, monkeypatch, **wrong)

    assert in_graphs.captured_by_all(results, everybody(failed=0), "it") is None
    assert "a replay gives other results than the call" in caplog.text


def test_who_could_not_says_why_and_in_one_line(monkeypatch, caplog):
    def captured(call):
        raise RuntimeError("operation not permitted\nCUDA kernel errors might be reported")

    monkeypatch.setattr(in_graphs, "captured", captured)
    with caplog.at_level(logging.WARNING, "ring_attn_bench"):
        assert in_graphs.captured_by_all(print, everybody(failed=0), "peer:it") is None

    assert [record.getMessage() for record in caplog.records] == [
        "peer:it has no time in a CUDA graph: operation not permitted"
    ]
