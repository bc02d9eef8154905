"""A contestant with its inputs on one process, ready to be judged, measured and timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ring_attn_bench.bench import accuracy, contestants, flops, inputs, one_call
from ring_attn_bench.bench.contestant import Gradients, Outputs, Runner
from ring_attn_bench.bench.in_graphs import captured_by_all
from ring_attn_bench.bench.inputs import Inputs
from ring_attn_bench.bench.invariants import Edit, Invariance, allowances, leave, ones_for_v, sums
from ring_attn_bench.bench.messages import Prepare, Subject
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.recorder import Recorder
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.stand_in import by_loopback
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.bench.timing import Call
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.exactness import Invariants, of_results
from ring_attn_bench.records.record import Accuracy, TensorError
from ring_attn_bench.ring.context import RingContext

Errors = dict[str, TensorError]
"""A tensor's error, by the result's name."""


@dataclass(frozen=True)
class _Judged:
    """A call, counted from 1, what it gave for each rank played here, and its errors."""

    call: int
    results: list[accuracy.Results]
    errors: Errors


@dataclass(frozen=True)
class Prepared:
    """One contestant on one case."""

    request: Prepare
    contestant: Runner
    place: WorkerPlace
    backward: bool
    stand_in: Prepared | None = None
    """By loopback, what is judged in place of a played ring, whose results mean nothing."""

    @cached_property
    def shards(self) -> list[Inputs]:
        """The inputs of every rank that this process plays."""
        if self.stand_in is not None:  # nobody needs those of the other ranks
            return [self._of_length(self.request.case.seqlen_per_gpu)]
        if self.request.own:
            case, seed, place = self.request.case, self.request.seed, self.place
            return [
                inputs.of_rank(case, seed + rank, place.device, backward=self.backward)
                for rank in place.ranks
            ]
        whole = inputs.make(self.request.case, self.request.seed, self.place.device)
        return self._cut(whole)

    @cached_property
    def twin(self) -> Runner | None:
        """The contestant without communication, if it can do without."""
        return self.contestant.twin()

    @cached_property
    def outputs(self) -> list[Outputs]:
        """The results of a forward pass, for backward passes to start from."""
        return self.contestant.forward(self.shards)

    def forget(self) -> None:
        """Drops what was made for timing but the inputs; it is made again where it is needed."""
        for name in ("twin", "outputs", "one_call_length", "_one_call_inputs"):
            vars(self).pop(name, None)

    def judge(self, check: Check, seed: int, *, alone: bool = True) -> dict[str, Accuracy]:
        """The accuracy of each direction; a collective over the group's processes.

        What was timed is judged in the memory in which it was timed, whose contents are others': a
        kernel that goes by addresses (descriptors, packed keys that it kept) has no excuse.
        """
        if self.stand_in is not None:
            return self._judge_by(self.stand_in, check, seed, alone=alone)
        case, spec, place = self.request.case, self.request.contestant, self.place
        rows = accuracy.choose_rows(case, spec, place, check, seed)
        whole = inputs.make(case, seed, place.device)
        judged = self._against_truth(accuracy.only_rows(whole, rows, place), rows, alone=alone)
        held: Invariants | None = None
        if check.invariants and not self.contestant.interpreted and _are_right(judged.errors):
            held = self._invariance(whole, judged, every_row=rows.kind == "full").look()
        return {
            direction.value: Accuracy(
                oracle=rows.kind,
                oracle_rows=rows.total,
                tensors={n: judged.errors[n] for n in direction.tensors if n in judged.errors},
                call=judged.call,
                invariants=of_results(held, direction.tensors),
            )
            for direction in self.request.directions
            if self.backward or direction is Direction.FORWARD
        }

    def _against_truth(self, whole: Inputs, rows: accuracy.ComparedRows, *, alone: bool) -> _Judged:
        case, spec, place = self.request.case, self.request.contestant, self.place
        expected = accuracy.truth(case, spec, whole, rows, place, backward=self.backward)
        one_call = self._alone(whole) if alone else None
        _poison(place)
        shards = self._where_timed(self._cut(whole))

        def judged(call: int) -> _Judged:
            results = self._results(shards)
            errors = accuracy.judge(case, spec, place, rows, expected, results, one_call)
            return _Judged(call, results, errors)

        return self._first_wrong(judged)

    def _first_wrong(self, judged: Callable[[int], _Judged]) -> _Judged:
        """The first call that is wrong, counted from 1; else call 1.

        A kernel may keep something from call to call. An interpreter's call takes minutes, and
        there is one.
        """
        first = judged(1)
        if self.contestant.interpreted or not _are_right(first.errors):
            return first
        second = judged(2)
        return first if _are_right(second.errors) else second

    def _invariance(self, whole: Inputs, judged: _Judged, *, every_row: bool) -> Invariance:
        """What asks the contestant again, in the memory in which it was judged.

        every_row: whether it was judged with a dout in every row, as it is asked.
        """
        case, spec, place = self.request.case, self.request.contestant, self.place

        def run(change: Edit, backward: bool) -> list[accuracy.Results]:
            shards = self._cut(whole)
            for rank, shard in zip(place.ranks, shards, strict=True):
                change(accuracy.positions(case, spec, rank).to(place.device), shard)
            return self._results(self._where_timed(shards), backward=backward)

        base = judged.results if every_row else run(leave, self.backward)
        allowed = allowances(judged.errors, judged.results, base, place)
        return Invariance(case, spec, place, whole, base, allowed, run, self.backward)

    def _judge_by(
        self, other: Prepared, check: Check, seed: int, *, alone: bool
    ) -> dict[str, Accuracy]:
        """What its stand-in gets right, once it has shown that it comes to an end itself."""
        self._results(self.shards)
        self.forget()
        vars(self).pop("shards", None)  # the stand-in has its own
        length = {"seqlen_total": other.request.case.seqlen_total}
        judged = other.judge(check, seed, alone=alone)
        return {name: accuracy.model_copy(update=length) for name, accuracy in judged.items()}

    def repeats(self) -> bool:
        """Whether two runs on the same inputs give the same bits."""
        first, second = (self._results(self.shards) for _ in range(2))
        return all(
            torch.equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a
        )

    def sums(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """The invariants that are sums; a collective, which spoils the inputs."""
        self.forget()
        for shard in self.shards:
            ones_for_v(shard)
        results = self._results(self.shards)
        dout = [shard.dout for shard in self.shards] if self.backward else None
        invariants = sums(self.request.case, self.place, results, dout)
        return {
            invariant: {name: departure.model_dump() for name, departure in by_result.items()}
            for invariant, by_result in invariants.items()
        }

    def call(self, direction: Direction, subject: Subject) -> Call | None:
        """What to time, or None if the contestant has no such subject."""
        if subject is Subject.ONE_CALL:
            return self._one_call(direction)
        if subject in (Subject.GRAPH, Subject.ONE_CALL_GRAPH):
            return self._in_graph(direction, subject)
        contestant = self.contestant if subject is Subject.RING else self.twin
        return None if contestant is None else self._call_of(contestant, direction)

    def traced(self, direction: Direction, recorder: Recorder[Any]) -> Call | None:
        """What leaves its spans with the recorder; None if the contestant cannot be looked at."""
        contestant = self.contestant.traced(recorder)
        return None if contestant is None else self._call_of(contestant, direction)

    def _in_graph(self, direction: Direction, subject: Subject) -> Call | None:
        """None where there is none: a backward alone goes on from what was not captured."""
        of_ring = subject is Subject.GRAPH
        if not self._has_graphs or direction is Direction.BACKWARD:
            return None
        if of_ring and not self.contestant.capturable:
            return None
        call = self._call_of(self.contestant, direction) if of_ring else self._one_call(direction)
        what = self.request.contestant.name if of_ring else "its one call"
        return None if call is None else captured_by_all(call, self.place, what)

    @property
    def _has_graphs(self) -> bool:
        """Whether they are asked for, on GPUs that play a rank each: by loopback ranks take turns,
        and a larger ring that is played by fewer is looked at for how it moves keys."""
        place = self.place
        is_real = place.processes == place.world_size and self.stand_in is None
        return self.request.graphs and is_real and place.device.type == "cuda"

    def _call_of(self, contestant: Runner, direction: Direction) -> Call:
        if direction is Direction.FORWARD:
            return lambda: contestant.forward(self.shards)
        if direction is Direction.BACKWARD:
            outputs = self.outputs
            return lambda: contestant.backward(self.shards, outputs)
        return lambda: contestant.backward(self.shards, contestant.forward(self.shards))

    @cached_property
    def one_call_length(self) -> int:
        """The sequence length at which one device has its share of the work."""
        return flops.equal_work_length(self.request.case, self._devices)

    @property
    def calls(self) -> int:
        """In one sample."""
        return 1

    @property
    def _devices(self) -> int:
        """That share the work, or would in a ring that is played."""
        return self.place.processes if self.stand_in is None else self.place.world_size

    def with_context(self, context: RingContext | None) -> Prepared:
        """The same contestant made anew, on the same inputs, over a context of its own."""
        made = replace(self, contestant=_contestant(self.request, self.place, context))
        vars(made)["shards"] = self.shards
        return made

    def flops(self, direction: Direction) -> dict[str, float | int | None]:
        """The fields of `Speed` that say what the work is."""
        case = self.request.case
        length = self.one_call_length
        one_call_area = flops.area_of_first(case, length)
        return {
            "useful_flops": flops.flops(case, direction, flops.area(case)),
            "devices": self._devices,
            "one_gpu_flops": flops.flops(case, direction, one_call_area),
            **self._executed(direction),
            "link_bytes": self._link_bytes(direction),
        }

    def _link_bytes(self, direction: Direction) -> int | None:
        moved = self.contestant.link_bytes(self.request.case, direction)
        if moved is None or self.stand_in is not None:  # which knows of all ranks
            return moved
        return int(self.place.largest(torch.tensor([moved], device=self.place.device)).item())

    def _executed(self, direction: Direction) -> dict[str, float | int | None]:
        """What all ranks launch, and how much more the busiest one does than the mean."""
        pairs = self.contestant.allowed_pairs
        if pairs is None:
            return {"executed_flops": None, "imbalance": None}
        place = self.place if self.stand_in is None else self.place.alone()
        most = torch.tensor([float(max(pairs))], device=place.device)
        total = torch.tensor([float(sum(pairs))], dtype=torch.float64, device=place.device)
        busiest = place.largest(most).item()
        executed = round(place.sum(total).item())
        return {
            "executed_flops": flops.flops(self.request.case, direction, executed),
            "imbalance": busiest * place.world_size / executed,
        }

    @cached_property
    def _one_call_inputs(self) -> Inputs:
        return self._of_length(self.one_call_length)

    def _of_length(self, tokens: int) -> Inputs:
        short = self.request.case.model_copy(update={"seqlen_total": tokens, "world_size": 1})
        return inputs.make(short, self.request.seed, self.place.device)

    def _cut(self, whole: Inputs) -> list[Inputs]:
        case, spec = self.request.case, self.request.contestant
        ranks = (accuracy.positions(case, spec, r).to(self.place.device) for r in self.place.ranks)
        return [whole.at(own) for own in ranks]

    def _where_timed(self, shards: list[Inputs]) -> list[Inputs]:
        """These inputs in the memory of those that were timed, if any were."""
        timed: list[Inputs] | None = vars(self).get("shards")
        if timed is None:
            return shards
        with torch.no_grad():  # a peer may have asked for gradients of them
            for there, new in zip(timed, shards, strict=True):
                for x, y in zip(there.tensors, new.tensors, strict=True):
                    x.copy_(y)
        return timed

    def _results(
        self, shards: Sequence[Inputs], *, backward: bool = True
    ) -> list[accuracy.Results]:
        outputs = self.contestant.forward(shards)
        named = [_given(*pair) for pair in outputs]
        if self.backward and backward:
            for result, gradients in zip(
                named, self.contestant.backward(shards, outputs), strict=True
            ):
                result |= _named(gradients)
        return named

    def _alone(self, whole: Inputs) -> accuracy.Results | None:
        """The same kernel's results over the whole sequence, where it can do that in one call."""
        kernel = self._kernel(self.request.case.seqlen_total)
        if kernel is None:
            return None
        try:
            out, lse = kernel.forward(whole)
            results = {"out": out, "lse": lse}
            if self.backward:
                results |= _named(kernel.backward(whole, out, lse))
        except torch.OutOfMemoryError:
            return None
        return results

    def _kernel(self, length: int) -> one_call.Alone | None:
        """The same kernel over a sequence of that length, if it is ours and that is one call."""
        backend, case = self.contestant.kernel, self.request.case
        return None if backend is None else one_call.make(case, backend, length, self.place.device)

    def _one_call(self, direction: Direction) -> Call | None:
        kernel = self._kernel(self.one_call_length)
        if kernel is None:
            return None
        x = self._one_call_inputs
        if direction is Direction.FORWARD:
            return lambda: kernel.forward(x)
        if direction is Direction.BACKWARD:
            out, lse = kernel.forward(x)
            return lambda: kernel.backward(x, out, lse)
        return lambda: kernel.backward(x, *kernel.forward(x))


