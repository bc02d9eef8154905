"""What holds of attention whatever its truth is, so that every row of any length can be asked.

Each is one more call on inputs that were changed in one place. It costs no truth: a contestant is
compared with itself, or with one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from ring_attn_bench.bench.accuracy import Results, positions
from ring_attn_bench.bench.documents import starts_of
from ring_attn_bench.bench.inputs import Inputs, dtype_of
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.tally import PIECE, Tally
from ring_attn_bench.plan.documents import Starts
from ring_attn_bench.records.exactness import (
    BATCH_APART,
    DOCUMENTS_APART,
    DV_SUMS_TO_DOUT,
    HEADS_APART,
    KEYS_PERMUTED,
    ROWS_SUM_TO_ONE,
    Departure,
    Invariants,
)
from ring_attn_bench.records.record import Case, Contestant, TensorError
from ring_attn_bench.truth.tolerance import MULTIPLES, Deviation

Edit = Callable[[Tensor, Inputs], None]
"""Changes a rank's inputs, a copy of its own, in place; told where its tokens stand."""
RunEdited = Callable[[Edit, bool], list[Results]]
"""The results of each rank played here on inputs so changed; with a backward or without."""
Untouched = Callable[[int, str, Tensor], Tensor]
"""What must not change, of a rank played here, counted from 0, and the result of that name."""
CALLS_ALIKE = 5
"""Of either inputs, before other bits are held against a contestant. One that has them in some
calls only, by sums in no fixed order, is taken for a leak less than once in a thousand."""


@dataclass(frozen=True)
class Invariance:
    """A contestant that was right on a case, and how to call it again.

    base: its results on the unchanged inputs, by rank played here. allowed: by result, how far two
    calls may be apart. whole: the inputs of the whole sequence.
    """

    case: Case
    spec: Contestant
    place: WorkerPlace
    whole: Inputs
    base: Sequence[Results]
    allowed: Mapping[str, Deviation]
    run: RunEdited
    backward: bool

    def look(self) -> Invariants:
        """All that say something of the case; a collective over the group's processes."""
        ones = self.run(lambda own, x: ones_for_v(x), False)
        invariants = sums(self.case, self.place, ones, None)
        if self.backward:
            dout = [self.whole.dout[:, own] for own in self._own]
            invariants[DV_SUMS_TO_DOUT] = {"dv": _columns(self.case, self.place, self.base, dout)}
        starts = starts_of(self.case)
        if not self.case.causal and self.case.window == (-1, -1) and starts is None:
            invariants[KEYS_PERMUTED] = self._keys_permuted()
        if self.case.heads_q > 1:
            # query heads of one key head may share a tile, and what a kernel decides for a tile
            invariants[HEADS_APART] = self._apart(*self._last_head(), bits=self.case.heads_kv > 1)
        if self.case.batch > 1:
            invariants[BATCH_APART] = self._apart(_other_entry, lambda at, name, x: x[:-1])
        if starts is not None and len(starts) > 2:
            # a tile may have tokens of both, and what a kernel decides for a tile
            invariants[DOCUMENTS_APART] = self._apart(*_every_second(starts, self._own), bits=False)
        return invariants

    def _keys_permuted(self) -> dict[str, Departure]:
        random = torch.Generator("cpu").manual_seed(0)
        order = torch.randperm(self.case.seqlen_total, generator=random, device="cpu")
        order = order.to(self.place.device)

        def permute(own: Tensor, x: Inputs) -> None:
            x.k.copy_(self.whole.k[:, order[own]])
            x.v.copy_(self.whole.v[:, order[own]])

        return {
            name: self._judged(name, self._permuted(name, order), after)
            for name, after in _by_name(self.run(permute, self.backward)).items()
        }

    def _permuted(self, name: str, order: Tensor) -> list[Tensor]:
        """What a result must be when keys are in that order: its own, or that of another rank."""
        before = [result[name] for result in self.base]
        if name not in ("dk", "dv"):
            return before
        everywhere = torch.zeros_like(self.whole.k if name == "dk" else self.whole.v)
        everywhere = everywhere.to(before[0].dtype)
        for own, x in zip(self._own, before, strict=True):
            everywhere[:, own] = x
        self.place.sum(everywhere)
        return [everywhere[:, order[own]] for own in self._own]

    def _last_head(self) -> tuple[Edit, Untouched]:
        """Changes the last key head and its queries, or the last of those where it is the only."""
        heads, key_heads = self.case.heads_q, self.case.heads_kv
        queries = 1 if key_heads == 1 else heads // key_heads
        keys = 0 if key_heads == 1 else 1

        def change(own: Tensor, x: Inputs) -> None:
            for tensor, last in ((x.q, queries), (x.dout, queries), (x.k, keys), (x.v, keys)):
                if last:
                    _replace(tensor[:, :, -last:])

        def others(at: int, name: str, x: Tensor) -> Tensor:
            if name == "lse":
                return x[:, :-queries]
            if name in ("dk", "dv"):  # a key head's gradients are from all of its queries
                return x[:, :, : x.shape[2] - 1]
            return x[:, :, :-queries]

        return change, others

    def _apart(self, change: Edit, part: Untouched, *, bits: bool = True) -> dict[str, Departure]:
        """Not a bit of that part may change, of what does not change from call to call anyway."""
        changed = _by_name(self.run(change, self.backward))
        departures = {}
        for name, after in changed.items():
            before = [part(at, name, result[name]) for at, result in enumerate(self.base)]
            counted = float(sum(x.numel() for x in before))
            numbers = torch.tensor([counted], device=self.place.device)
            if self.place.sum(numbers).item():
                tally = _tally(before, [part(at, name, x) for at, x in enumerate(after)])
                allowed = Deviation(0.0, 0.0) if bits else self.allowed[name]
                departures[name] = _departure(tally.over(self.place).whole, allowed)
        broken = [name for name, x in departures.items() if not x.is_kept]
        for name in self._unsteady(broken, ((leave, _by_name(self.base)), (change, changed))):
            allowed = self.allowed[name]
            limits = {"allowed_max_abs": allowed.max_abs, "allowed_rmse": allowed.rmse}
            departures[name] = departures[name].model_copy(update=limits)
        return departures

    def _unsteady(
        self,
        names: Sequence[str],
        calls: tuple[tuple[Edit, Mapping[str, Sequence[Tensor]]], ...],
    ) -> set[str]:
        """Those that have other bits in another call on the same inputs: sums in no fixed order.

        calls: what was changed in them, and what they gave.
        """
        unsteady: set[str] = set()
        for change, first in calls * CALLS_ALIKE:
            if len(unsteady) == len(names):
                break
            again = _by_name(self.run(change, self.backward))
            for name in names:
                tally = _tally(first[name], again[name])
                unsteady |= {name} if tally.over(self.place).whole.max_abs > 0 else set()
        return unsteady

    def _judged(self, name: str, before: Sequence[Tensor], after: Sequence[Tensor]) -> Departure:
        return _departure(_tally(before, after).over(self.place).whole, self.allowed[name])

    @property
    def _own(self) -> list[Tensor]:
        device = self.place.device
        return [positions(self.case, self.spec, r).to(device) for r in self.place.ranks]


