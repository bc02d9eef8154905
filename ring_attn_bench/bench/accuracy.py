"""Judges a contestant's results against float64, on all ranks together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.bench.inputs import Inputs, dtype_of, mask_of, score_of
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.plan.partition import get_partition
from ring_attn_bench.records.record import Case, Contestant, HeadError, TensorError
from ring_attn_bench.sharding import position_ids
from ring_attn_bench.truth import oracle
from ring_attn_bench.truth.tolerance import Deviation, baseline_arithmetic, bounds

Results = dict[str, Tensor]
"""By tensor name: out, lse and, if there was a backward, dq, dk, dv."""


@dataclass(frozen=True)
class ComparedRows:
    """The query rows that are compared: their positions, by ring rank, and how many in all."""

    kind: str
    total: int
    of_rank: dict[int, Tensor]


def choose_rows(
    case: Case, spec: Contestant, place: WorkerPlace, check: Check, seed: int
) -> ComparedRows:
    """Every row of a short sequence; of a long one a sample with both sides of every boundary."""
    own = {r: positions(case, spec, r) for r in range(place.world_size)}
    if case.seqlen_total <= check.full_up_to:
        return ComparedRows("full", case.seqlen_total, {r: own[r] for r in place.ranks})
    rule = get_partition(spec.partition)
    spans = [rule.spans(r, place.world_size, case.seqlen_per_gpu) for r in own]
    starts = [span.start for rank in spans for span in rank]
    sampled = oracle.sample_rows(case.seqlen_total, check.sampled_rows, starts, seed)
    of_rank = {r: own[r][torch.isin(own[r], sampled)] for r in place.ranks}
    return ComparedRows("sampled", len(sampled), of_rank)


def positions(case: Case, spec: Contestant, rank: int) -> Tensor:
    """Global positions of rank's tokens."""
    return position_ids(case.seqlen_total, rank, case.world_size, spec.partition)


def only_rows(inputs: Inputs, rows: ComparedRows, place: WorkerPlace) -> Inputs:
    """The inputs with dout zero but in the compared rows, so that those determine dk and dv."""
    if rows.kind == "full":
        return inputs
    chosen = torch.zeros(inputs.dout.shape[1], device=place.device)
    for own in rows.of_rank.values():
        chosen[own.to(place.device)] = 1
    place.largest(chosen)
    dout = inputs.dout * chosen.to(inputs.dout.dtype)[:, None, None]
    return Inputs(inputs.q, inputs.k, inputs.v, dout)


@dataclass(frozen=True)
class Truth:
    """float64 results and plain PyTorch's, of the rows of each rank played here.

    dk and dv are of the whole sequence, from the rows of all ranks.
    """

    exact: dict[int, Results]
    plain: dict[int, Results]


def truth(
    case: Case, inputs: Inputs, rows: ComparedRows, place: WorkerPlace, *, backward: bool
) -> Truth:
    """What the results should be; a collective over the group's processes."""
    plain = baseline_arithmetic(dtype_of(case))
    return Truth(
        _solve(case, inputs, rows, place, torch.float64, backward=backward),
        _solve(case, inputs, rows, place, plain, backward=backward),
    )


def _solve(
    case: Case,
    inputs: Inputs,
    rows: ComparedRows,
    place: WorkerPlace,
    arithmetic: torch.dtype,
    *,
    backward: bool,
) -> dict[int, Results]:
    solved: dict[int, Results] = {}
    keys = torch.arange(case.seqlen_total, device=place.device)
    mask, score = mask_of(case), score_of(case)
    dk = torch.zeros_like(inputs.k, dtype=torch.float64) if backward else None
    dv = torch.zeros_like(inputs.v, dtype=torch.float64) if backward else None
    for rank, own in rows.of_rank.items():
        at = own.to(place.device)
        x = inputs.at(at)
        out, lse = oracle.forward(
            x.q, inputs.k, inputs.v, at, keys, mask, score, arithmetic=arithmetic
        )
        solved[rank] = {"out": out, "lse": lse}
        if dk is None or dv is None:
            continue
        dq, dk_share, dv_share = oracle.backward(
            x.dout, x.q, inputs.k, inputs.v, out, lse, at, keys, mask, score,
            arithmetic=arithmetic,
        )  # fmt: skip
        dk += dk_share
        dv += dv_share
        solved[rank]["dq"] = dq
    if dk is not None and dv is not None:
        place.sum(dk)
        place.sum(dv)
        for rank in rows.of_rank:
            solved[rank] |= {"dk": dk, "dv": dv}
    return solved


