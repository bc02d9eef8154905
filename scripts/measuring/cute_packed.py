"""Packed documents of `scripts/cute_check.py`: checks against float64, then times, tables last.

A check is a forward in each candidate of the table, and a launch each for dq and for dk and dv, of
documents in a row of tokens that is NaN before the first and behind the last, inside larger tensors
of NaN. Results are NaN before, and must stay so outside of documents. Each is made three times: for
the documents in the opposite order, then twice for those of the check, which must be the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from measuring.cute import CAUSAL, DEVICE, FULL, inside, untouched
from measuring.cute_packed_times import print_times
from ring_attn_backends.cute import ahead, table
from ring_attn_backends.cute.arguments import Call
from ring_attn_backends.cute.launch import Launch
from ring_attn_backends.cute.packed.launch import dkdv_call, dq_call, forward_call
from torch import Tensor

from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.problem import Documents, Mask, Score
from ring_attn_bench.truth import oracle, tolerance

Results = dict[str, Tensor]
Run = Callable[[], tuple[Results, str]]
"""A launch, three times: its results by name, and what else is wrong with it."""


@dataclass(frozen=True)
class Check:
    """Documents, each with its rows and keys. outside: tokens before the first and behind the last
    of rows, and one more of keys."""

    name: str
    lengths: tuple[tuple[int, int], ...]
    mask: Mask = FULL
    heads: int = 2
    key_heads: int = 2
    softcap: float = 0.0
    dtype: torch.dtype = torch.bfloat16
    outside: tuple[int, int] = (0, 0)

    def side(self, of_keys: bool) -> Side:
        """Where the documents' rows, or keys, are."""
        before, behind = (n and n + of_keys for n in self.outside)
        starts = [*accumulate((x[of_keys] for x in self.lengths), initial=before)]
        return Side(starts, starts[-1] + behind)


@dataclass(frozen=True)
class Side:
    """Rows, or keys: where documents begin and the last ends, and how many tokens there are."""

    starts: list[int]
    tokens: int

    @property
    def parts(self) -> list[slice]:
        """A document's tokens each."""
        return [slice(*pair) for pair in pairwise(self.starts)]

    @property
    def tensor(self) -> Tensor:
        """As kernels read them."""
        return torch.tensor(self.starts, dtype=torch.int32, device=DEVICE)


def alike(*lengths: int) -> tuple[tuple[int, int], ...]:
    """Documents with as many keys as rows."""
    return tuple((n, n) for n in lengths)


MIXED = (333, 0, 1, 128, 64, 517, 7, 0, 129, 255, 400, 3)
UNLIKE = ((40, 57), (300, 700), (0, 9), (12, 0), (257, 130), (1, 500), (500, 1), (33, 33))
CHECKS = (
    Check("one document of one tile", alike(64)),
    Check("one document", alike(700)),
    Check("two documents of one tile", alike(64, 128)),
    Check("mixed", alike(*MIXED)),
    Check("mixed, tokens outside", alike(*MIXED), outside=(5, 300)),
    Check("causal", alike(512, 384, 128), CAUSAL),
    Check("causal, mixed", alike(*MIXED), CAUSAL),
    Check("causal, mixed, tokens outside", alike(*MIXED), CAUSAL, outside=(3, 77)),
    Check("unlike", UNLIKE),
    Check("causal, unlike", UNLIKE, CAUSAL, outside=(9, 9)),
    Check("window", alike(*MIXED), Mask(window_left=130, window_right=40)),
    Check("causal window, unlike", UNLIKE, Mask(causal=True, window_left=64)),
    Check("grouped heads", alike(*MIXED), CAUSAL, heads=8, key_heads=2),
    Check("one key head, unlike", UNLIKE, heads=6, key_heads=1),
    Check("softcap", UNLIKE, CAUSAL, softcap=5.0),
    Check("float16", alike(*MIXED), CAUSAL, dtype=torch.float16),
    Check("float16, softcap, unlike", UNLIKE, softcap=9.0, dtype=torch.float16),
    Check("100 documents", alike(*(1 + 37 * i % 90 for i in range(100))), CAUSAL, outside=(0, 8)),
    Check("1000 documents", alike(*(i % 5 for i in range(1000))), heads=4),
    Check("long", alike(2048, 100, 4096, 31), CAUSAL, heads=4, key_heads=2),
)