def allowances(
    errors: Mapping[str, TensorError],
    judged: Sequence[Results],
    base: Sequence[Results],
    place: WorkerPlace,
) -> dict[str, Deviation]:
    """How far two results may be apart, of which each may be out by its bound.

    judged: what `errors` is of. Where only some rows had a dout in it, dk and dv were smaller, and
    so was what they may be out by.
    """
    allowed = {}
    for name, error in errors.items():
        now, then = (_size(x, name, place) for x in (base, judged))
        scale = 2 * (now / then if name in ("dk", "dv") and then else 1.0)
        allowed[name] = Deviation(scale * error.bound_max_abs, scale * error.bound_rmse)
    return allowed


def _size(results: Sequence[Results], name: str, place: WorkerPlace) -> float:
    tally = Tally()
    for result in results:
        tally.add(result[name], None)
    return tally.over(place).whole.rmse


def sums(
    case: Case, place: WorkerPlace, ones: Sequence[Results], dout: Sequence[Tensor] | None
) -> Invariants:
    """What adds up to something known; a collective over the group's processes.

    ones: results of each rank played here, where every v is 1. dout: that they were given; None
    asks only about out. Every row sees a key, its own, so that its out is 1.
    """
    tally = Tally()
    for result in ones:
        out = result["out"]
        tally.add(out, out.new_ones(()).expand_as(out))  # which takes no memory
    allowed = MULTIPLES["out"] * off_one(dtype_of(case), case.seqlen_total)
    rows = _departure(tally.over(place).whole, Deviation(allowed, allowed))
    invariants: Invariants = {ROWS_SUM_TO_ONE: {"out": rows}}
    if dout is not None:
        invariants[DV_SUMS_TO_DOUT] = {"dv": _columns(case, place, ones, dout)}
    return invariants


