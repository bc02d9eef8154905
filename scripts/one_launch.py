"""The one-launch ring beside one call of one GPU's share: from a full queue, and in CUDA graphs.

    torchrun --nproc-per-node=2 scripts/one_launch.py [--tokens 1024 ...] [--heads 32:8] [--steps]
        [--gather] [--backend triton]

zigzag, causal, bf16, head dim 128, batch 1. A backend that cannot wait has no one launch, but steps
and gathers over the same copies. Contestants take turns; each call comes
from a cold L2, behind a barrier and a wait on the device that hides the host's time; a figure is
the median of the slowest rank's times. *One call* has a sequence of about as many pairs as a rank
of the ring; percentages are by pair. *Host* is the time until a call returns, of a few in a row
that start together on idle GPUs. Prints a table on rank 0.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Iterator
from math import isqrt
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench import (
    RingContext,
    RingOptions,
    flash_attn_func,
    zigzag_ring_flash_attn_func,
)
from ring_attn_bench.contract.backend import gathering
from ring_attn_bench.registry import load

Call = Callable[[], object]
MESSAGES = "steps, p2p"
"""Of which no graph is made: its messages are a library's."""
DIM, ROUNDS, WARM, SLEEP = 128, 11, 2, 8_000_000
IN_A_ROW = 5
"""Calls of which the host's time is taken: few enough that no queue is ever full."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--heads", default="32:8", help="query heads:key heads")
    parser.add_argument("--steps", action="store_true", help="also rings of steps")
    parser.add_argument("--gather", action="store_true", help="also a ring that gathers")
    parser.add_argument("--backend", default="triton", help="the kernel; default: triton")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device; it times GPUs, one for each process of torchrun")
    logging.basicConfig()
    rank = int(os.environ["RANK"])
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl", device_id=torch.device("cuda", torch.cuda.current_device()))
    heads = [int(x) for x in asked.heads.split(":")]
    rings: dict[str, RingContext] = {}
    if gathering(load(asked.backend)) is not None:
        rings["one launch"] = RingContext(options=RingOptions(schedule="one_launch"))
    if asked.gather:
        rings["gather"] = RingContext(options=RingOptions(schedule="gather"))
    if asked.steps:
        rings["steps"] = RingContext(options=RingOptions(schedule="steps"))
        rings[MESSAGES] = RingContext(options=RingOptions("p2p", schedule="steps"))
    if rank == 0:
        print(f"{dist.get_world_size()} GPUs, {torch.cuda.get_device_name()}, torch", end=" ")
        print(f"{torch.__version__}, {asked.backend}, heads {asked.heads}; us, and % of one call")
        columns = ("tokens per GPU", "", "one call", *rings)
        print("".join(f"{x:>22}" for x in columns), flush=True)
    for tokens in asked.tokens:
        for what, times in figures(rings, tokens, heads, asked.backend):
            if rank == 0:
                print(f"{tokens:>22}{what:>22}", end="")
                print("".join(f"{x:>22}" for x in times), flush=True)
    dist.destroy_process_group()


def figures(
    rings: dict[str, RingContext], tokens: int, heads: list[int], backend: str
) -> Iterator[tuple[str, list[str]]]:
    """A line for each direction and way of calling."""
    length = isqrt(dist.get_world_size() * tokens * tokens) // 128 * 128
    share = dist.get_world_size() * tokens * tokens / (length * length)
    shard, whole = inputs(tokens, heads), inputs(length, heads)

    def ring(context: RingContext, *, backward: bool) -> Call:
        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return zigzag_ring_flash_attn_func(
                q, k, v, causal=True, context=context, backend=backend
            )

        return call(attention, shard, backward=backward)

    def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flash_attn_func(q, k, v, causal=True, backend=backend)

    for way in ("queued", "graph"):
        for backward in (False, True):
            calls = {"one call": call(one, whole, backward=backward)}
            calls |= {name: ring(x, backward=backward) for name, x in rings.items()}
            if way == "queued":
                yield f"host {'f+b' if backward else 'f'}", host_times(calls)
            else:
                calls = {name: captured(x) for name, x in calls.items() if name != MESSAGES}
            took = timed(calls)
            least = took.pop("one call")
            percent = [
                f"{took[name]:.0f}, {100 * share * least / took[name]:.1f} %"
                if name in took
                else "-"
                for name in rings
            ]
            yield f"{way} {'f+b' if backward else 'f'}", [f"{least:.0f}", *percent]


def inputs(tokens: int, heads: list[int]) -> list[Tensor]:
    """q, k, v and dout."""
    sides = (heads[0], heads[1], heads[1], heads[0])
    made = [
        torch.randn(1, tokens, h, DIM, dtype=torch.bfloat16, device="cuda") for h in sides
    ]  # fmt: skip
    return [x.requires_grad_() for x in made[:3]] + made[3:]


def call(attention: Callable[..., Tensor], tensors: list[Tensor], *, backward: bool) -> Call:
    """A forward, or a forward and its backward."""
    *leaves, dout = tensors

    def forward() -> object:
        with torch.no_grad():
            return attention(*leaves)

    def both() -> object:
        return torch.autograd.grad(attention(*leaves), leaves, dout)

    return both if backward else forward


def captured(function: Call) -> Call:
    """The function as a graph that is replayed; a collective."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    meet()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    meet()
    return graph.replay


def host_times(calls: dict[str, Call]) -> list[str]:
    """Microseconds until a call returns: the one call's in front, in a line as long as others."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, function in calls.items():
            meet()
            began = time.perf_counter()
            for _ in range(IN_A_ROW):
                function()
            took[name].append(1e6 * (time.perf_counter() - began) / IN_A_ROW)
    least = {name: f"{median(times[WARM:]):.0f}" for name, times in took.items()}
    return [least.pop("one call"), *least.values()]


def timed(calls: dict[str, Call]) -> dict[str, float]:
    """Microseconds of each, by turns."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    for function in calls.values():
        function()
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, function in calls.items():
            flush.zero_()
            meet()
            torch.cuda._sleep(SLEEP)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            torch.cuda.synchronize()
            slowest = torch.tensor([start.elapsed_time(end)], device="cuda")
            dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
            took[name].append(1000 * slowest.item())
    return {name: median(times[WARM:]) for name, times in took.items()}


def meet() -> None:
    """Returns when all ranks are here and idle."""
    torch.cuda.synchronize()
    dist.barrier(device_ids=[torch.cuda.current_device()])


if __name__ == "__main__":
    main()
