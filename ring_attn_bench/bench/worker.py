"""Carries out commands on one process of a worker group."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from ring_attn_bench.bench.cached.prepared import PreparedCache
from ring_attn_bench.bench.cached.prepared import prepare as prepare_cache
from ring_attn_bench.bench.ceilings import gauge
from ring_attn_bench.bench.contestant import Refused
from ring_attn_bench.bench.gpu_looks import OwnGpu
from ring_attn_bench.bench.memory import kept_bytes, peak_extra_bytes
from ring_attn_bench.bench.messages import (
    AddUp,
    Envelope,
    Gauge,
    Judge,
    Look,
    Measure,
    Prepare,
    Quit,
    Release,
    Sample,
    Subject,
)
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.predicted import predicted
from ring_attn_bench.bench.prepared import Prepared, prepare
from ring_attn_bench.bench.recorder import DeviceClock, HostClock, Recorder
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.timing import Call, Timer
from ring_attn_bench.contract.used import kernels_used
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.workers.reply import Facts

MEETINGS = 9
"""Of all processes before a call that is looked at, by which their clocks are compared."""


class BenchWorker:
    """Holds prepared contestants by name. Every process of the group gets the same commands."""

    def __init__(self, place: WorkerPlace, run: int | None = None) -> None:
        """run: the process whose children are this run's; None is this process's parent."""
        self._place = place
        self._gpu = OwnGpu(place.device, run)
        self._contexts = Contexts(place)
        self._timer = Timer(place)
        self._prepared: dict[str, Prepared | PreparedCache] = {}
        self._calls: dict[tuple[str, Direction, Subject], Call | None] = {}

    def execute(self, envelope: Envelope) -> Facts:
        """The answer to a command; raises whatever the contestant raises."""
        about = envelope.about
        match envelope.command:
            case Prepare() as command:
                return self._prepare(about, command)
            case Judge() as command:
                return self._judge(about, command)
            case Measure() as command:
                return self._measure(about, command)
            case Sample() as command:
                return self._sample(about, command)
            case AddUp():
                self._forget_calls(about)
                return {"invariants": self._prepared[about].sums()}
            case Look() as command:
                return {"looked": self._look(about, command.direction)}
            case Gauge() as command:
                gauged = gauge(self._place, self._timer, command.dtypes)
                self._give_memory_back()
                return {"gauged": gauged.model_dump()}
            case Release():
                self._release(about)
                return {}
            case Quit():
                return {"quit": True}

    def _prepare(self, about: str, command: Prepare) -> Facts:
        try:
            prepared = self._made(command)
        except Refused as refusal:
            return {"refused": str(refusal)}
        self._prepared[about] = prepared
        contestant = prepared.contestant
        took = None if contestant.took is None else asdict(contestant.took)
        return {
            "version": contestant.version, "interpreted": contestant.interpreted, "took": took,
            "predicted": predicted(contestant, command, self._place.device),
        }  # fmt: skip

    def _made(self, command: Prepare) -> Prepared | PreparedCache:
        if command.case.cache is None:
            return prepare(command, self._place, self._contexts)
        alone = command.case.world_size == 1
        context = None if alone else self._contexts.of(command.contestant)
        return prepare_cache(command, self._place, context)

    def _judge(self, about: str, command: Judge) -> Facts:
        contestant = self._prepared[about]
        self._forget_calls(about)
        contestant.forget()
        self._give_memory_back()
        judged = contestant.judge(command.check, command.seed, alone=command.alone)
        repeats = not contestant.request.case.deterministic or contestant.repeats()
        self._give_memory_back()  # the oracle's: other groups are on this device too
        accuracy = {direction: value.model_dump() for direction, value in judged.items()}
        return {"accuracy": accuracy, "repeats": repeats}

    def _measure(self, about: str, command: Measure) -> Facts:
        prepared = self._prepared[about]
        call = self._call(about, command.direction, Subject.RING)
        assert call is not None  # every contestant has itself
        kernel = prepared.contestant.kernel
        kernels_used(kernel)  # for others
        peak = peak_extra_bytes(call, self._place)
        return {
            "peak_extra_bytes": peak,
            "kernels": [asdict(one) for one in kernels_used(kernel)],
            "kept_bytes": kept_bytes(prepared, command.direction),
            "look": self._gpu.look(),
            **prepared.flops(command.direction),
        }

    def _sample(self, about: str, command: Sample) -> Facts:
        call = self._call(about, command.direction, command.subject)
        if call is None:
            return {"milliseconds": None}
        looks: list[Facts | None] = []

        def look() -> None:
            looks.append(self._gpu.look())

        times = self._timer.sample(call, command.count, command.warmup, look)
        look()
        calls = self._prepared[about].calls
        return {"milliseconds": [time / calls for time in times], "looks": looks}

    def _look(self, about: str, direction: Direction) -> Facts | None:
        """After one call that nobody looks at, so that what is made once has been made."""
        place, cuda = self._place, self._place.device.type == "cuda"
        recorder: Recorder[Any] = Recorder(DeviceClock() if cuda else HostClock())
        prepared = self._prepared[about]
        call = prepared.traced(direction, recorder)
        if call is None:
            return None
        call()
        recorder.clear()
        clock, met = recorder.clock, []
        for _ in range(MEETINGS):
            place.line_up()
            met.append(clock.mark())
        began = clock.mark()
        call()
        ended = clock.mark()
        if cuda:
            torch.cuda.synchronize()
        when = clock.milliseconds
        return {
            "rank": prepared.place.ranks[0], "clock": clock.name, "met": [when(x) for x in met],
            "began": when(began), "ended": when(ended), "spans": recorder.told(),
        }  # fmt: skip

    def _call(self, about: str, direction: Direction, subject: Subject) -> Call | None:
        key = (about, direction, subject)
        if key not in self._calls:
            self._calls[key] = self._prepared[about].call(direction, subject)
        return self._calls[key]

    def _release(self, about: str) -> None:
        self._prepared.pop(about, None)
        self._forget_calls(about)
        self._give_memory_back()

    def _forget_calls(self, about: str) -> None:
        self._calls = {key: call for key, call in self._calls.items() if key[0] != about}

    def _give_memory_back(self) -> None:
        if self._place.device.type == "cuda":
            torch.cuda.empty_cache()