def _columns(
    case: Case, place: WorkerPlace, results: Sequence[Results], dout: Sequence[Tensor]
) -> Departure:
    """Each dout is dealt to the keys by weights that sum to one, so that dv adds up to dout.

    What each weight and each dv is rounded by is a share of its size: so is what is allowed.
    """
    groups = case.heads_q // case.heads_kv
    shape = case.batch, case.heads_kv, case.head_dim
    all_dv, sizes, all_dout = (
        torch.zeros(shape, dtype=torch.float64, device=place.device) for _ in range(3)
    )
    for result, given in zip(results, dout, strict=True):
        all_dv += _summed(result["dv"])
        sizes += _summed(result["dv"], torch.abs)
        all_dout += _summed(given).unflatten(1, (-1, groups)).sum(2)
    for x in (all_dv, sizes, all_dout):
        place.sum(x)
    tally = Tally()
    tally.add((all_dv / sizes)[:, None], (all_dout / sizes)[:, None])
    alone = place.alone()  # all of them have these sums
    allowed = MULTIPLES["dv"] * off_one(dtype_of(case), case.seqlen_total)
    return _departure(tally.over(alone).whole, Deviation(allowed, allowed))


def _summed(x: Tensor, of: Callable[[Tensor], Tensor] = torch.Tensor.double) -> Tensor:
    """The sum of something of x (B, S, H, D) over S, in float64, (B, H, D).

    Some tokens at a time: torch sums bfloat16 in float64 by a copy of all of it.
    """
    step = max(1, PIECE * x.shape[1] // max(1, x.numel()))
    total = x.new_zeros((x.shape[0], *x.shape[2:]), dtype=torch.float64)
    for part in x.split(step, dim=1):
        total += of(part).sum(1, dtype=torch.float64)
    return total


def off_one(dtype: torch.dtype, keys: int) -> float:
    """How far from 1 the weights of a row of plain PyTorch may sum up to, and an out of ones.

    Rounding the weights to the dtype costs at most half a unit of their sum, and rounding out
    another half. Weights below the smallest normal number (float16's of long rows) are rounded to
    multiples of the smallest one. The row and its sum are added up in float32 at least, apart from
    each other, and such sums walk at random: by the root of their length.
    """
    info = torch.finfo(dtype)
    walk = min(info.eps, torch.finfo(torch.float32).eps) * sqrt(keys)
    return info.eps + keys * info.smallest_normal * info.eps / 2 + walk


def ones_for_v(x: Inputs) -> None:
    """Makes every v 1, in place."""
    x.v.fill_(1.0)


def leave(own: Tensor, x: Inputs) -> None:
    """Changes nothing."""


def _replace(x: Tensor) -> None:
    """Puts other numbers there, of another size too."""
    x.copy_(-2 * x.flip(1))


def _other_entry(own: Tensor, x: Inputs) -> None:
    for tensor in x.tensors:
        _replace(tensor[-1:])


def _every_second(starts: Starts, own: Sequence[Tensor]) -> tuple[Edit, Untouched]:
    """Changes every second document; own: where the tokens of each rank played here stand."""

    def is_changed(at: Tensor) -> Tensor:
        edges = torch.tensor(starts[1:], device=at.device)
        return torch.searchsorted(edges, at, right=True) % 2 == 1

    def change(at: Tensor, x: Inputs) -> None:
        tokens = is_changed(at)
        for tensor in x.tensors:
            tensor[:, tokens] *= -2

    def others(at: int, name: str, x: Tensor) -> Tensor:
        tokens = ~is_changed(own[at])
        return x[:, :, tokens] if name == "lse" else x[:, tokens]

    return change, others


def _by_name(results: Sequence[Results]) -> dict[str, list[Tensor]]:
    return {name: [result[name] for result in results] for name in results[0]}


def _tally(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tally:
    tally = Tally()
    for one, other in zip(before, after, strict=True):
        tally.add(other, one)
    return tally


def _departure(deviation: Deviation, allowed: Deviation) -> Departure:
    finite = deviation.max_abs < float("inf")
    return Departure(
        max_abs=deviation.max_abs if finite else None,
        rmse=deviation.rmse if finite else None,
        allowed_max_abs=allowed.max_abs,
        allowed_rmse=allowed.rmse,
    )
