"""The backward of `scripts/cute_check.py`: dq, dk and dv against float64, then times, a table last.

A check writes gradients in the inputs' dtype over NaN, inside larger tensors of NaN; one that is
`carried` adds to random float32. Each is made twice, and must give the same bits. Times are of both
launches, in TFLOP/s of the five products that a backward needs (they make seven), and of each
configuration of a kernel by itself in microseconds.

With --candidates each configuration of each kernel is asked by itself, and must leave alone what it
is not of; what was right is timed.

Each configuration of the one kernel that adds to dq is asked the same, from a dq of zeros, in
float32, in a larger tensor of NaN; its dq may be other bits. What is right is timed, in TFLOP/s,
with the zeroing before it and the rounding after it: `table.ADDS` is to have what is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
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
    untouched,
    width_v,
)
from measuring.turns import in_turns
from ring_attn_backends.cute import table
from ring_attn_backends.cute.arguments import Call, adding_call, dkdv_call, dq_call, name_of
from ring_attn_backends.cute.launch import Launch, enqueue
from tabulate import tabulate
from torch import Tensor

from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.registry import load
from ring_attn_bench.truth import oracle, tolerance

NAMES = "dq", "dk", "dv"
GIVES: dict[table.Kernel, tuple[str, ...]] = {
    "backward_dq": NAMES[:1], "backward_dkdv": NAMES[1:],
    "backward_dk": NAMES[1:2], "backward_dv": NAMES[2:],
}  # fmt: skip
"""What each kernel by itself is of."""
Configs = Sequence[table.Config]
Alone = tuple[table.Kernel, table.Config]


def calls(
    rows: Rows, keys: Keys, sums: Sums, block: Block, score: Score, *, first: bool,
    adds: table.Config | None = None, alone: Alone | None = None,
) -> list[Call]:  # fmt: skip
    """All launches, in the table's configurations, or the one that adds to dq, or a lone one."""
    if adds is not None:
        return [adding_call(rows, keys, sums, block, score, first=first, config=adds)]
    every = [alone] if alone is not None else of_table(rows.q.shape[-1])
    return [
        dq_call(rows, keys, sums.dq, block, score, first=first, config=config)
        if kernel == "backward_dq"
        else dkdv_call(
            rows, keys, sums.dk, sums.dv, block, score, first=first, kernel=kernel, config=config
        )
        for kernel, config in every
    ]


def of_table(dim: int) -> list[Alone]:
    """The launches of a backward, as the table has them."""
    kernels: tuple[table.Kernel, ...] = "backward_dq", *table.of_keys(dim)
    return [(kernel, table.BACKWARD[kernel, dim]) for kernel in kernels]


def candidates_of(dim: int) -> list[Alone]:
    """Every candidate of every kernel but the one that adds."""
    return [
        (kernel, config)
        for (kernel, width), configs in table.BACKWARD_CANDIDATES.items()
        for config in configs
        if width == dim
    ]


def run(
    check: Check, rows: Rows, keys: Keys, there: list[Tensor], score: Score,
    adds: table.Config | None, kept: Path | None, alone: Alone | None = None,
) -> tuple[list[Tensor], str]:  # fmt: skip
    """dq, dk and dv, and what else was written; there: what they are added to, if carried."""
    dtype = torch.float32 if check.carried else check.dtype
    pairs = [
        inside(*x.shape, dtype=dtype, values=before if check.carried else None)
        for x, before in zip((rows.q, *keys), there, strict=True)
    ]
    if adds is not None and not check.carried:
        zeros = torch.zeros_like(there[0])
        pairs[0] = inside(*rows.q.shape, dtype=torch.float32, values=zeros)
    sums = Sums(*(part for part, _ in pairs))
    spans = Span(check.first_row, check.rows), Span(check.first_key, check.keys)
    block = Block((spans[0],), (spans[1],), check.mask.band)
    first = not check.carried
    for call in calls(rows, keys, sums, block, score, first=first, adds=adds, alone=alone):
        enqueue(call, kept)
        torch.cuda.synchronize()
    spoilt = "" if all(untouched(*pair) for pair in pairs) else "wrote beside its results"
    return [part.clone() for part in sums], spoilt


