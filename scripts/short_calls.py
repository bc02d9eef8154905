"""What short calls cost: attention forward and backward in a loop, by the clock on the wall.

    python scripts/short_calls.py [--tokens 2048] [--backend NAME ...] [--one-thread]
        [--documents N]

One GPU, batch 1, 16 query and 4 key heads of 128, bfloat16, causal. Beside `flash_attn_func` with
each backend stand flash-attn 2's own function and torch's with cuDNN, where they are installed.
Everything takes turns, in 7 rounds of 100 calls; the figures are medians over rounds. *Host* is the
time until a call returns, *call* the time for each call of a full queue, *graph* the time for each
replay of both passes captured in a CUDA graph, where the host is out of it. With --documents the
tokens are so many packed documents of one length, and functions those that take them; torch has
none here.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.errors import RingAttnBenchError

ROUNDS, CALLS = 7, 100
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def contestants(backends: list[str]) -> dict[str, Attention]:
    """Everything that can be asked here, by name."""
    found: dict[str, Attention] = {name: partial(by_backend, name) for name in backends}
    try:
        from flash_attn import flash_attn_func as theirs

        found["flash_attn, the package"] = partial(theirs, causal=True)
    except ImportError:
        pass
    found["torch with cuDNN"] = by_torch
    return found


def by_backend(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One of this project's backends."""
    out = flash_attn_func(q, k, v, causal=True, backend=name)
    assert isinstance(out, Tensor)  # no probabilities were asked for
    return out


def packed_contestants(backends: list[str], tokens: int, documents: int) -> dict[str, Attention]:
    """The same of packed documents of one length."""
    longest = tokens // documents
    starts = torch.arange(0, tokens + 1, longest, dtype=torch.int32, device="cuda")
    where = (starts, starts, longest, longest)
    found = {
        name: partial(by_varlen, flash_attn_varlen_func, where, backend=name) for name in backends
    }
    try:
        from flash_attn import flash_attn_varlen_func as theirs

        found["flash_attn, the package"] = partial(by_varlen, theirs, where)
    except ImportError:
        pass
    return dict(found)


def by_varlen(
    function: Callable[..., Tensor], where: tuple[object, ...],
    q: Tensor, k: Tensor, v: Tensor, **options: object,
) -> Tensor:  # fmt: skip
    """A function with flash-attn's arguments, of a batch of one."""
    return function(q[0], k[0], v[0], *where, causal=True, **options)[None]


def by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Torch's own call, whose heads come before tokens."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def both_ways(attention: Attention, leaves: list[Tensor], dout: Tensor) -> None:
    """Forward and backward, as a layer would."""
    for leaf in leaves:
        leaf.grad = None
    attention(*leaves).backward(dout)


def graphed(attention: Attention, leaves: list[Tensor], dout: Tensor) -> Callable[[], object]:
    """Both passes in a graph, to be replayed."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.autograd.grad(attention(*leaves), leaves, dout)
    return graph.replay


def measured(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Microseconds of the host, with few calls in the queue, and of each call of a full one."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        call()
    host = (time.perf_counter() - began) / 10
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    torch.cuda.synchronize()
    return 1e6 * host, 1e6 * (time.perf_counter() - began) / calls


@dataclass(frozen=True)
class Passes:
    """What is timed of one contestant: the forward pass, both, and both replayed."""

    forward: Callable[[], object]
    both: Callable[[], object]
    graph: Callable[[], object]

    @classmethod
    def of(cls, attention: Attention, leaves: list[Tensor], dout: Tensor) -> Passes:
        """Warmed up; raises what the attention raises."""
        both = partial(both_ways, attention, leaves, dout)
        for _ in range(20):
            both()
        return cls(partial(attention, *leaves), both, graphed(attention, leaves, dout))

    def times(self) -> tuple[float, ...]:
        """Microseconds: the host's of a forward, the host's of both, a call of both, a replay."""
        host, _ = measured(self.forward, CALLS)
        return host, *measured(self.both, CALLS), measured(self.graph, CALLS)[1]


def ready(backends: list[str], tokens: int, documents: int | None) -> dict[str, Passes]:
    """The contestants that can run here, on the same inputs; the others are said."""
    shapes = [(1, tokens, heads, 128) for heads in (16, 4, 4)]
    leaves = [torch.randn(x, device="cuda", dtype=torch.bfloat16).requires_grad_() for x in shapes]
    dout = torch.randn_like(leaves[0])
    found: dict[str, Passes] = {}
    asked = (
        contestants(backends)
        if documents is None
        else packed_contestants(backends, tokens, documents)
    )
    for name, attention in asked.items():
        try:
            found[name] = Passes.of(attention, leaves, dout)
        except (RingAttnBenchError, RuntimeError) as error:
            print(f"{name}: left out, because {error}")
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--backend", action="append", help="may be repeated; default: triton")
    parser.add_argument(
        "--one-thread", action="store_true", help="backward on the caller's thread, not autograd's"
    )
    parser.add_argument("--documents", type=int, help="that divide the tokens; default: none")
    options = parser.parse_args()
    if options.documents is not None and options.tokens % max(1, options.documents):
        parser.error("--documents must divide --tokens.")
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device; this measures what a GPU's host does.")
    passes = ready(options.backend or ["triton"], options.tokens, options.documents)
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in passes}
    with torch.autograd.set_multithreading_enabled(not options.one_thread):
        for _ in range(ROUNDS):
            for name in random.sample(list(passes), len(passes)):
                times[name].append(passes[name].times())
    columns = ("forward, host", "both, host", "both, call", "both, graph")
    print(f"{'us, medians':24}", *(f"{column:>13}" for column in columns))
    for name, rounds in times.items():
        print(f"{name:24}", *(f"{median(column):13.0f}" for column in zip(*rounds, strict=True)))


if __name__ == "__main__":
    main()
