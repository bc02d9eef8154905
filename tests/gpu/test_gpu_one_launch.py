"""Two GPUs: launches that wait for keys which copy engines bring, alone, captured and disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

from ring_attn_bench import RingContext, RingOptions, zigzag_ring_flash_attn_func
from tests.distributed.pool import RankPool, Ring
from tests.distributed.truth import PREFIXES, Case, attend, faults
from tests.gpu import stopped_ring

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("default"),
]

LIMIT = 200.0  # of a call: every rank compiles what is new in it
COPIES = RingOptions("copy_engine", schedule="one_launch")
MESSAGES = RingOptions("p2p", schedule="steps")
COLLECTIVES = RingOptions("all_gather", schedule="gather")
FEATURES = {
    "causal": {},
    "full": {"causal": False},
    "window": {"window": (300, 0)},
    "window on both sides": {"window": (900, 200), "causal": False},
    "softcap": {"softcap": 5.0},
    "sink": {"sink": True},
    "ALiBi": {"alibi": True},
    "dropout": {"dropout_p": 0.17},
}


@pytest.fixture(scope="module")
def ranks():
    with closing(RankPool(2, "nccl")) as pool:
        yield pool


def ringed(ring: Ring, case: Case, options: RingOptions):
    with RingContext(ring.group, options) as context:
        return attend(ring, case, context)


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES.keys())
@pytest.mark.parametrize("partition", PREFIXES)
def test_one_launch_over_copies_is_right(ranks, partition, features):
    case = Case(
        2, partition, 1024, heads=4, key_heads=2, dim=128, dtype=torch.bfloat16, backend="triton",
        device="cuda", slope=1 / 64, **features,
    )  # fmt: skip
    assert faults(case, ranks.run(ringed, case, COPIES, limit=LIMIT)) == []


@pytest.mark.parametrize("alibi", [False, True])  # which the plain kernels serve
@pytest.mark.parametrize("partition", PREFIXES)
def test_gradients_that_travel_in_the_inputs_dtype_are_right(ranks, partition, alibi):
    options = replace(COPIES, gradients="input")
    case = Case(
        2, partition, 1024, heads=4, key_heads=2, dim=128, dtype=torch.bfloat16, backend="triton",
        device="cuda", slope=1 / 64, alibi=alibi,
    )  # fmt: skip
    assert faults(case, ranks.run(ringed, case, options, limit=LIMIT)) == []


@pytest.mark.parametrize("schedule", ["one_launch", "steps", "gather"])
@pytest.mark.parametrize("partition", PREFIXES)
def test_gradients_of_kept_keys_are_right(ranks, partition, schedule):
    options = replace(COPIES, schedule=schedule, keep_keys=True)
    for change in ({}, {"causal": False, "batch": 2}, {"window": (300, 0)}):
        case = Case(
            2, partition, 1024, heads=4, key_heads=2, dim=128, dtype=torch.bfloat16,
            backend="triton", device="cuda", **change,
        )  # fmt: skip
        assert faults(case, ranks.run(ringed, case, options, limit=LIMIT)) == []


def tensors(tokens: int, seed: int, heads: tuple[int, int] = (4, 2)) -> list[torch.Tensor]:
    """q, k, v that ask for gradients, and dout."""
    generator = torch.Generator("cuda").manual_seed(seed + 1000 * dist.get_rank())
    made = [
        torch.randn(1, tokens, h, 128, device="cuda", dtype=torch.bfloat16, generator=generator)
        for h in (heads[0], heads[1], heads[1], heads[0])
    ]
    return [x.requires_grad_() for x in made[:3]] + made[3:]


def passes(context: RingContext, q, k, v, dout) -> tuple[torch.Tensor, ...]:
    """Out and the gradients."""
    out = zigzag_ring_flash_attn_func(q, k, v, causal=True, context=context, backend="triton")
    return (out.detach(), *torch.autograd.grad(out, (q, k, v), dout))


def furthest(got, right) -> float:
    """The largest relative difference of any of the tensors, by its largest element; NaN is."""
    apart = [
        ((x.float() - y.float()).abs().max() / y.float().abs().max()).item()
        for x, y in zip(got, right, strict=True)
    ]
    return float("inf") if any(x != x for x in apart) else max(apart)


def many_shapes(ring: Ring, calls: int) -> tuple[float, int, int]:
    """The worst difference from a ring of messages, and what memory and threads grew by."""
    choose = random.Random(3)
    lengths = [256 * n for n in range(1, 9)]
    worst = 0.0
    with RingContext(ring.group, COPIES) as context, RingContext(ring.group, MESSAGES) as other:
        right = {n: passes(other, *tensors(n, n)) for n in lengths}
        given = {n: tensors(n, n) for n in lengths}
        for n in lengths:
            passes(context, *given[n])
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated(), threading.active_count()
        apart = torch.zeros((), device="cuda")
        for index in range(calls):
            n = choose.choice(lengths)
            results = passes(context, *given[n])
            for x, y in zip(results, right[n], strict=True):
                apart = apart.maximum((x.float() - y.float()).abs().max() / y.abs().max())
            if index % 500 == 0:
                assert apart.isfinite()
            del results, x, y
        worst = apart.item()
        torch.cuda.synchronize()
        del apart
        after = torch.cuda.memory_allocated(), threading.active_count()
    return worst, after[0] - before[0], after[1] - before[1]


def test_ten_thousand_calls_of_changing_shapes_grow_nothing_and_are_right(ranks):
    for worst, memory, threads in ranks.run(many_shapes, 10_000, limit=LIMIT):
        assert worst < 0.02
        assert memory <= 0
        assert threads <= 0


def replayed(ring: Ring, replays: int) -> float:
    """Forward and backward in a graph, replayed with new data: the worst relative difference."""
    worst = 0.0
    with RingContext(ring.group, COPIES) as context, RingContext(ring.group, MESSAGES) as other:
        given = tensors(1024, 0)
        for _ in range(3):
            passes(context, *given)
        torch.cuda.synchronize()
        dist.barrier()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = passes(context, *given)
        for index in range(replays):
            with torch.no_grad():
                for old, new in zip(given, tensors(1024, index + 1), strict=True):
                    old.copy_(new)
            for result in results:
                result.fill_(float("nan"))
            graph.replay()
            if index % 10 == 0:
                worst = max(worst, furthest(results, passes(other, *given)))
            if index % 50 == 0:  # and by the way, without a graph
                worst = max(worst, furthest(passes(context, *given), results))
        torch.cuda.synchronize()
        dist.barrier()
    return worst


def test_a_thousand_replays_with_new_data_are_right(ranks):
    assert max(ranks.run(replayed, 1000, limit=LIMIT)) < 0.02


class Layer(torch.nn.Module):
    """What a model calls."""

    def __init__(self, context: RingContext) -> None:
        super().__init__()
        self.context = context

    def forward(self, q, k, v):
        return zigzag_ring_flash_attn_func(
            q, k, v, causal=True, context=self.context, backend="triton"
        )


def graphed_callable(ring: Ring) -> float:
    """`make_graphed_callables`: the worst difference of results and gradients."""
    worst = 0.0
    with RingContext(ring.group, COPIES) as context, RingContext(ring.group, MESSAGES) as other:
        *leaves, _ = tensors(1024, 0)
        layer = torch.cuda.make_graphed_callables(Layer(context), tuple(leaves))
        for index in range(20):
            *leaves, dout = tensors(1024, index + 1)
            out = layer(*leaves)
            found = out.detach().clone(), *torch.autograd.grad(out, leaves, dout)
            worst = max(worst, furthest(found, passes(other, *leaves, dout)))
        torch.cuda.synchronize()
        dist.barrier()
    return worst


def test_graphed_callables_are_right(ranks):
    assert max(ranks.run(graphed_callable, limit=LIMIT)) < 0.02


def disturbed(ring: Ring, how: str) -> float:
    """Passes beside something else that wants the GPUs; the worst difference."""
    worst = 0.0
    given = tensors(2048, 5, (16, 4))
    with ExitStack() as stack:
        context = stack.enter_context(RingContext(ring.group, COPIES))
        second = stack.enter_context(RingContext(ring.group, COPIES))
        right = passes(stack.enter_context(RingContext(ring.group, MESSAGES)), *given)
        other, side = dist.new_group([0, 1]), torch.cuda.Stream()
        shards = torch.randn(1 << 22, device="cuda")
        whole = torch.empty(2 << 22, device="cuda")
        host = torch.empty(1 << 24, pin_memory=True)
        device = torch.empty(1 << 24, device="cuda")
        for _ in range(30):
            with torch.cuda.stream(side):
                if how == "collectives":  # as FSDP gathers the next layer's weights
                    dist.all_gather_into_tensor(whole, shards, group=other)
                    dist.reduce_scatter_tensor(shards, whole, group=other)
                elif how == "offload":
                    device.copy_(host, non_blocking=True)
                    host.copy_(device, non_blocking=True)
            found = passes(context, *given)
            if how == "two rings":
                worst = max(worst, furthest(passes(second, *given), right))
            worst = max(worst, furthest(found, right))
        torch.cuda.synchronize()
        dist.barrier()
    return worst


@pytest.mark.parametrize("how", ["collectives", "offload", "two rings"])
def test_what_else_uses_the_gpus_changes_nothing(ranks, how):
    assert max(ranks.run(disturbed, how, limit=LIMIT)) < 0.02


def in_odd_places(ring: Ring) -> float:
    """Backward on another thread, and under activation checkpointing; the worst difference."""
    found = []
    with RingContext(ring.group, COPIES) as context, RingContext(ring.group, MESSAGES) as other:
        q, k, v, dout = tensors(1024, 9)
        right = passes(other, q, k, v, dout)
        out = Layer(context)(q, k, v)

        def backward() -> None:
            torch.cuda.set_device(ring.rank)
            found.append((out.detach(), *torch.autograd.grad(out, (q, k, v), dout)))

        thread = threading.Thread(target=backward)
        thread.start()
        thread.join()
        again = checkpoint(Layer(context), q, k, v, use_reentrant=False)
        found.append((again.detach(), *torch.autograd.grad(again, (q, k, v), dout)))
        torch.cuda.synchronize()
        dist.barrier()
    return max(furthest(x, right) for x in found)


def test_backward_may_run_on_another_thread_and_under_checkpointing(ranks):
    assert max(ranks.run(in_odd_places, limit=LIMIT)) < 0.02


def leaving(ring: Ring) -> float:
    """Seconds until a rank is out of its context; one of them fails, a collective under way."""
    q, k, v, dout = tensors(1024, 11)
    started = time.monotonic()
    with suppress(ZeroDivisionError), RingContext(ring.group, COLLECTIVES) as context:
        passes(context, q, k, v, dout)  # the communicator is there
        torch.cuda.synchronize()
        dist.barrier()
        started = time.monotonic()
        if ring.rank == 0:  # the other one never comes
            dist.all_reduce(torch.ones(1, device="cuda"), group=context.group, async_op=True)
            raise ZeroDivisionError
    return time.monotonic() - started


def test_an_error_leaves_a_context_at_once_and_the_gpus_go_on(ranks):
    assert max(ranks.run(leaving, limit=LIMIT)) < 20
    assert max(ranks.run(disturbed, "collectives", limit=LIMIT)) < 0.02


@pytest.mark.parametrize("variable", ["CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_LAUNCH_BLOCKING"])
def test_it_is_right_where_the_environment_lines_up_what_runs_side_by_side(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    case = Case(
        2, "zigzag", 2048, heads=4, key_heads=2, dim=128, dtype=torch.bfloat16, backend="triton",
        device="cuda",
    )  # fmt: skip
    with closing(RankPool(2, "nccl")) as pool:
        assert faults(case, pool.run(ringed, case, COPIES, limit=LIMIT)) == []
        assert max(pool.run(disturbed, "collectives", limit=LIMIT)) < 0.02


@pytest.mark.parametrize("schedule", ["one_launch", "steps"])
@pytest.mark.parametrize("direction", ["forward", "backward", "backward of kept keys"])
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=lambda x: x.name)
def test_a_rank_that_stops_is_named_in_time_and_its_peer_lives_on(
    tmp_path, how, direction, schedule
):
    """See `stopped_ring`, which says on its own what it found."""
    store, limit = str(tmp_path / "store"), timedelta(seconds=6)
    here = Path(stopped_ring.__file__).parents[2]
    command = [sys.executable, "-m", "tests.gpu.stopped_ring", store, direction, schedule]
    environment = {**os.environ, "PYTHONPATH": f"{here}:{os.environ.get('PYTHONPATH', '')}"}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(int(how)), str(limit.total_seconds())],
            cwd=here, env=environment, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = processes[0].communicate(timeout=150)[0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert processes[0].returncode == 0
    told, seconds, sentence = said.strip().splitlines()[-1].split("|", 2)
    assert told == "RingBroken"
    assert limit.total_seconds() <= float(seconds) < limit.total_seconds() + 5
    assert "rank 1" in sentence
