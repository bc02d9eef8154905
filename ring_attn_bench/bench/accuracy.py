"""Judges a contestant's results against float64, on all ranks together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ring_attn_bench.bench.documents import rule_of, starts_of, stretches
from ring_attn_bench.bench.inputs import Inputs, dtype_of, mask_of, score_of
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.bench.tally import ByHead, Over, Tally
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
    rule = rule_of(case, spec.partition)
    spans = [rule.spans(r, place.world_size, case.seqlen_per_gpu) for r in own]
    starts = [span.start for rank in spans for span in rank] + [*(starts_of(case) or ())]
    sampled = oracle.sample_rows(case.seqlen_total, check.sampled_rows, starts, seed)
    of_rank = {r: own[r][torch.isin(own[r], sampled)] for r in place.ranks}
    return ComparedRows("sampled", len(sampled), of_rank)


def positions(case: Case, spec: Contestant, rank: int) -> Tensor:
    """Global positions of rank's tokens."""
    return position_ids(case.seqlen_total, rank, case.world_size, rule_of(case, spec.partition))


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
    """float64 results and plain PyTorch's, by rank that is played here.

    out, lse and dq of the rank's compared rows; dk and dv of its own tokens, from the compared rows
    of all ranks.
    """

    exact: dict[int, Results]
    plain: dict[int, Results]


def truth(
    case: Case,
    spec: Contestant,
    inputs: Inputs,
    rows: ComparedRows,
    place: WorkerPlace,
    *,
    backward: bool,
    budget: int = oracle.DEFAULT_BUDGET,
) -> Truth:
    """What the results should be; a collective over the group's processes.

    Key head by key head: of what is as long as the whole sequence, one head's is held at a time. A
    block of scores takes `budget` bytes, however many rows and keys there are.
    """
    own = {rank: positions(case, spec, rank).to(place.device) for rank in rows.of_rank}
    solved = []
    for arithmetic in (torch.float64, baseline_arithmetic(dtype_of(case))):
        solve = _Solve(case, rows, own, place, arithmetic, budget, backward=backward)
        solved.append(solve.all_heads(inputs))
    return Truth(*solved)


@dataclass(frozen=True)
class _Solve:
    """The oracle over the compared rows, in one arithmetic."""

    case: Case
    rows: ComparedRows
    own: dict[int, Tensor]
    place: WorkerPlace
    arithmetic: torch.dtype
    budget: int
    backward: bool

    def all_heads(self, inputs: Inputs) -> dict[int, Results]:
        by_head = [self._head(inputs.of_key_head(head)) for head in range(self.case.heads_kv)]
        return {
            rank: {
                name: torch.cat([one[rank][name] for one in by_head], dim=1 if name == "lse" else 2)
                for name in by_head[0][rank]
            }
            for rank in self.rows.of_rank
        }

    def _head(self, inputs: Inputs) -> dict[int, Results]:
        """Of one key head and the query heads that read it."""
        dk, dv = (torch.zeros_like(x, dtype=torch.float64) for x in (inputs.k, inputs.v))
        solved: dict[int, Results] = {}
        for rank, compared in self.rows.of_rank.items():
            solved[rank] = self._rows(compared.to(self.place.device), inputs, dk, dv)
        return self._with_keys(solved, dk, dv) if self.backward else solved

    def _rows(self, at: Tensor, inputs: Inputs, dk: Tensor, dv: Tensor) -> Results:
        """Of rows at these rising positions, each among its document's keys; adds to dk and dv."""
        case, device, x = self.case, self.place.device, inputs.at(at)
        edges = [*stretches(starts_of(case), case.seqlen_total)]
        cuts = torch.searchsorted(at, torch.tensor(edges, device=device)).tolist()
        parts: list[Results] = []
        for (start, stop), (first, last) in zip(edges, cuts, strict=True):
            if first == last:
                continue
            rows, keys = x.part(slice(first, last)), inputs.part(slice(start, stop))
            where = at[first:last], torch.arange(start, stop, device=device)
            asked = oracle.Inquiry(
                *where, mask_of(case), score_of(case), arithmetic=self.arithmetic,
                budget=self.budget,
            )  # fmt: skip
            out, lse = oracle.forward(rows.q, keys.k, keys.v, asked)
            parts.append({"out": out, "lse": lse})
            if self.backward:
                parts[-1]["dq"], dk_share, dv_share = oracle.backward(
                    rows.dout, rows.q, keys.k, keys.v, out, lse, asked
                )
                dk[:, start:stop] += dk_share
                dv[:, start:stop] += dv_share
        return {
            name: torch.cat([part[name] for part in parts], dim=2 if name == "lse" else 1)
            for name in parts[0]
        }

    def _with_keys(self, solved: dict[int, Results], dk: Tensor, dv: Tensor) -> dict[int, Results]:
        """The same with what the rows of all ranks together give each rank's own keys."""
        for x in (dk, dv):
            self.place.sum(x)
        for rank, own in self.own.items():
            solved[rank] |= {"dk": dk[:, own], "dv": dv[:, own]}
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
        size = Tally()
        for solved in expected.exact.values():
            size.add(solved[name], None)
        sizes = size.over(place)
        ring, plain, alone = Tally(size=sizes.whole.rmse), Tally(), Tally()
        for rank, result in zip(rows.of_rank, results, strict=True):
            ring.look_at(result[name])
            own = positions(case, spec, rank).to(place.device)
            at = rows.of_rank[rank].to(place.device)
            local: Tensor | slice = torch.searchsorted(own, at)
            if name in ("dk", "dv"):
                local, at = slice(None), own
            exact = expected.exact[rank][name]
            ring.add(_tokens(result[name], name, local), exact)
            plain.add(expected.plain[rank][name], exact)
            if one_call is not None:
                alone.add(_tokens(one_call[name], name, at), exact)
        every = [ring.over(place), plain.over(place), sizes]
        alone_over = alone.over(place).whole if one_call is not None else None
        errors[name] = tensor_error(name, case, every, alone_over)
    return errors


def tensor_error(
    name: str, case: Case, parts: list[Over], one_call: Deviation | None
) -> TensorError:
    """From what was tallied of a contestant, of plain PyTorch and of the truth alone."""
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
        precision=parts[0].precision,
    )


def _wrong_head(
    name: str, case: Case, ring: ByHead, plain: ByHead, size: ByHead
) -> HeadError | None:
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
