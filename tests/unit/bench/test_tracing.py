"""Ranks' clocks are brought together, and what stands around a kernel or a link changes nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import registry
from ring_attn_bench.bench.recorder import DeviceClock, HostClock, Recorder
from ring_attn_bench.bench.traced import TracedLink, traced_job
from ring_attn_bench.bench.tracing import Looked, Traces, aligned
from ring_attn_bench.contract.backend import abilities, accumulating, gathering
from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plan
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.records.trace import Span, in_folder
from ring_attn_bench.ring import passes
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.transports.loopback import Loopback

BACKENDS = [name for name in registry.backends() if name in ("reference", "aten", "flex")]


def looked(rank, clock, meetings, late, began, took):
    """A rank whose clock is ahead by `clock`, and who leaves meetings late."""
    start, end = began + clock, began + took + clock
    return Looked(
        rank=rank, clock="a clock", began=start, ended=end,
        met=[x + y + clock for x, y in zip(meetings, late, strict=True)],
        spans=(Span(lane="launches", name="x", start=start, end=end),),
    )  # fmt: skip


@given(
    clocks=st.lists(st.floats(-1e8, 1e8), min_size=2, max_size=5),
    outlier=st.floats(0, 50),
    at=st.integers(0, 8),
)
def test_clocks_that_are_apart_are_brought_together_whoever_is_late_once(clocks, outlier, at):
    meetings = [float(x) for x in range(9)]
    looks = []
    for rank, clock in enumerate(clocks):
        late = [0.0] * 9
        if rank == 1:
            late[at] = outlier  # the system took this process away for a while
        looks.append(looked(rank, clock, meetings, late, 10.0 + rank, 5.0))
    found = aligned(looks)

    for rank, trace in enumerate(found):
        assert trace.rank == rank
        assert trace.spans[0].start == pytest.approx(rank, abs=1e-6)
        assert trace.end == pytest.approx(rank + 5.0, abs=1e-6)


def test_a_span_does_not_end_before_it_begins():
    short = looked(0, 1e8, [0.0] * 3, [0.0] * 3, 1.0, 0.0)
    (found,) = aligned([short])
    assert found.spans[0].end >= found.spans[0].start == 0.0


def ring_job(backend, rank=1):
    layout = Layout(PARTITIONS["zigzag"], 2, 16, Mask(causal=True).band)
    return Job(plan(layout, rank, abilities(backend, alibi=False)), backend, Score(0.3),
               torch.float32)  # fmt: skip


@pytest.mark.parametrize("name", BACKENDS)
def test_what_stands_around_a_backend_can_what_it_can(name):
    backend = registry.load(name)
    seen = traced_job(ring_job(backend), Recorder(HostClock())).backend

    assert abilities(seen, alibi=False) == abilities(backend, alibi=False)
    assert (accumulating(seen) is None) is (accumulating(backend) is None)
    assert (gathering(seen) is None) is (gathering(backend) is None)
    assert (seen.name, seen.needs_delta, seen.version()) == (
        backend.name, backend.needs_delta, backend.version(),
    )  # fmt: skip


class Adding(ReferenceBackend):
    """One that accumulates: writes or adds, by the reference."""

    def forward_into(self, q, keys, running, block, score, *, first):
        assert first
        out, lse = super().forward(q, keys, block, score)
        running.result.copy_(out)
        running.lse.copy_(lse)

    def backward_into(self, rows, keys, sums, block, score, *, first, first_keys, deterministic):
        raise AssertionError


def test_launches_of_a_kernel_that_accumulates_are_seen_too():
    backend, recorder = Adding(), Recorder(HostClock())
    layout = Layout(PARTITIONS["contiguous"], 1, 8, Mask().band)
    job = Job(plan(layout, 0, abilities(backend, alibi=False)), backend, Score(0.3), torch.float32)
    q, k, v = (torch.randn(1, 8, 2, 8) for _ in range(3))
    plain, _ = passes.forward(job, Loopback(), q, Keys(k, v))
    seen, _ = passes.forward(traced_job(job, recorder), Loopback(), q, Keys(k, v))

    assert torch.equal(plain, seen)
    (span,) = recorder.told()
    assert (span["lane"], span["name"], span["step"]) == ("launches", "forward 8 rows", 0)
    assert span["end"] >= span["start"]


class FakeStream:
    """What was done on it, in order, in a log that all streams share."""

    def __init__(self, name, log):
        self.name, self._log, self.cuda_stream = name, log, 0

    def wait_stream(self, other):
        self._log.append((self.name, "waits for", other.name))


@pytest.fixture
def cuda(monkeypatch):
    """A device whose events are counted: each is a millisecond after the one before."""
    log, count = [], iter(range(1000))
    main = FakeStream("main", log)
    current = [main]

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.at = next(count)
            log.append((stream.name, "event", self.at))

        def elapsed_time(self, other):
            return float(other.at - self.at)

    class Aside:
        def __init__(self, stream):
            self._stream = stream

        def __enter__(self):
            current.append(self._stream)

        def __exit__(self, *_):
            current.pop()

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: FakeStream("aside", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", Aside)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, s: log.append(("keys", s.name)))
    return log


class FakeLink:
    """A link of two steps that logs on which stream it is called."""

    def __init__(self, log, copies_on=None):
        self._log = log
        if copies_on is not None:
            self.copies_on = copies_on

    def _called(self, what):
        if self._log is not None:
            self._log.append((torch.cuda.current_stream().name, what))

    def publish(self, keys):
        self._called("publish")

    def post(self, index):
        self._called(f"post {index}")

    def landed(self, index):
        self._called(f"landed {index}")
        return torch.zeros(1)

    def give(self, index, partials):
        self._called(f"give {index}")

    def received(self, outstanding):
        yield from [("part", 1)]

    def finish(self):
        self._called("finish")


def remote_plan():
    return ring_job(registry.load("reference")).plan


def test_on_a_gpu_an_arrival_is_seen_from_a_stream_of_its_own(cuda):
    recorder = Recorder(DeviceClock())
    link = TracedLink(FakeLink(cuda), remote_plan(), recorder)
    link.post(1)
    cuda.clear()
    link.landed(1)

    assert cuda == [
        ("main", "event", 2), ("aside", "landed 1"), ("aside", "event", 3),
        ("main", "waits for", "aside"), ("keys", "main"), ("main", "event", 4),
    ]  # fmt: skip
    told = {x["lane"]: (x["start"], x["end"]) for x in recorder.told()}
    assert told == {"keys": (1.0, 3.0), "waits": (2.0, 4.0)}


def test_copies_that_have_streams_of_their_own_are_timed_on_those(cuda):
    pulls, pushes = FakeStream("pulls", cuda), FakeStream("pushes", cuda)
    recorder = Recorder(DeviceClock())
    link = TracedLink(FakeLink(cuda, (pulls, pushes)), remote_plan(), recorder)
    cuda.clear()
    link.post(1)
    link.landed(1)
    link.give(1, torch.zeros(1))

    assert cuda == [
        ("pulls", "event", 1), ("main", "post 1"), ("pulls", "event", 2),
        ("main", "event", 3), ("main", "landed 1"), ("main", "event", 4),
        ("pushes", "waits for", "main"), ("pushes", "event", 5),
        ("main", "give 1"), ("pushes", "event", 6),
    ]  # fmt: skip
    assert [x["lane"] for x in recorder.told()] == ["keys", "waits", "gradients"]


def test_gradients_come_when_what_was_given_first_has_come():
    recorder = Recorder(HostClock())
    link = TracedLink(FakeLink(None), remote_plan(), recorder)
    link.give(1, torch.zeros(1))
    assert [x["lane"] for x in recorder.told()] == []
    assert list(link.received(0)) == [("part", 1)]
    link.finish()

    told = [(x["lane"], x["step"]) for x in recorder.told()]
    assert told.count(("gradients", 1)) == 1
    assert told.count(("waits", None)) == 3


def test_a_trace_is_kept_with_the_rows_ideal_and_a_failure_is_told(make_record, tmp_path):
    record, told = make_record(), []
    traces = Traces(tmp_path, told.append)
    traces.keep(record, [looked(0, 5.0, [1.0], [0.0], 2.0, 3.0)])
    traces.failed(record, "it crashed")

    (found,) = in_folder(tmp_path, pytest.fail)
    assert found.key == record.key
    assert found.ideal_ms == pytest.approx(0.9 * found.ring_ms, rel=0.05)
    assert told == ["    no trace of triton/zigzag/p2p forward: it crashed; its times are kept."]