def judge(
    case: Case,
    spec: Contestant,
    place: WorkerPlace,
    rows: ComparedRows,
    expected: Truth,
    results: Sequence[Results],
    one_call: Results | None,
) -> dict[str, TensorError]:
    """The error of each result over all ranks; a collective over the group's processes.

    results: of the ranks played here. one_call: the same kernel's over the whole sequence.
    """
    errors = {}
    for name in results[0]:
        ring, plain, alone, size = (_Sum() for _ in range(4))
        for rank, result in zip(rows.of_rank, results, strict=True):
            ring.look_at(result[name])
            own = positions(case, spec, rank).to(place.device)
            at = rows.of_rank[rank].to(place.device)
            local: Tensor | slice = torch.searchsorted(own, at)
            exact, baseline = expected.exact[rank][name], expected.plain[rank][name]
            if name in ("dk", "dv"):
                local, at = slice(None), own
                exact, baseline = exact[:, own], baseline[:, own]
            ring.add(_tokens(result[name], name, local), exact)
            plain.add(baseline, exact)
            size.add(exact, torch.zeros_like(exact))
            if one_call is not None:
                alone.add(_tokens(one_call[name], name, at), exact)
        every = [part.over(place) for part in (ring, plain, size)]
        alone_over = alone.over(place).whole if one_call is not None else None
        errors[name] = _error(name, case, every, alone_over)
    return errors


def _error(name: str, case: Case, parts: list[_Over], one_call: Deviation | None) -> TensorError:
    ring, plain, size = (part.whole for part in parts)
    bound = bounds(name, dtype_of(case), plain, size)
    return TensorError(
        max_abs=_finite(ring.max_abs),
        rmse=_finite(ring.rmse),
        rel_l2=_finite(ring.rmse / size.rmse) if size.rmse else _finite(ring.rmse),
        bound_max_abs=bound.max_abs,
        bound_rmse=bound.rmse,
        pytorch_max_abs=plain.max_abs,
        pytorch_rmse=plain.rmse,
        one_gpu_max_abs=None if one_call is None else _finite(one_call.max_abs),
        one_gpu_rmse=None if one_call is None else _finite(one_call.rmse),
        head=_wrong_head(name, case, *(part.by_head for part in parts)),
    )


def _wrong_head(name: str, case: Case, ring: Heads, plain: Heads, size: Heads) -> HeadError | None:
    """The head furthest beyond what it may be out by itself, judged as the whole result is.

    One head of 32 that is out by five times what is allowed is lost in the mean over all of them.
    """
    beyond: list[HeadError] = []
    for batch, heads in enumerate(ring):
        for head, rmse in enumerate(heads):
            yardstick, own_size = (Deviation(0.0, x[batch][head]) for x in (plain, size))
            bound = bounds(name, dtype_of(case), yardstick, own_size).rmse
            if rmse > bound:
                error = HeadError(batch=batch, head=head, rmse=_finite(rmse), bound_rmse=bound)
                beyond.append(error)
    return max(beyond, key=lambda error: error.share, default=None)


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def _tokens(x: Tensor, name: str, at: Tensor | slice) -> Tensor:
    return x[:, :, at] if name == "lse" else x[:, at]


Heads = list[list[float]]
"""By batch entry and head, a root mean square."""


@dataclass(frozen=True)
class _Over:
    """Differences over all ranks: of a whole result, and of each of its heads."""

    whole: Deviation
    by_head: Heads


class _Sum:
    """Differences added up over ranks: the largest, the sum of squares by head, and how many."""

    def __init__(self) -> None:
        self._largest = 0.0
        self._squares: Tensor | None = None
        self._count = 0

    def look_at(self, result: Tensor) -> None:
        """Counts a number that is none, also in rows that are not compared: it is never right."""
        # -inf is the lse of a row that sees nothing; a sum needs no memory as `isfinite` does
        lse = result.dim() == 3
        one = result.amax() if lse else result.sum(dtype=_at_least_float32(result))
        if bool(one.isnan() | one.isposinf()) or (not lse and bool(one.isneginf())):
            self._largest = float("inf")

    def add(self, result: Tensor, exact: Tensor) -> None:
        """Counts one rank's result."""
        # equal infinities, the lse of a row that sees nothing, are no difference
        difference = torch.where(result == exact, 0.0, result.double() - exact.double())
        difference = difference.nan_to_num(nan=float("inf"), neginf=float("inf"))
        squares = difference.square().sum((1, 3) if difference.dim() == 4 else 2)
        self._squares = squares if self._squares is None else self._squares + squares
        self._count += difference.numel()
        if difference.numel():
            self._largest = max(self._largest, difference.abs().max().item())

    def over(self, place: WorkerPlace) -> _Over:
        """The difference over all processes; a collective."""
        assert self._squares is not None  # of each rank something is added, if only no rows
        largest = torch.tensor([self._largest], dtype=torch.float64, device=place.device)
        count = torch.tensor([self._count], dtype=torch.float64, device=place.device)
        place.largest(largest)
        squares, total = place.sum(self._squares), max(1.0, place.sum(count).item())
        whole = Deviation(largest.item(), (squares.sum().item() / total) ** 0.5)
        return _Over(whole, (squares / (total / squares.numel())).sqrt().tolist())


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
