"""How long a step of decoding takes, beside flash-attn's own: batch x cache, one query, one GPU.

    python scripts/decode_speed.py [--tokens 1x8k 8x32k] [--page 16] [--latent 128] [--sweep]

Each row is timed in a CUDA graph (what the kernels take) and called in a loop (what a caller sees),
then until calls have returned (what the host takes; the GPU may still be at them), the contestants
in turns, over copies of the cache that no L2 holds. TB/s are those of K and V read;
`copy` is what the GPU copies, read and written. --sweep tries tilings of our kernel instead.

--latent HEADS: that many query heads over one key head of 576 columns, 512 of which are v too, as
multi-head latent attention decodes; nothing else here does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import product
from types import ModuleType
from unittest import mock

import torch
from ring_attn_backends.triton.cached import latent, table
from torch import Tensor

from ring_attn_bench import flash_attn_with_kvcache
from ring_attn_bench.cached import again
from ring_attn_bench.calls.remembered import Remembered
from ring_attn_bench.text.digits import count_of

ROWS = "1x8k 1x32k 1x128k 8x8k 8x32k 8x128k 64x8k 64x16k 32x4k"
HEADS, KEY_HEADS, DIM = 32, 8, 128
LATENT, ROPE = 512, 64
"""Columns of a latent key that are its value, and others."""
L2 = 256 * 2**20
"""Bytes of all copies of a cache at least: an H200's L2 holds 50 MiB."""
SWEPT = {
    "keys": (32, 64, 128),
    "warps": (2, 4, 8),
    "stages": (2, 3, 4, 5),
    "resident": (1, 2, 3, 4),
}

Step = Callable[[int], object]
"""Attends over the copy of that number."""


