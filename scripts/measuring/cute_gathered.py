"""The one launch over gathered keys of `scripts/cute_check.py`: checks against float64, then times.

Each check is a forward, a launch for dk and dv, one for dq, and the two that make all gradients and
add to dq, whose keys have landed, or come while it runs (`cute_landing.py`). Results lie in larger
tensors of NaN, and are NaN before, but dq that is added to is 0; what all keys were there for is
made twice, and must be the same bits, but for that dq. Where the last piece is lost,
everything that needs it must be NaN, and everything else right, or NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from measuring.cute import DEVICE, inside, untouched, width_v
from measuring.cute_gathered_times import DIM, print_times
from measuring.cute_landing import CHECKS, Arrival, Check
from ring_attn_backends.cute import ahead, table
from ring_attn_backends.cute.arguments import Call
from ring_attn_backends.cute.gathered.gradients import adding_call, dkdv_call, dq_call
from ring_attn_backends.cute.gathered.launch import forward_call
from ring_attn_backends.cute.launch import Launch
from torch import Tensor

from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.problem import Score
from ring_attn_bench.truth import oracle, tolerance

ADDING = "all, adding to dq"
Results = dict[str, Tensor]
Run = Callable[[], tuple[Results, str]]
"""A launch: its results by name, and what else it has written."""


@dataclass(frozen=True)
class Truth:
    """A check's inputs, its own rows and the keys of all ranks, and what is right.

    exact, plain: by name, in float64 and in plain torch in the inputs' dtype. uncancelled: how
    large the terms of a gradient are.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    score: Score
    exact: Results
    plain: Results
    uncancelled: dict[str, float]

    @classmethod
    def of(cls, check: Check, dim: int) -> Truth:
        """Of random inputs."""
        torch.manual_seed(len(check.name))
        every = check.world * check.tokens
        q, dout, k, v = (
            torch.randn(check.batch, tokens, heads, width, device=DEVICE).to(check.dtype)
            for tokens, heads in ((check.tokens, check.heads), (every, check.key_heads))
            for width in (dim, width_v(dim))
        )
        score = Score(dim**-0.5, check.softcap)
        own, *others = check.positions
        asked = partial(oracle.Inquiry, own, torch.cat([own, *others]), check.mask, score)
        wide = [x.double() for x in (dout, q, k, v)]
        out, lse = oracle.forward(*wide[1:], asked())
        sums = oracle.backward(*wide, out, lse, asked())
        terms = oracle.backward(*wide, torch.zeros_like(out), lse, asked())
        plainly = asked(arithmetic=check.dtype)
        rough = oracle.forward(q, k, v, plainly)
        rough_sums = oracle.backward(dout, q, k, v, *rough, plainly)
        names = ("dq", "dk", "dv")
        largest = (tolerance.size(x).max_abs for x in terms[:2])
        return cls(
            q, k, v, dout, score,
            {"out": out, "lse": lse, **dict(zip(names, sums, strict=True))},
            dict(zip(("out", "lse", *names), (*rough, *rough_sums), strict=True)),
            dict(zip(names, largest, strict=False)),
        )  # fmt: skip

    def rows(self, dtype: torch.dtype) -> Rows:
        """What a backward reads, inside larger tensors of NaN."""
        out, lse = self.exact["out"], self.exact["lse"]
        delta = (self.dout.double() * out).sum(-1).transpose(1, 2)
        q, dout = (inside(*x.shape, dtype=dtype, values=x)[0] for x in (self.q, self.dout))
        lines = (inside(*x.shape, dtype=torch.float32, values=x)[0] for x in (lse, delta))
        return Rows(q, dout, out.to(dtype), *lines)

    def faults(self, check: Check, results: Results, *, in_part: bool) -> Iterator[str]:
        """What is wrong with them. in_part: what is NaN is taken to be right."""
        for name, got in results.items():
            exact = self.exact[name]
            if in_part:
                got = torch.where(got.isnan(), exact.to(got.dtype), got)
            off = tolerance.error(got, exact)
            bound = tolerance.bounds(
                name, check.dtype, tolerance.error(self.plain[name], exact), tolerance.size(exact),
                self.uncancelled.get(name, 0.0),
            )  # fmt: skip
            if not off.within(bound):
                yield f"{name} is out by {off}, and may be by {bound}"