@dataclass(frozen=True)
class Truth:
    """A check's inputs, NaN outside of documents, and what is right, by name.

    exact, plain: in float64 and in plain torch in the inputs' dtype, of documents' tokens alone.
    uncancelled: how large the terms of a gradient are.
    """

    q: Tensor
    keys: Keys
    dout: Tensor
    score: Score
    exact: Results
    plain: Results
    uncancelled: dict[str, float]

    @classmethod
    def of(cls, check: Check, dim: int) -> Truth:
        """Of random inputs."""
        torch.manual_seed(len(check.name))
        sides = check.side(False), check.side(True)
        (q, dout), (k, v) = (
            torch.randn(2, side.tokens, heads, dim, device=DEVICE).to(check.dtype)
            for side, heads in zip(sides, (check.heads, check.key_heads), strict=True)
        )
        score = Score(dim**-0.5, check.softcap)
        each = [
            of_document(dout[rows], q[rows], k[keys], v[keys], check, score)
            for rows, keys in zip(*(side.parts for side in sides), strict=True)
        ]
        exact, plain, terms = map(joined, zip(*each, strict=True))
        for x, side in ((q, sides[0]), (dout, sides[0]), (k, sides[1]), (v, sides[1])):
            x[: side.starts[0]] = x[side.starts[-1] :] = float("nan")
        sizes = {name: tolerance.size(x).max_abs for name, x in terms.items()}
        return cls(q, Keys(k, v), dout, score, exact, plain, sizes)

    def rows(self, check: Check) -> Rows:
        """What a backward reads, inside larger tensors of NaN."""
        side, exact = check.side(False), self.exact
        mine = slice(side.starts[0], side.starts[-1])
        lse = torch.full((check.heads, side.tokens), float("nan"), device=DEVICE)
        delta = lse.clone()
        lse[:, mine] = exact["lse"].float()
        delta[:, mine] = (self.dout[mine].double() * exact["out"]).sum(-1).T.float()
        q, dout = (area(*x.shape, dtype=check.dtype, values=x)[0] for x in (self.q, self.dout))
        lines = (area(*x.shape, dtype=torch.float32, values=x)[0] for x in (lse, delta))
        return Rows(q, dout, q, *lines)  # no kernel reads out

    def placed(self, check: Check) -> Keys:
        """Keys and values, inside larger tensors of NaN."""
        return Keys(*(area(*x.shape, dtype=check.dtype, values=x)[0] for x in self.keys))


def joined(each: tuple[Results, ...]) -> Results:
    """Results of documents in a row."""
    return {name: torch.cat([x[name] for x in each], 1 if name == "lse" else 0) for name in each[0]}


def of_document(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, check: Check, score: Score
) -> tuple[Results, Results, Results]:
    """Exact, plain, and terms of dq and dk, of one document."""
    rows, keys = len(q), len(k)
    if 0 in (rows, keys):
        wide = {"out": q.double() * 0, "lse": q.new_full((q.shape[1], rows), -torch.inf).double(),
                "dq": q.double() * 0, "dk": k.double() * 0, "dv": v.double() * 0}  # fmt: skip
        return wide, wide, {name: wide[name] for name in ("dq", "dk")}
    at = torch.arange(rows, device=DEVICE) + keys - rows, torch.arange(keys, device=DEVICE)
    asked = partial(oracle.Inquiry, *at, check.mask, score)
    given = [x[None] for x in (dout, q, k, v)]
    wide_given = [x.double() for x in given]

    def named(forward: tuple[Tensor, ...], sums: tuple[Tensor, ...]) -> Results:
        names = "out", "lse", "dq", "dk", "dv"
        return {name: x[0] for name, x in zip(names, (*forward, *sums), strict=True)}

    out, lse = oracle.forward(*wide_given[1:], asked())
    sums = oracle.backward(*wide_given, out, lse, asked())
    terms = oracle.backward(*wide_given, torch.zeros_like(out), lse, asked())
    plainly = asked(arithmetic=check.dtype)
    rough = oracle.forward(*given[1:], plainly)
    rough_sums = oracle.backward(*given, *rough, plainly)
    return (
        named((out, lse), sums), named(rough, rough_sums), {"dq": terms[0][0], "dk": terms[1][0]}
    )  # fmt: skip