def fault(
    check: Check, dim: int, adds: table.Config | None, kept: Path | None,
    alone: Alone | None = None,
) -> str:  # fmt: skip
    """What is wrong, or nothing, of the table's kernels, the one that adds or a lone one."""
    torch.manual_seed(len(check.name))
    q, dout, k, v = (
        torch.randn(check.batch, tokens, heads, width, device=DEVICE).to(check.dtype)
        for tokens, heads in ((check.rows, check.heads), (check.keys, check.key_heads))
        for width in (dim, width_v(dim))
    )
    score = Score(dim**-0.5, check.softcap)
    places = (
        torch.arange(first, first + n, device=DEVICE)
        for first, n in ((check.first_row, check.rows), (check.first_key, check.keys))
    )
    asked = partial(oracle.Inquiry, *places, check.mask, score)
    wide = [x.double() for x in (dout, q, k, v)]
    out, lse = oracle.forward(*wide[1:], asked())
    truths = oracle.backward(*wide, out, lse, asked())
    uncancelled = oracle.backward(*wide, torch.zeros_like(out), lse, asked())
    plainly = asked(arithmetic=check.dtype)
    plain = oracle.backward(dout, q, k, v, *oracle.forward(q, k, v, plainly), plainly)
    put = partial(inside, dtype=check.dtype)
    lines = lse, (wide[0] * out).sum(-1).transpose(1, 2)
    q_, dout_, k_, v_ = (put(*x.shape, values=x)[0] for x in (q, dout, k, v))
    lse_, delta_ = (inside(*x.shape, dtype=torch.float32, values=x)[0] for x in lines)
    rows, keys = Rows(q_, dout_, out.to(check.dtype), lse_, delta_), Keys(k_, v_)
    there = [torch.randn(x.shape, device=DEVICE) for x in (q, k, v)]
    results, spoilt = run(check, rows, keys, there, score, adds, kept, alone)
    again, _ = run(check, rows, keys, there, score, adds, kept, alone)
    gives = NAMES if alone is None else GIVES[alone[0]]
    said = [spoilt] if spoilt else []
    same = slice(0 if adds is None else 1, None)  # what is added to may be others
    if not all(map(alike, results[same], again[same])):
        said.append("the same call has given other bits")
    for i, name in enumerate(NAMES):
        if name not in gives:
            left = there[i] if check.carried else torch.full_like(results[i], torch.nan)
            if not alike(results[i], left):
                said.append(f"{name} is not left alone")
            continue
        before = there[i].double() if check.carried else 0.0
        offs = [tolerance.error(x[i].double() - before, truths[i]) for x in (results, again)]
        sizes = tolerance.size(truths[i]), tolerance.size(uncancelled[i]).max_abs
        bound = tolerance.bounds(
            name, check.dtype, tolerance.error(plain[i], truths[i]), sizes[0],
            sizes[1] if name != "dv" else 0.0,
        )  # fmt: skip
        wrong = [f"{name} is out by {off}, and may be by {bound}" for off in offs
                 if not off.within(bound)]  # fmt: skip
        said += wrong[:1]
    return "; ".join(said)


def alike(one: Tensor, other: Tensor) -> bool:
    """The same numbers, of which NaN may be some."""
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def contestants(
    rows: Rows, keys: Keys, block: Block, score: Score, adding: Configs, kept: Path | None,
    wrong: Sequence[Alone] = (),
) -> Iterator[tuple[str, Callable[[], object]]]:  # fmt: skip
    """A call of each that can make it: ours, those of others, and ours of one kernel.

    wrong: candidates that are left out.
    """
    dim = rows.q.shape[-1]
    sums = Sums(*(torch.empty_like(x) for x in (rows.q, *keys)))
    ours = calls(rows, keys, sums, block, score, first=True)
    if not set(of_table(dim)) & set(wrong):
        every = [(Launch(call, kept), call.tensors) for call in ours]  # as a second call is made
        yield "cute", lambda: [launch.run(tensors) for launch, tensors in every]
    for kernel, config in candidates_of(dim):
        if (kernel, config) not in wrong:
            (call,) = calls(
                rows, keys, sums, block, score, first=True, alone=(kernel, config)
            )  # fmt: skip
            yield f"{kernel} {config}", partial(Launch(call, kept).run, call.tensors)
    for config in adding:
        yield (
            f"backward_adding {config}",
            zeroed_and_rounded(rows, keys, sums, block, score, config, kept),
        )
    for name in OTHERS:
        try:
            other = partial(load(name).backward, rows, keys, block, score, deterministic=False)
            other()
        except Exception as error:  # theirs, and no reason not to time ours
            print(f"{name} is left out: {str(error).splitlines()[0]}")
        else:
            yield name, other