def steps(
    batch: int, tokens: int, page: int | None, queries: int, *, lse: bool = False
) -> tuple[dict[str, Step], int, float]:
    """By contestant a step; how many copies there are, and the bytes of one."""
    size = 2 * batch * tokens * KEY_HEADS * DIM * 2
    copies = max(1, -(-L2 // size))
    q = torch.randn(batch, queries, HEADS, DIM, device="cuda", dtype=torch.bfloat16)
    shape = (batch, tokens) if page is None else (batch * tokens // page, page)
    caches = [
        [torch.randn(*shape, KEY_HEADS, DIM, device="cuda").bfloat16() for _ in range(2)]
        for _ in range(copies)
    ]
    same = {**told_of(batch, tokens, page), "causal": True, "return_softmax_lse": lse}
    found: dict[str, Step] = {
        "triton": lambda i: flash_attn_with_kvcache(q, *caches[i], **same, backend="triton")
    }
    if find_spec("flash_attn") and (page is None or page % 256 == 0):
        from flash_attn import flash_attn_with_kvcache as theirs

        found["flash_attn_2"] = lambda i: theirs(q, *caches[i], **same)
    return found, copies, size


def latent_steps(
    batch: int, tokens: int, page: int | None, queries: int, *, heads: int, lse: bool = False
) -> tuple[dict[str, Step], int, float]:
    """The same where v is part of k."""
    size = 2 * batch * tokens * (LATENT + ROPE)
    copies = max(1, -(-L2 // size))
    shape = (batch, tokens) if page is None else (batch * tokens // page, page)
    q = torch.randn(batch, queries, heads, LATENT + ROPE, device="cuda").bfloat16()
    caches = [
        torch.randn(*shape, 1, LATENT + ROPE, device="cuda").bfloat16() for _ in range(copies)
    ]
    told = told_of(batch, tokens, page)
    return {
        "triton": lambda i: flash_attn_with_kvcache(
            q, caches[i], caches[i][..., :LATENT], **told, causal=True, return_softmax_lse=lse,
            backend="triton",
        )
    }, copies, size  # fmt: skip


def told_of(batch: int, tokens: int, page: int | None) -> dict[str, Tensor]:
    """Lengths, and which pages are whose."""
    lengths = torch.full((batch,), tokens, dtype=torch.int32, device="cuda")
    if page is None:
        return {"cache_seqlens": lengths}
    order = torch.randperm(batch * tokens // page, device="cuda")
    return {"cache_seqlens": lengths, "block_table": order.view(batch, -1).int()}


def graphed(step: Step, copies: int, calls: int = 20) -> Callable[[], float]:
    """Microseconds of a call, of which a graph has some."""
    for i in range(3):
        step(i % copies)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            step(i % copies)

    def timed() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / calls

    return timed


def looped(step: Step, copies: int, calls: int = 50, *, waits: bool = True) -> Callable[[], float]:
    """Microseconds of a call, one after another as a program makes them.

    waits: for the GPU, too; else until calls have returned, of which few are let be: with many
    queued the host waits anyway.
    """

    def timed() -> float:
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for i in range(calls):
            step(i % copies)
        if waits:
            torch.cuda.synchronize()
        return (time.perf_counter() - begun) * 1e6 / calls

    return timed


def in_turns(timers: dict[str, Callable[[], float]], rounds: int = 9) -> dict[str, float]:
    """Medians, the first round left out."""
    samples: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds + 1):
        for name, timer in timers.items():
            samples[name].append(timer())
    return {name: statistics.median(x[1:]) for name, x in samples.items()}


def copy_speed() -> float:
    """TB/s, read and written."""
    x, y = (torch.empty(2**30, dtype=torch.uint8, device="cuda") for _ in range(2))
    took = in_turns({"copy": graphed(lambda _: y.copy_(x), 1)})
    return 2 * x.numel() / took["copy"] / 1e6


@contextmanager
def tiled(of: ModuleType, tiles: dict[str, object]) -> Iterator[None]:
    """Our kernel with those values of its table; what was launched before is forgotten."""
    from ring_attn_backends.triton import kept

    with ExitStack() as stack:
        for name, value in tiles.items():
            stack.enter_context(mock.patch.object(of, name, value))
        stack.enter_context(mock.patch.object(kept, "_kept", {}))
        stack.enter_context(mock.patch.object(again, "_made", Remembered()))
        yield


def tilings(heads: int | None) -> Iterator[tuple[str, dict[str, object]]]:
    """What is tried, in words and as entries of the table; heads: over latent keys."""
    if heads is None:
        for keys, warps, stages, resident in product(*SWEPT.values()):
            sizes = keys, warps, stages
            changed = {"KEYS": {**table.KEYS, (2, DIM): sizes}, "RESIDENT": resident}
            yield f"{(*sizes, resident)}", changed
        return
    for tiling, resident in product(latent.CANDIDATES, (1, 2)):
        changed = {"TABLE": {tiling.rows: tiling}, "RESIDENT": resident}
        yield f"{tiling} x{resident}", changed


def swept(
    row: str, made: Callable[[], tuple[dict[str, Step], int, float]], heads: int | None
) -> None:
    """Prints the fastest tilings of a row."""
    found, copies, size = made()
    took = {}
    for words, changed in tilings(heads):
        with tiled(table if heads is None else latent, changed):
            try:
                took[words] = in_turns({"it": graphed(found["triton"], copies)}, 3)["it"]
            except Exception as error:  # it does not fit
                print(row, words, type(error).__name__)
    for words in sorted(took, key=lambda x: took[x])[:6]:
        print(f"{row:>8} {words} {took[words]:8.1f} us {size / took[words] / 1e6:5.2f} TB/s")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--tokens",
        nargs="+",
        default=ROWS.split(),
        metavar="BxN",
        help="batch x tokens of an entry",
    )
    parser.add_argument("--page", type=int, help="tokens of a page; default, rows")
    parser.add_argument("--queries", type=int, default=1)
    parser.add_argument("--lse", action="store_true", help="which a call then returns too")
    parser.add_argument("--latent", type=int, metavar="HEADS", help="over keys that are values too")
    parser.add_argument("--sweep", action="store_true", help="tilings of our kernel")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device; this measures kernels.")
    print(f"copy {copy_speed():.2f} TB/s; {torch.cuda.get_device_name()}")
    for row in asked.tokens:
        batch, tokens = row.split("x")
        shape = int(batch), count_of(tokens), asked.page
        made = partial(steps, *shape, asked.queries, lse=asked.lse)
        if asked.latent:
            made = partial(latent_steps, *shape, asked.queries, lse=asked.lse, heads=asked.latent)
        if asked.sweep:
            swept(row, made, asked.latent)
            continue
        found, copies, size = made()
        for how, timer in (("graph", graphed), ("loop", looped)):
            took = in_turns({name: timer(step, copies) for name, step in found.items()})
            ratio = took.get("flash_attn_2", float("nan")) / took["triton"]
            each = "  ".join(
                f"{name} {us:8.1f} us {size / us / 1e6:5.2f} TB/s" for name, us in took.items()
            )
            print(f"{row:>8} {how:>5}  {each}  {ratio:5.2f}x", flush=True)
        took = in_turns(
            {name: looped(step, copies, 20, waits=False) for name, step in found.items()}
        )
        each = "  ".join(f"{name} {us:8.1f} us" for name, us in took.items())
        print(f"{row:>8}  host  {each}", flush=True)


if __name__ == "__main__":
    main()
