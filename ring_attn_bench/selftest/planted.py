"""Which faults are planted, and by which words, results or times the harness has to name each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from ring_attn_bench.records.status import Status

EVERY = frozenset({"out", "lse", "dq", "dk", "dv"})
RowsCompared = Literal["all", "sampled", "all, against the truth alone"]


@dataclass(frozen=True)
class Names:
    """What the harness has to say of a fault.

    wrong: the results that it has to find wrong, and no others. words: parts of its reason.
    cases: how the names of the cases that are spoilt begin; the others have to be right.
    slow_rank: the rank that has to be named for its time.
    """

    status: Status = Status.WRONG
    wrong: frozenset[str] = frozenset()
    words: tuple[str, ...] = ()
    cases: str = ""
    slow_rank: int | None = None


@dataclass(frozen=True)
class Fault:
    """One fault, or none: then what is planted has to be found right, and is a control.

    plant: the class in `kernels` or `transports`. grid: keys of a suite's grid that are not as in
    `suites.GRID`. rows: which of them are compared with float64. ranks: of the smallest ring that
    shows it. waits: whether ranks wait in vain, so that it takes half a minute and no work.
    """

    name: str
    does: str
    kind: Literal["backend", "transport"]
    plant: str
    names: Names
    grid: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    rows: RowsCompared = "all"
    ranks: int = 2
    waits: bool = False

    @property
    def is_control(self) -> bool:
        """Whether what is planted is right."""
        return self.names == RIGHT

    @property
    def plugin(self) -> str:
        """The name under which the fault is registered."""
        return f"planted_{self.name.replace(' ', '_').replace('/', '_')}"

    @property
    def records(self) -> int:
        """How many records its suite makes of the fault."""
        return prod(len(values) for values in self.grid.values())


def _wrong(*results: str, words: tuple[str, ...] = (), cases: str = "") -> Names:
    return Names(wrong=frozenset(results) or EVERY, words=words, cases=cases)


RIGHT = Names(Status.OK)
FORWARD = {"directions": ("forward",)}

FAULTS = (
    Fault("no fault in a kernel", "the reference, wrapped", "backend", "Sound", RIGHT),
    Fault("no fault in a transport", "messages, wrapped", "transport", "Sound", RIGHT),
    Fault(
        "stale keys", "a step gets the keys of the step before", "transport", "StaleKeys",
        _wrong(), ranks=3,
    ),
    Fault(
        "keys of the first call", "later calls get them too", "transport", "KeysOfTheFirstCall",
        _wrong(words=("right before it was timed", "wrong afterwards")),
        rows="all, against the truth alone",
    ),
    Fault(
        "wrong order of steps", "two steps' keys are swapped", "transport", "StepsSwapped",
        _wrong(), {"partitions": ("striped",)}, ranks=3,
    ),
    Fault(
        "missing dk/dv hop", "the last step's share never gets home", "transport", "LostHop",
        _wrong("dk", "dv"),
    ),
    Fault(
        "only in the second step", "its k and v are swapped", "transport", "SecondStep",
        _wrong(),
    ),
    Fault(
        "a sleep on one rank", "rank 1 ends each pass 50 ms late", "transport", "LateRank",
        Names(Status.OK, slow_rank=1), FORWARD,
    ),
    Fault("log2 lse", "lse is a logarithm of base 2", "backend", "Log2Lse", _wrong()),
    Fault("lost diagonal", "no query sees its own key", "backend", "LostDiagonal", _wrong()),
    Fault(
        "bf16 accumulator", "tiles of keys are added up in bfloat16", "backend",
        "Bfloat16Accumulator", _wrong("out"),
        {"dtype": ("float16",), **FORWARD},
    ),
    Fault(
        "only for batch > 1", "all entries get the first one's keys", "backend", "OneBatch",
        _wrong(cases="b2_"), {"batch": (1, 2)},
    ),
    Fault(
        "only in the last head", "out of head 32 of 32 is 2.5 % too large", "backend", "LastHead",
        _wrong("out"), {"dtype": ("bfloat16",), "heads": ("32:8",), **FORWARD},
    ),
    Fault(
        "only at the second call", "right before and after it", "backend", "SecondCall",
        _wrong("out", words=("second",)), FORWARD,
    ),
    Fault(
        "one NaN row", "in none of the sampled rows", "backend", "NanRow",
        _wrong("out", words=("not finite",)), {"seqlen_per_gpu": (256,), **FORWARD},
        rows="sampled",
    ),
    Fault(
        "heads mixed in a row", "in none of the sampled rows", "backend", "HeadsMixed",
        Names(words=("invariant heads_apart",)), {"seqlen_per_gpu": (256,), **FORWARD},
        rows="sampled",
    ),
    Fault(
        "a segfault", "reads where there is no memory", "backend", "Crash",
        Names(Status.ERROR, words=("SIGSEGV",)),
    ),
    Fault(
        "a hang", "never answers", "backend", "Hang", Names(Status.TIMEOUT, words=("no answer",)),
        waits=True,
    ),
    Fault("out of memory", "asks for a pebibyte", "backend", "TooLarge", Names(Status.OOM)),
    Fault(
        "an exception", "raised on one rank while the others wait", "backend", "Raises",
        Names(Status.ERROR, words=("RuntimeError", "this rank has had enough")), waits=True,
    ),
)  # fmt: skip
