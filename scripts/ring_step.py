"""A ring step that goes on from running sums, against a kernel and the merge after it.

    python scripts/ring_step.py [--tokens 8192]

One GPU, batch 1, 16 query and 4 key heads of 128, bfloat16, full: the second block of keys of a
row, by the Triton kernels. Launches take turns, timed by CUDA events from a cold L2 cache in 30
rounds; the figures are medians, in microseconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measuring.turns import in_turns
from torch import Tensor

from ring_attn_bench import registry
from ring_attn_bench.calls import kernel
from ring_attn_bench.contract.backend import AccumulatingBackend
from ring_attn_bench.contract.tensors import Keys, Running
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Score
from ring_attn_bench.ring.merge import merge

ROUNDS = 30


def launches(tokens: int) -> dict[str, Callable[[], object]]:
    """Both ways, on the same inputs."""

    def normal(heads: int) -> Tensor:
        return torch.randn(1, tokens, heads, 128, device="cuda", dtype=torch.bfloat16)

    backend = registry.load("triton")
    assert isinstance(backend, AccumulatingBackend)
    q, keys = normal(16), Keys(normal(4), normal(4))
    block = Block((Span(tokens, tokens),), (Span(0, tokens),), Band())
    score = Score(128**-0.5)
    out, lse = kernel.forward(backend, q, keys, block, score)
    running = Running(out.float(), lse.clone())

    def carried() -> None:
        kernel.forward_into(backend, q, keys, running, block, score, first=False)

    def merged() -> None:
        block_out, block_lse = kernel.forward(backend, q, keys, block, score)
        merge(running.out, running.lse, block_out, block_lse, None)

    return {"carried": carried, "kernel, then merge": merged}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=8192)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device; this measures kernels.")
    ways = launches(options.tokens)
    for name, milliseconds in in_turns(ways, ROUNDS).items():
        print(f"{name:20} {1e3 * milliseconds:8.0f} us")


if __name__ == "__main__":
    main()