def forward(check: Check, truth: Truth, config: table.Config, kept: Path | None) -> Run:
    """The launch for out and lse."""

    def run() -> tuple[Results, str]:
        arrival, where = Arrival.of(check, truth.k, truth.v), check.where
        q = inside(*truth.q.shape, dtype=check.dtype, values=truth.q)[0]
        out, whole_out = inside(*truth.dout.shape, dtype=check.dtype)
        lse, whole_lse = inside(*truth.exact["lse"].shape, dtype=torch.float32)
        call = forward_call(q, arrival.keys, out, lse, where, truth.score, config=config)
        enqueue(call, kept, arrival)
        return {"out": out, "lse": lse}, beside((out, whole_out), (lse, whole_lse))

    return run


def dkdv(check: Check, truth: Truth, kept: Path | None) -> Run:
    """The launch for dk and dv, of own keys in float32; or one each, which the first waits for."""

    def run() -> tuple[Results, str]:
        arrival, where = Arrival.of(check, truth.k, truth.v), check.where
        keys, pairs = arrival.keys, places(check, arrival)
        own, landed = (Keys(*(part for part, _ in x)) for x in (pairs[:2], pairs[2:]))
        rows = truth.rows(check.dtype)
        first, *others = (
            dkdv_call(
                rows, keys, own, landed, where, truth.score, own_first=check.late, kernel=kernel
            )
            for kernel in table.of_keys(truth.q.shape[-1])
        )
        enqueue(first, kept, arrival)
        for call in others:
            enqueue(call, kept)
        return joined(own, landed), beside(*pairs)

    return run


def adding(check: Check, truth: Truth, kept: Path | None) -> Run:
    """The two launches for all gradients; the second has nothing to wait for."""

    def run() -> tuple[Results, str]:
        arrival, where = Arrival.of(check, truth.k, truth.v), check.where
        rows, pairs = truth.rows(check.dtype), places(check, arrival)
        own, landed = (Keys(*(part for part, _ in x)) for x in (pairs[:2], pairs[2:]))
        zeros = torch.zeros_like(truth.q, dtype=torch.float32)
        made, whole = inside(*zeros.shape, dtype=torch.float32, values=zeros)
        add = partial(
            adding_call, rows, dq=made, own=own, landed=landed, where=where, score=truth.score,
            own_first=check.late,
        )  # fmt: skip
        enqueue(add(keys=arrival.keys, part=0), kept, arrival)
        enqueue(add(keys=arrival.keys._replace(arrived=None), part=1), kept)
        return {**joined(own, landed), "dq": made}, beside(*pairs, (made, whole))

    return run


def places(check: Check, arrival: Arrival) -> list[tuple[Tensor, Tensor]]:
    """For gradients of own keys, in float32, and of landed ones; and what is around them."""
    return [
        inside(*x.shape, dtype=dtype)
        for area, dtype in ((arrival.keys.own, torch.float32), (arrival.keys.landed, check.away))
        for x in area
    ]


def joined(own: Keys, landed: Keys) -> Results:
    """dk and dv of all keys."""
    both = (torch.cat([x.double() for x in pair], 1) for pair in zip(own, landed, strict=True))
    return dict(zip(("dk", "dv"), both, strict=True))


def dq(check: Check, truth: Truth, kept: Path | None) -> Run:
    """The launch for dq."""

    def run() -> tuple[Results, str]:
        arrival, where = Arrival.of(check, truth.k, truth.v), check.where
        made, whole = inside(*truth.q.shape, dtype=check.dtype)
        rows, keys = truth.rows(check.dtype), arrival.keys
        enqueue(dq_call(rows, keys, made, where, truth.score), kept, arrival)
        return {"dq": made}, beside((made, whole))

    return run


