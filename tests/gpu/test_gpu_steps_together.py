"""On a GPU: steps over caches that run together: threads, streams, graphs, compiled programs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from ring_attn_backends.triton import kept

from ring_attn_bench import flash_attn_with_kvcache
from ring_attn_bench.cached import again
from ring_attn_bench.calls.remembered import Remembered
from ring_attn_bench.relaunch.scratch import STREAMS, _of_streams
from ring_attn_bench.ring.transports.copy_engine.memory_operations import driver
from ring_attn_bench.ring.transports.copy_engine.streams import own_stream

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280), pytest.mark.filterwarnings("default")]
ROOM, HEADS, KEY_HEADS, DIM = 8192, 32, 8, 128

_alive: list[torch.cuda.Stream] = []
"""Streams on which there were results: torch's allocator goes on asking about them, also when the
program ends, which is a segmentation fault where they ended before (torch 2.11, with a program
that was compiled to graphs)."""


@pytest.fixture(autouse=True)
def _nothing_was_made_before(monkeypatch):
    monkeypatch.setattr(kept, "_kept", {})
    monkeypatch.setattr(again, "_made", Remembered())


class Step:
    """A step of its own tensors, and what it gives alone."""

    def __init__(self, seed: int, batch: int = 1) -> None:
        generator = torch.Generator("cuda").manual_seed(seed)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, device="cuda").bfloat16()

        self.q = random(batch, 1, HEADS, DIM)
        self.cache = [random(batch, ROOM, KEY_HEADS, DIM) for _ in range(2)]
        self.lengths = torch.full((batch,), ROOM - 37 * seed, dtype=torch.int32, device="cuda")
        self.alone = self()
        torch.cuda.synchronize()

    def __call__(self) -> torch.Tensor:
        out = flash_attn_with_kvcache(
            self.q, *self.cache, cache_seqlens=self.lengths, causal=True, backend="triton"
        )
        assert isinstance(out, torch.Tensor)
        return out

    def wrong(self, outs: list[torch.Tensor]) -> int:
        """How many differ from what the step gives alone in a bit."""
        return sum(not torch.equal(out, self.alone) for out in outs)


def test_threads_on_one_stream_do_not_mix_their_steps():
    steps = [Step(seed) for seed in range(4)]
    together = Barrier(len(steps))

    def many(step: Step) -> int:
        together.wait()
        return step.wrong([step() for _ in range(300)])

    with ThreadPoolExecutor(len(steps)) as threads:
        assert list(threads.map(many, steps)) == [0] * len(steps)


def test_streams_do_not_share_what_their_steps_write_between():
    steps = [Step(seed) for seed in range(4)]
    streams = [torch.cuda.Stream() for _ in steps]
    outs: list[list[torch.Tensor]] = [[] for _ in steps]
    for _ in range(100):
        for step, stream, own in zip(steps, streams, outs, strict=True):
            with torch.cuda.stream(stream):
                own.append(step())
    torch.cuda.synchronize()

    assert [step.wrong(own) for step, own in zip(steps, outs, strict=True)] == [0] * len(steps)


def test_graphs_of_one_capture_stream_are_replayed_beside_each_other_and_beside_steps():
    steps = [Step(seed) for seed in range(3)]
    graphs, results = [], []
    for step in steps[:2]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results.append([step() for _ in range(4)])
        graphs.append(graph)
    streams = [torch.cuda.Stream() for _ in steps]
    for _ in range(50):
        for graph, stream in zip(graphs, streams, strict=False):
            with torch.cuda.stream(stream):
                graph.replay()
        with torch.cuda.stream(streams[2]):
            outs = [steps[2]() for _ in range(8)]
    torch.cuda.synchronize()

    assert [step.wrong(own) for step, own in zip(steps, [*results, outs], strict=True)] == [0] * 3


def test_more_streams_than_have_scratch_at_a_time():
    step, outs, at = Step(1), [], driver()
    assert at is not None
    device = torch.device("cuda", torch.cuda.current_device())
    _alive.extend(own_stream(at, device) for _ in range(STREAMS + 20))
    for stream in 2 * _alive:
        with torch.cuda.stream(stream):
            outs.append(step())
    torch.cuda.synchronize()

    assert step.wrong(outs) == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_a_program_compiled_to_graphs_steps_as_it_does_without(seed):
    step = Step(seed)
    compiled = torch.compile(lambda q: 2 * flash_attn_with_kvcache(
        q, *step.cache, cache_seqlens=step.lengths, causal=True, backend="triton"
    ), mode="reduce-overhead", fullgraph=True)  # fmt: skip
    with torch.no_grad():
        for factor in range(1, 7):
            q = step.q * factor
            right = 2 * flash_attn_with_kvcache(
                q, *step.cache, cache_seqlens=step.lengths, causal=True, backend="triton"
            )
            assert torch.equal(compiled(q).clone(), right)


def test_no_memory_is_taken_for_ten_thousand_steps():
    step = Step(2, batch=2)
    step()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), list(_of_streams)
    for _ in range(10_000):
        step()
    torch.cuda.synchronize()

    after = torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), list(_of_streams)
    assert after == before
