"""Whether the `cute` kernels are right on this GPU, and how fast: checks, times, a table last.

    python scripts/cute_check.py --build kept     # anywhere: compiles all that is asked below
    python scripts/cute_check.py --kept kept      # on an H100 or H200, a few minutes

With --only gathered, that of one launch over gathered keys, both take less; --only packed is that
of packed documents. Head dims that the table has not have candidates all the same,
`--head-dim 96 192 256 --candidates`: every one of them is checked and, where it was right, timed.

A check is a call on random data against float64 (`ring_attn_bench/truth/`), inside larger tensors
of NaN that must stay as they are; one that is wrong says by how much, and nothing of that head dim
is timed. The checks begin with what is simplest, so that the last line before a hang names it.
Times are medians of calls in turns, from a cold L2, in TFLOP/s, of which a causal mask halves the
work: each configuration of the table, and beside them `triton`, `flash_attn_4` and `cudnn`, where
they can run. bfloat16, batch 1, 16 query and 4 key heads. The backward comes after the forward
(`scripts/measuring/cute_backward.py`), then one launch over gathered keys
(`scripts/measuring/cute_gathered.py`) and packed documents (`scripts/measuring/cute_packed.py`);
--only says which of them is wanted.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from measuring import cute_backward as backward
from measuring import cute_gathered as gathered
from measuring import cute_packed as packed
from measuring.cute import (
    CAUSAL,
    CHECKS,
    DEVICE,
    FULL,
    OTHERS,
    ROUNDS,
    Check,
    all_right,
    inside,
    propose,
    untouched,
    width_v,
)
from measuring.turns import in_turns
from ring_attn_backends.cute import table
from ring_attn_backends.cute.ahead import compile_all
from ring_attn_backends.cute.arguments import forward_call, name_of
from ring_attn_backends.cute.launch import Launch, enqueue
from tabulate import tabulate
from torch import Tensor

from ring_attn_bench.contract.tensors import Keys, Running
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.registry import load
from ring_attn_bench.truth import oracle, tolerance


def run(
    check: Check, tensors: tuple[Tensor, Tensor, Tensor], score: Score, config: table.Config,
    kept: Path | None,
) -> tuple[Tensor, Tensor, str]:  # fmt: skip
    """out and lse, and what else was written."""
    q, k, v = (inside(*x.shape, dtype=check.dtype, values=x)[0] for x in tensors)
    shape = *q.shape[:3], v.shape[-1]
    out, whole_out = inside(*shape, dtype=check.dtype)
    acc, whole_acc = inside(*shape, dtype=torch.float32)
    lse, whole_lse = inside(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)
    rows = Span(check.first_row, check.rows)
    cuts = [0, check.keys // 3, check.keys] if check.carried else [0, check.keys]
    for start, stop in pairwise(cuts):
        last = stop == check.keys
        keys = Keys(k[:, start:stop], v[:, start:stop])
        block = Block((rows,), (Span(check.first_key + start, stop - start),), check.mask.band)
        running = Running(acc, lse, out if last else None)
        call = forward_call(q, keys, running, block, score, first=start == 0, config=config)
        enqueue(call, kept)
        torch.cuda.synchronize()
    pairs = ((out, whole_out), (acc, whole_acc), (lse, whole_lse))
    spoilt = "" if all(untouched(*pair) for pair in pairs) else "wrote beside its results"
    return out, lse, spoilt


def fault(check: Check, config: table.Config, kept: Path | None) -> str:
    """What is wrong, or nothing."""
    torch.manual_seed(len(check.name))
    shapes = (
        (check.rows, check.heads, config.width), (check.keys, check.key_heads, config.width),
        (check.keys, check.key_heads, config.width_v),
    )  # fmt: skip
    tensors = tuple(
        torch.randn(check.batch, *shape, device=DEVICE).to(check.dtype) for shape in shapes
    )
    score = Score(config.width**-0.5, check.softcap)
    *results, spoilt = run(check, tensors, score, config, kept)
    places = (
        torch.arange(first, first + n, device=DEVICE)
        for first, n in ((check.first_row, check.rows), (check.first_key, check.keys))
    )
    asked = partial(oracle.Inquiry, *places, check.mask, score)
    truths = oracle.forward(*(x.double() for x in tensors), asked())
    plain = oracle.forward(*tensors, asked(arithmetic=check.dtype))
    said = [spoilt] if spoilt else []
    for name, got, truth, baseline in zip(("out", "lse"), results, truths, plain, strict=True):
        off = tolerance.error(got, truth)
        bound = tolerance.bounds(
            name, check.dtype, tolerance.error(baseline, truth), tolerance.size(truth)
        )
        if not off.within(bound):
            said.append(f"{name} is out by {off}, and may be by {bound}")
    return "; ".join(said)


def checked(config: table.Config, kept: Path | None) -> bool:
    """Prints a line for each check; whether all were right."""
    return all_right(str(config), lambda check: fault(check, config, kept))


def contestants(
    config_of: dict[str, table.Config], tokens: int, mask: Mask, dim: int, kept: Path | None
) -> Iterator[tuple[str, Callable[[], object]]]:
    """A call of each that can make it."""
    q, k, v = (
        torch.randn(1, tokens, heads, width, device=DEVICE, dtype=torch.bfloat16)
        for heads, width in ((16, dim), (4, dim), (4, width_v(dim)))
    )
    keys, score = Keys(k, v), Score(dim**-0.5)
    block = Block((Span(0, tokens),), (Span(0, tokens),), mask.band)
    out = q.new_empty(1, tokens, 16, width_v(dim))
    running = Running(out, torch.empty(1, 16, tokens, device=DEVICE))
    for name, config in config_of.items():
        call = forward_call(q, keys, running, block, score, first=True, config=config)
        yield name, partial(Launch(call, kept).run, call.tensors)  # as a second call is made
    for name in OTHERS:
        try:
            backend = load(name)
            backend.forward(q, keys, block, score)
        except Exception as error:  # theirs, and no reason not to time ours
            print(f"{name} is left out: {str(error).splitlines()[0]}")
        else:
            yield name, partial(backend.forward, q, keys, block, score)


def timed(
    dim: int, configs: tuple[table.Config, ...], tokens: int, mask: Mask, kept: Path | None
) -> list[str]:
    """A row of the table: the shape, and TFLOP/s of each."""
    names = {f"cute {config}": config for config in configs}
    calls = dict(contestants(names, tokens, mask, dim, kept))
    work = 2 * tokens**2 * 16 * (dim + width_v(dim)) / (2 if mask.causal else 1)
    speeds = {name: work / ms / 1e9 for name, ms in in_turns(calls, ROUNDS).items()}
    others = {name: f"{speeds[name]:.0f}" if name in speeds else "-" for name in OTHERS}
    ours = ", ".join(f"{config!s}: {speeds[f'cute {config}']:.0f}" for config in configs)
    return [str(dim), str(mask), str(tokens), ours, *others.values()]


def builds(
    dims: Sequence[int], only: str | None = None, *, candidates: bool = False
) -> Iterator[table.Build]:
    """All that is launched here of these head dims, or what is wanted of it."""
    if only in (None, "backward"):
        yield from backward.builds(dims, candidates=candidates)
    if only in (None, "gathered"):
        yield from gathered.builds(dims)
    if only in (None, "packed"):
        yield from packed.builds()
    if only in (None, "forward"):
        for dim in dims:
            yield from forward_builds(dim, candidates=candidates)


def asked_of(dim: int, *, candidates: bool) -> list[table.Config]:
    """What is checked of a head dim: what the table takes, or every candidate."""
    serving = [config for config in table.serving() if config.width == dim]
    more = [x for x in table.CANDIDATES[dim] if candidates and x not in table.FIRST_ONLY]
    return list(dict.fromkeys([*serving, *more]))


def forward_builds(dim: int, *, candidates: bool) -> Iterator[table.Build]:
    """Those of the forward of one block."""
    for config in table.CANDIDATES[dim]:
        yield table.Build(config, "bfloat16", "bfloat16")
    for config in asked_of(dim, candidates=candidates):
        if config not in table.serving():
            yield from launched_by_checks(config)
            continue
        for dtype in ("bfloat16", "float16"):
            for capped in (False, True):
                yield table.Build(config, dtype, dtype, capped)
                yield table.Build(config, dtype, dtype, capped, carried=True)
                yield table.Build(config, dtype, "float32", capped)


def launched_by_checks(config: table.Config) -> Iterator[table.Build]:
    """What `run` makes of a configuration."""
    for check in CHECKS:
        dtype, capped = name_of(check.dtype), check.softcap > 0
        yield table.Build(config, dtype, "float32" if check.carried else dtype, capped)
        if check.carried:
            yield table.Build(config, dtype, dtype, capped, carried=True)


def main() -> None:
    """Checks, times, and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--build", type=Path, metavar="FOLDER", help="compile into it, and stop")
    parser.add_argument("--kept", type=Path, metavar="FOLDER", help="where that was done")
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 16384])
    parser.add_argument("--head-dim", type=int, nargs="+", default=list(table.TABLE))
    parser.add_argument(
        "--candidates", action="store_true",
        help="check every candidate, also of head dims that the table has not",
    )  # fmt: skip
    parser.add_argument(
        "--only", choices=["forward", "backward", "gathered", "packed"], help="what is wanted"
    )
    asked = parser.parse_args()
    if unknown := set(asked.head_dim) - set(table.CANDIDATES if asked.candidates else table.TABLE):
        parser.error(f"nothing is there of head dims {sorted(unknown)}")
    if asked.candidates:
        propose(asked.head_dim)
    if asked.build:
        begun = time.perf_counter()
        wanted = dict.fromkeys(builds(asked.head_dim, asked.only, candidates=asked.candidates))
        made = compile_all(os.cpu_count() or 1, asked.build.absolute(), wanted)
        print(f"{len(list(made))} kernels are there; {time.perf_counter() - begun:.0f} s")
        return
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device; --build is what can be done without one")
    kept = asked.kept and asked.kept.absolute()
    if asked.only in (None, "forward"):
        rows = []
        for dim in asked.head_dim:
            wanted = asked_of(dim, candidates=asked.candidates)
            wrong = [config for config in wanted if not checked(config, kept)]
            if wrong and not asked.candidates:
                continue
            right = tuple(config for config in table.CANDIDATES[dim] if config not in wrong)
            for tokens in asked.tokens:
                for mask in (FULL, CAUSAL):
                    rows.append(timed(dim, right, tokens, mask, kept))
                    print(*rows[-1], flush=True)
        print(tabulate(rows, ["head dim", "mask", "tokens", "cute, TFLOP/s", *OTHERS]))
    if asked.only in (None, "backward"):
        backward.run_all(asked.head_dim, asked.tokens, kept, candidates=asked.candidates)
    if asked.only in (None, "gathered"):
        gathered.run_all(asked.head_dim, kept)
    if asked.only in (None, "packed"):
        packed.run_all(asked.head_dim, kept)


if __name__ == "__main__":
    main()