def enqueue(call: Call, kept: Path | None, arrival: Arrival | None = None) -> None:
    """Loads the kernel, has the keys sent, and launches it; returns when all is done."""
    launch = None if call.is_empty else Launch(call, kept)
    torch.cuda.synchronize()
    if arrival is not None:
        arrival.send()
    if launch is not None:
        launch.run(call.tensors)
    torch.cuda.synchronize()


def beside(*pairs: tuple[Tensor, Tensor]) -> str:
    """Whether anything but results was written, which a result that is NaN does not show."""
    return "" if all(untouched(*pair) for pair in pairs) else "wrote beside its results"


def fault(check: Check, truth: Truth, run: Run, *, adds: bool = False) -> str:
    """What is wrong with a launch, or nothing; adds: to dq."""
    results, spoilt = run()
    said = [spoilt] if spoilt else []
    if check.lost:
        said += not_told(check, results)
    elif not check.late:
        again, _ = run()
        same = [name for name in results if not (adds and name == "dq")]  # its bits may be others
        if not all(torch.equal(results[name], again[name]) for name in same):
            said.append("the same call has given other bits")
    return "; ".join([*said, *truth.faults(check, results, in_part=check.lost)])


def not_told(check: Check, results: Results) -> Iterator[str]:
    """What should be NaN because the last piece is lost, and is not; every row sees that piece."""
    for name, x in results.items():
        of_it = x[:, -check.tokens :] if name in ("dk", "dv") else x
        if not bool(of_it.isnan().all()):
            yield f"{name} does not tell that a piece is lost"


def builds(dims: Sequence[int] | None = None) -> Iterator[table.Build]:
    """All that is launched here of these head dims, or of the table's."""
    wanted = table.TABLE if dims is None else dims
    yield from (build for build in ahead.gathered_builds() if build.config.width in wanted)
    if DIM not in wanted:
        return
    of_keys, of_rows = (table.BACKWARD[name, DIM] for name in ("backward_dkdv", "backward_dq"))
    for config in table.serving():
        if config.width == DIM:
            yield table.Build(config, "bfloat16", "bfloat16")
    yield table.Build(of_keys, "bfloat16", "bfloat16", kernel="backward_dkdv")
    yield table.Build(of_rows, "bfloat16", "bfloat16", kernel="backward_dq")
    yield table.Build(table.ADDS[128], "bfloat16", "bfloat16", kernel="backward_adding")


def runs(check: Check, truth: Truth, dim: int, kept: Path | None) -> Iterator[tuple[str, Run]]:
    """Every launch of a check, in each configuration of the forward."""
    for config in table.serving():
        if config.width == dim:
            yield f"forward {config}", forward(check, truth, config, kept)
    of_keys = ", ".join(str(table.BACKWARD[kernel, dim]) for kernel in table.of_keys(dim))
    yield f"dk, dv {of_keys}", dkdv(check, truth, kept)
    yield f"dq {table.BACKWARD['backward_dq', dim]}", dq(check, truth, kept)
    if dim in table.ADDS:
        yield f"{ADDING} {table.ADDS[dim]}", adding(check, truth, kept)


def run_all(dims: list[int], kept: Path | None) -> None:
    """Prints a line for each launch of each check, then times of 128 unless one was wrong."""
    right = True
    for dim in dims:
        for check in CHECKS:
            truth = Truth.of(check, dim)
            for name, run in runs(check, truth, dim, kept):
                print(f"gathered {name}: {check.name} ... ", end="", flush=True)
                said = fault(check, truth, run, adds=name.startswith(ADDING))
                print(said or "right", flush=True)
                right = right and not said
    if right and DIM in dims:
        print_times(kept)
