"""Whether programs should share the queries of a key head: `triton`'s dk and dv on a Hopper GPU.

    python scripts/key_splits.py [--tokens 4096 16384 32768] [--heads 32:8] [--head-dim 128]

One GPU, batch 1, bfloat16: half as many rows as keys, all of which they see (a late step of a
zigzag ring), and as many rows as keys with a causal mask. For each number of shares the median time
of 30 launches in turns, summing up included, in microseconds, and what the shares take in MiB; `*`
is what `splits_for` takes.
"""

from __future__ import annotations

import argparse

import torch
from measuring.turns import in_turns
from ring_attn_backends.triton.hopper.launch import backward_dkdv_launch
from ring_attn_backends.triton.hopper.splits import splits_for
from ring_attn_backends.triton.hopper.table import chosen, multiprocessors
from torch import Tensor

from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Score

ROUNDS = 30


def report(rows: int, keys: int, heads: tuple[int, int], head_dim: int, *, causal: bool) -> str:
    """A line for the block."""
    heads_q, heads_kv = heads

    def normal(tokens: int, count: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(1, tokens, count, head_dim, device="cuda", dtype=dtype)

    q, k, v = normal(rows, heads_q), normal(keys, heads_kv), normal(keys, heads_kv)
    line = torch.randn(1, heads_q, rows, device="cuda")
    given = Rows(q, normal(rows, heads_q), q, line.abs() + 20, line)
    sums = Sums(q, torch.empty_like(k, dtype=torch.float32), torch.empty_like(v).float())
    band = Band(0, None) if causal else Band()
    block = Block((Span(keys - rows if causal else keys, rows),), (Span(0, keys),), band)
    score = Score(head_dim**-0.5)
    group = heads_q // heads_kv
    counts = [n for n in range(1, group + 1) if group % n == 0]
    calls = {
        str(n): backward_dkdv_launch(
            given, Keys(k, v), sums, block, score, add=False, splits=n
        ).run
        for n in counts
    }  # fmt: skip
    own = chosen("backward_dkdv", q, Keys(k, v)).own
    programs = -(-keys // own) * heads_kv
    taken = splits_for(programs, group, multiprocessors(q), ragged=causal)
    times = in_turns(calls, ROUNDS)
    words = []
    for n in counts:
        mib = n * keys * heads_kv * 2 * head_dim * 4 / 2**20 if n > 1 else 0
        mark = "*" if n == taken else ""
        words.append(f"{n}{mark}: {1e3 * times[str(n)]:,.0f} us, {mib:,.0f} MiB")
    return f"{rows} rows, {keys} keys, {'causal' if causal else 'full'}   " + "   ".join(words)


def main() -> None:
    """Prints a line for each block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384, 32768])
    parser.add_argument("--heads", default="32:8")
    parser.add_argument("--head-dim", type=int, default=128)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device; this measures kernels.")
    heads_q, _, heads_kv = options.heads.partition(":")
    heads = int(heads_q), int(heads_kv)
    for tokens in options.tokens:
        print(report(tokens // 2, tokens, heads, options.head_dim, causal=False), flush=True)
        print(report(tokens, tokens, heads, options.head_dim, causal=True), flush=True)


if __name__ == "__main__":
    main()