def area(*shape: int, dtype: torch.dtype, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As `measuring.cute.inside`, without a batch dim."""
    part, whole = inside(1, *shape, dtype=dtype, values=None if values is None else values[None])
    return part[0], whole[0]


def launched(
    check: Check, results: dict[str, tuple[Tensor, Tensor]],
    call_of: Callable[[Documents], Call], kept: Path | None,
) -> tuple[Results, str]:  # fmt: skip
    """Runs a launch on other lengths first, then twice on the check's own.

    results: each result, and the larger tensor that it is in.
    """
    sides = [check.side(of_keys) for of_keys in (False, True)]
    starts = [side.tensor for side in sides]
    others = replace(check, lengths=check.lengths[::-1])
    told = [others.side(of_keys).tensor for of_keys in (False, True)]
    # the lengths that are said are not looked at
    call = call_of(Documents(told[0], told[1], 1, 1, check.mask))
    launch, found = Launch(call, kept), []
    for values in (None, starts, starts):
        for _, whole in results.values():
            whole.fill_(float("nan"))
        for x, value in zip(told, values or (), strict=values is not None):
            x.copy_(value)
        launch.run(call.tensors)
        torch.cuda.synchronize()
        found.append({name: part.clone() for name, (part, _) in results.items()})
    said, own = [], {}
    if not all(untouched(*pair) for pair in results.values()):
        said.append("wrote beside its results")
    for name, (part, _) in results.items():
        side, dim = sides[name in ("dk", "dv")], 1 if name == "lse" else 0
        first, stop = side.starts[0], side.starts[-1]
        own[name] = part.narrow(dim, first, stop - first)
        rest = part.narrow(dim, 0, first), part.narrow(dim, stop, side.tokens - stop)
        if not all(bool(x.isnan().all()) for x in rest):
            said.append(f"wrote {name} outside of documents")
        if not torch.equal(found[1][name].nan_to_num(9), found[2][name].nan_to_num(9)):
            said.append("the same call has given other bits")
    return own, "; ".join(said)


def runs(check: Check, truth: Truth, dim: int, kept: Path | None) -> Iterator[tuple[str, Run]]:
    """Every launch of a check."""
    dtype, score, put = check.dtype, truth.score, partial(area, dtype=check.dtype)

    def forward(config: table.Config) -> tuple[Results, str]:
        q = put(*truth.q.shape, values=truth.q)[0]
        keys = truth.placed(check)
        made = {"out": put(*q.shape), "lse": area(*q.shape[1::-1], dtype=torch.float32)}
        out, lse = (made[name][0] for name in ("out", "lse"))
        return launched(
            check, made,
            lambda where: forward_call(q, keys, out, lse, where, score, config=config), kept,
        )  # fmt: skip

    def backward(*names: str) -> tuple[Results, str]:
        rows, keys = truth.rows(check), truth.placed(check)
        shapes = {"dq": truth.q.shape, "dk": truth.keys.k.shape, "dv": truth.keys.v.shape}
        made = {name: put(*shapes[name]) for name in names}
        into = [made[name][0] for name in names]
        call = dq_call if names == ("dq",) else dkdv_call
        return launched(check, made, lambda where: call(rows, keys, *into, where, score), kept)

    assert dtype in (torch.float16, torch.bfloat16)
    for config in table.PACKED_CANDIDATES[dim]:
        yield f"forward {config}", partial(forward, config)
    yield f"dq {table.BACKWARD['backward_dq', dim]}", partial(backward, "dq")
    yield f"dk, dv {table.BACKWARD['backward_dkdv', dim]}", partial(backward, "dk", "dv")


def fault(check: Check, truth: Truth, run: Run) -> str:
    """What is wrong with a launch, or nothing."""
    results, spoilt = run()
    said = [spoilt] if spoilt else []
    for name, got in results.items():
        exact = truth.exact[name]
        off = tolerance.error(got, exact)
        bound = tolerance.bounds(
            name, check.dtype, tolerance.error(truth.plain[name], exact), tolerance.size(exact),
            truth.uncancelled.get(name, 0.0),
        )  # fmt: skip
        if not off.within(bound):
            said.append(f"{name} is out by {off}, and may be by {bound}")
    return "; ".join(said)


def builds() -> Iterator[table.Build]:
    """All that is launched here."""
    yield from ahead.packed_builds(x for each in table.PACKED_CANDIDATES.values() for x in each)


def run_all(dims: list[int], kept: Path | None) -> None:
    """Prints a line for each launch of each check, then the times of a head dim that was right."""
    for dim in dims:
        right = True
        for check in CHECKS:
            truth = Truth.of(check, dim)
            for name, run in runs(check, truth, dim, kept):
                print(f"packed {name}: {check.name} ... ", end="", flush=True)
                said = fault(check, truth, run)
                print(said or "right", flush=True)
                right = right and not said
        if right:
            print_times(dim, kept)
