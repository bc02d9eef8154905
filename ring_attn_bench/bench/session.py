"""One contestant on one case, as the parent sees it: prepared anew if its group was replaced."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

from pydantic import TypeAdapter

from ring_attn_bench.bench.messages import (
    AddUp,
    Command,
    Envelope,
    Judge,
    Look,
    Measure,
    Prepare,
    Release,
    Sample,
    Subject,
)
from ring_attn_bench.bench.sampling import Series
from ring_attn_bench.bench.suite import Check, Entry, Suite
from ring_attn_bench.bench.tracing import Looked
from ring_attn_bench.contract.used import UsedKernel
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.exactness import Invariants
from ring_attn_bench.records.gpus import GpuLook
from ring_attn_bench.records.predicted import PredictedMemory
from ring_attn_bench.records.record import Accuracy, Memory
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.group import Group
from ring_attn_bench.workers.reply import Facts, WorkerFailed

_INVARIANTS = TypeAdapter(Invariants)
_KERNELS = TypeAdapter(list[UsedKernel])


class RefusedByWorker(Exception):
    """The contestant cannot run the case; the text is the reason."""


@dataclass(frozen=True)
class Measured:
    """memory: None on a CPU. work: the fields of `Speed` that say what it is. looks: by process."""

    memory: Memory | None
    work: Facts
    kernels: tuple[UsedKernel, ...] = ()
    looks: Sequence[GpuLook] = ()


class Session:
    """A conversation with a worker group about one entry of a suite.

    own: as in `Prepare`.
    """

    def __init__(self, entry: Entry, group: Group, suite: Suite, *, own: bool = False) -> None:
        self.entry = entry
        self._own = own
        self._group = group
        self._suite = suite
        self._generation = -1
        self.directions = entry.directions
        self.version = ""
        self.interpreted = False
        self.took: object = None
        self.predicted: dict[Direction, PredictedMemory] = {}

    def prepare(self, directions: tuple[Direction, ...]) -> None:
        """Makes the contestant for these directions; raises RefusedByWorker, WorkerFailed."""
        self.directions = directions
        self._generation = -1
        self._ensure_prepared()

    def judge(self, check: Check) -> tuple[dict[Direction, Accuracy], bool]:
        """The accuracy of each direction, and whether repeated runs agreed bit for bit."""
        return self._judged(Judge(check=check, seed=self._suite.seed))

    def judge_again(
        self, check: Check, directions: tuple[Direction, ...]
    ) -> tuple[dict[Direction, Accuracy], bool]:
        """The same after timing, on inputs that the contestant has not seen.

        Without the kernel on one GPU, which is for comparison only.
        """
        if self._generation != self._group.generation:
            # its processes are lost, with another direction: that one must not fail these too
            self.directions = directions
        # asked when it was judged first
        check = check.model_copy(update={"invariants": False})
        return self._judged(Judge(check=check, seed=self._suite.seed ^ 1, alone=False))

    def _judged(self, command: Judge) -> tuple[dict[Direction, Accuracy], bool]:
        answers = self._ask(command)
        judged = cast(dict[str, object], answers[0]["accuracy"])
        accuracy = {Direction(d): Accuracy.model_validate(value) for d, value in judged.items()}
        return accuracy, all(bool(answer["repeats"]) for answer in answers)

    def measure(self, direction: Direction) -> Measured:
        """What is known of a call before it is timed."""
        answers = self._ask(Measure(direction=direction))
        peaks, kept = (_of_all(answers, name) for name in ("peak_extra_bytes", "kept_bytes"))
        memory = None if peaks is None else Memory(peak_extra_bytes=peaks, kept_bytes=kept)
        looks = _looks(answer.pop("look", None) for answer in answers)
        compiled = [answer.pop("kernels", []) for answer in answers]
        kernels = _KERNELS.validate_python(chain.from_iterable(cast(list[list[object]], compiled)))
        return Measured(memory, answers[0], tuple(dict.fromkeys(kernels)), looks)

    def sample(
        self, direction: Direction, subject: Subject, count: int, warmup: int, series: Series
    ) -> bool:
        """Adds a batch of times to the series; False if there is no such subject."""
        start = time.monotonic()
        command = Sample(direction=direction, subject=subject, count=count, warmup=warmup)
        answers = self._ask(command)
        times = [answer["milliseconds"] for answer in answers]
        if times[0] is None:
            return False
        series.add(cast(list[list[float]], times), time.monotonic() - start)
        by_rank = [_looks(cast(list[object], answer.get("looks", []))) for answer in answers]
        series.looks += [list(looks) for looks in zip(*by_rank, strict=True)]
        return True

    def look(self, direction: Direction) -> tuple[Looked, ...] | None:
        """What each process saw in one more call; None where the contestant cannot be looked at."""
        answers = [answer["looked"] for answer in self._ask(Look(direction=direction))]
        if None in answers:
            return None
        return tuple(Looked.model_validate(answer) for answer in answers)

    def sums(self) -> Invariants:
        """What adds up to something known; the inputs are spoilt by it."""
        return _INVARIANTS.validate_python(self._ask(AddUp())[0]["invariants"])

    def release(self) -> None:
        """Frees what the group holds for this contestant."""
        if self._generation == self._group.generation:
            self._told(Release())

    @property
    def _about(self) -> str:
        return f"{self.entry.case.name} {self.entry.contestant.name}"

    def _told(self, command: Command) -> list[Facts]:
        envelope = Envelope(about=self._about, command=command)
        return self._group.ask(envelope.model_dump_json(), self._suite.case_seconds)

    def _ask(self, command: Command) -> list[Facts]:
        try:
            self._ensure_prepared()
        except RefusedByWorker as refusal:  # the processes that took it are gone
            reason = f"it was refused when its processes had been started again: {refusal}"
            raise WorkerFailed(Status.ERROR, reason, []) from None
        return self._told(command)

    def _ensure_prepared(self) -> None:
        if self._generation == self._group.generation:
            return
        command = Prepare(
            case=self.entry.case,
            contestant=self.entry.contestant,
            directions=self.directions,
            seed=self._suite.seed,
            own=self._own,
            graphs=self._suite.timing.wants_graphs_of(self.entry.case),
        )
        answers = self._told(command)
        answer = answers[0]
        if "refused" in answer:
            raise RefusedByWorker(str(answer["refused"]))
        self._generation = self._group.generation
        self.version = str(answer["version"])
        self.interpreted = bool(answer["interpreted"])
        self.took = answer["took"]
        self.predicted = _predicted([answer.get("predicted") for answer in answers])


def _looks(told: Iterable[object]) -> list[GpuLook]:
    """How each process's GPU was; nothing of a CPU."""
    return [GpuLook.model_validate(look) for look in told if look is not None]


def _predicted(told: Sequence[object]) -> dict[Direction, PredictedMemory]:
    """By direction, of all ranks; nothing where one could not say."""
    if None in told:
        return {}
    answers = cast(list[Facts], told)
    by_rank = [cast(dict[str, int], answer["call_bytes"]) for answer in answers]
    with_kernel = all(bool(answer["with_kernel"]) for answer in answers)
    return {
        Direction(way): PredictedMemory(
            call_bytes=[sizes[way] for sizes in by_rank], with_kernel=with_kernel
        )
        for way in by_rank[0]
    }


def _of_all(answers: list[Facts], name: str) -> list[int] | None:
    """What each process measured, taken out of its answer; None if one could not."""
    measured = [answer.pop(name) for answer in answers]
    return None if None in measured else cast(list[int], measured)
