"""What short calls cost: attention forward and backward in a loop, by the clock on the wall.

    python scripts/short_calls.py [--tokens 2048] [--backend triton --backend cudnn ...]

One GPU, batch 1, 16 query and 4 key heads of 128, bfloat16, causal. Beside `flash_attn_func` with
each backend stand flash-attn 2's own function and torch's with cuDNN, where they are installed.
Everything takes turns, in 7 rounds of 100 calls; the figures are medians over rounds. *Host* is the
time until a call returns, *call* the time for each call of a full queue.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ring_attn_bench import flash_attn_func
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


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--backend", action="append", help="may be repeated; default: triton")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device; this measures what a GPU's host does.")
    shapes = [(1, options.tokens, heads, 128) for heads in (16, 4, 4)]
    leaves = [torch.randn(x, device="cuda", dtype=torch.bfloat16).requires_grad_() for x in shapes]
    dout = torch.randn_like(leaves[0])
    passes: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
    for name, attention in contestants(options.backend or ["triton"]).items():
        forward, both = partial(attention, *leaves), partial(both_ways, attention, leaves, dout)
        try:
            for _ in range(20):
                both()
        except (RingAttnBenchError, RuntimeError) as error:
            print(f"{name}: left out, because {error}")
        else:
            passes[name] = forward, both
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in passes}
    for _ in range(ROUNDS):
        for name in random.sample(list(passes), len(passes)):
            one_way, two_ways = passes[name]
            times[name].append((measured(one_way, CALLS)[0], *measured(two_ways, CALLS)))
    print(f"{'us, medians':26} {'forward, host':>14} {'both, host':>12} {'both, call':>12}")
    for name, rounds in times.items():
        host, both_host, both_call = (median(column) for column in zip(*rounds, strict=True))
        print(f"{name:26} {host:14.0f} {both_host:12.0f} {both_call:12.0f}")


if __name__ == "__main__":
    main()