def zeroed_and_rounded(
    rows: Rows, keys: Keys, sums: Sums, block: Block, score: Score, config: table.Config,
    kept: Path | None,
) -> Callable[[], object]:  # fmt: skip
    """The one kernel that adds, and what the backend does before and after it."""
    wide = torch.empty_like(sums.dq, dtype=torch.float32)
    into = sums._replace(dq=wide)
    (call,) = calls(rows, keys, into, block, score, first=True, adds=config)
    launch = Launch(call, kept)
    return lambda: (wide.zero_(), launch.run(call.tensors), sums.dq.copy_(wide))


def timed(
    dim: int, tokens: int, mask: Mask, adding: Configs, kept: Path | None,
    wrong: Sequence[Alone] = (),
) -> list[str]:  # fmt: skip
    """A row of the table: the shape, TFLOP/s of each, and each kernel's microseconds.

    adding: configurations of the one that adds, which were right. wrong: of others, which were not.
    """
    draw, widths = partial(torch.randn, device=DEVICE, dtype=torch.bfloat16), (dim, width_v(dim))
    q, dout = (draw(1, tokens, 16, width) for width in widths)
    keys, score = Keys(*(draw(1, tokens, 4, width) for width in widths)), Score(dim**-0.5)
    block = Block((Span(0, tokens),), (Span(0, tokens),), mask.band)
    out, lse = load("triton").forward(q, keys, block, score)
    delta = (dout.float() * out.float()).sum(-1).transpose(1, 2).contiguous()
    rows = Rows(q, dout, out, lse, delta)
    times = in_turns(dict(contestants(rows, keys, block, score, adding, kept, wrong)), ROUNDS)
    work = 2 * tokens**2 * 16 * (3 * dim + 2 * width_v(dim)) / (2 if mask.causal else 1)
    speeds = [
        f"{work / times[name] / 1e9:.0f}" if name in times else "-" for name in ("cute", *OTHERS)
    ]
    alone = [
        ", ".join(
            f"{name.removeprefix('backward_').removeprefix(usual)}: {1e3 * ms:.0f}"
            for name, ms in times.items()
            if name.partition(" ")[0] in kernels
        )
        for kernels, usual in ((table.OF_KEYS, "dkdv "), (("backward_dq",), "dq "))
    ]
    together = ", ".join(
        f"{config}: {work / times[f'backward_adding {config}'] / 1e9:.0f}" for config in adding
    )
    return [str(dim), str(mask), str(tokens), *speeds, together or "-", *alone]


def builds(dims: Sequence[int] | None = None, *, candidates: bool = False) -> Iterator[table.Build]:
    """All that is launched here of these head dims, or of the table's."""
    for dim in table.TABLE if dims is None else dims:
        for kernel, config in candidates_of(dim):
            yield table.Build(config, "bfloat16", "bfloat16", kernel=kernel)
        for kernel, config in [*of_table(dim), *candidates_of(dim) * candidates]:
            yield from checked(kernel, config)
        for config in table.ADDS_CANDIDATES.get(dim, ()):
            yield table.Build(config, "bfloat16", "bfloat16", kernel="backward_adding")
            yield from checked("backward_adding", config)


def checked(kernel: table.Kernel, config: table.Config) -> Iterator[table.Build]:
    """What the checks launch of it."""
    for check in CHECKS:
        dtype = name_of(check.dtype)
        out = "float32" if check.carried else dtype
        yield table.Build(config, dtype, out, check.softcap > 0, check.carried, kernel)


def run_all(
    dims: list[int], lengths: list[int], kept: Path | None, *, candidates: bool = False
) -> None:
    """Checks, times, and the table."""
    table_rows = []
    for dim in dims:
        asked = partial(fault, dim=dim, kept=kept)
        right = all_right(f"backward d{dim}", partial(asked, adds=None))
        wrong = [
            each for each in candidates_of(dim) if candidates
            and not all_right("{} {}".format(*each), partial(asked, adds=None, alone=each))
        ]  # fmt: skip
        if not right and not candidates:
            continue
        adding = [
            config for config in table.ADDS_CANDIDATES.get(dim, ())
            if all_right(f"backward_adding {config}", partial(asked, adds=config))
        ]  # fmt: skip
        for tokens in lengths:
            for mask in (FULL, CAUSAL):
                table_rows.append(timed(dim, tokens, mask, adding, kept, wrong))
                print(*table_rows[-1], flush=True)
    names = [f"{name}, TFLOP/s" for name in ("cute", *OTHERS)]
    names += ["one that adds, TFLOP/s", "dk and dv alone, us", "dq alone, us"]
    print(tabulate(table_rows, ["head dim", "mask", "tokens", *names]))