def prepare(request: Prepare, place: WorkerPlace, contexts: Contexts) -> Prepared:
    """The contestant, ready; raises Refused with a reason that covers every direction asked for."""
    playing = request.contestant.playing
    if playing:
        place = place.playing(playing, request.case.world_size)
    contestant = _contestant(request, place, contexts.of(request.contestant))
    stand_in = None
    if playing:
        stand_in = prepare(by_loopback(request, contestant.took), place.alone(), contexts)
    return Prepared(request, contestant, place, _backward(request), stand_in)


def _contestant(request: Prepare, place: WorkerPlace, context: RingContext | None) -> Runner:
    case, spec = request.case, request.contestant
    return contestants.make(case, spec, place, context, backward=_backward(request))


def _backward(request: Prepare) -> bool:
    return any(d is not Direction.FORWARD for d in request.directions)


def _are_right(errors: Errors) -> bool:
    return all(error.is_right for error in errors.values())


def _named(gradients: Gradients) -> accuracy.Results:
    return dict(zip(("dq", "dk", "dv"), gradients, strict=True))


def _given(out: Tensor, lse: Tensor | None) -> accuracy.Results:
    """What the contestant gives, without the graph that autograd hangs on to it."""
    results = {"out": out.detach()}
    return results if lse is None else results | {"lse": lse.detach()}


def _poison(place: WorkerPlace) -> None:
    """Leaves NaN in the memory that the next allocations get, so that an unwritten result shows."""
    if place.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        size = min(free // 2, 8 * 2**30) // 4
        torch.full((size,), float("nan"), device=place.device)
