"""Many hostile calls, what became of each, and the smallest of every kind that went wrong."""

from __future__ import annotations

import re
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import torch.distributed as dist

from ring_attn_bench.errors import RingAttnBenchError
from tests.hostile.calls import Call, drawn
from tests.hostile.judge import Unjudged, faults
from tests.hostile.values import NAMESPACE, made

RIGHT, UNJUDGED, REFUSED, RAW, WRONG = "right", "unjudged", "refused", "raw", "wrong"
WORDS = 4
"""A refusal of fewer words is no sentence."""


@dataclass(frozen=True)
class Outcome:
    """What became of a call. kind: of failures that have one reason."""

    what: str
    kind: str = ""
    text: str = ""

    @property
    def is_failure(self) -> bool:
        return self.what in (RAW, WRONG)


@dataclass
class Tally:
    """Outcomes by what they are and by function, and of each kind of failure the smallest call."""

    counts: Counter[str] = field(default_factory=Counter)
    by_function: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[Outcome] = field(default_factory=Counter)
    smallest: dict[Outcome, Call] = field(default_factory=dict)

    def add(self, call: Call, outcome: Outcome) -> None:
        self.counts[outcome.what] += 1
        self.by_function[call.function, outcome.what] += 1
        if outcome.is_failure:
            kind = Outcome(outcome.what, outcome.kind)
            self.kinds[kind] += 1
            old = self.smallest.get(kind)
            if old is None or _size(call) < _size(old):
                self.smallest[kind] = call

    @property
    def failures(self) -> int:
        return self.counts[RAW] + self.counts[WRONG]


def run(
    seed: int,
    count: int,
    backends: tuple[str, ...],
    functions: Mapping[str, object] = NAMESPACE,
) -> Tally:
    """So many calls from a seed; failures are made smaller before they are counted."""
    random, tally = Random(seed), Tally()
    with alone():
        for _ in range(count):
            call = drawn(random, backends)
            outcome = outcome_of(call, functions)
            if outcome.is_failure:
                call, outcome = shrunk(call, outcome, functions)
            tally.add(call, outcome)
    return tally


@contextmanager
def alone() -> Iterator[None]:
    """A process group of this process alone, for ring functions; no warning is a failure."""
    assert not dist.is_initialized()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        dist.destroy_process_group()


def outcome_of(call: Call, functions: Mapping[str, object] = NAMESPACE) -> Outcome:
    """Makes the call and judges what it gives."""
    given = {name: made(text) for name, text in call.arguments.items()}
    try:
        found = functions[call.function](**given)
        wrong = faults(call.function, given, found)
    except Unjudged as why:
        return Outcome(UNJUDGED, text=str(why))
    except RingAttnBenchError as error:
        if len(str(error).split()) < WORDS:
            return Outcome(RAW, f"{type(error).__name__} is no sentence: {error}")
        return Outcome(REFUSED, text=str(error))
    except Exception as error:
        return Outcome(RAW, _kind(call, error), "".join(traceback.format_exception(error)))
    if wrong:
        return Outcome(WRONG, f"{call.function}: {_general(wrong[0])}", wrong[0])
    return Outcome(RIGHT)


def shrunk(
    call: Call, outcome: Outcome, functions: Mapping[str, object] = NAMESPACE
) -> tuple[Call, Outcome]:
    """The same failure with as few odd arguments, and as few arguments, as it takes."""
    for name in tuple(call.good):
        call, outcome = _smaller(call, call.mended(name), outcome, functions)
    for name in _OPTIONAL & call.arguments.keys():
        rest = {other: text for other, text in call.arguments.items() if other != name}
        good = {other: text for other, text in call.good.items() if other != name}
        call, outcome = _smaller(call, Call(call.function, rest, good), outcome, functions)
    return call, outcome


_OPTIONAL = {
    "dropout_p", "dropout_seed", "softmax_scale", "causal", "window_size", "softcap",
    "alibi_slopes", "deterministic", "return_attn_probs", "sink", "group", "context",
}  # fmt: skip


def _smaller(
    call: Call, other: Call, outcome: Outcome, functions: Mapping[str, object]
) -> tuple[Call, Outcome]:
    found = outcome_of(other, functions)
    return (other, found) if (found.what, found.kind) == (outcome.what, outcome.kind) else (
        call, outcome
    )  # fmt: skip


def _size(call: Call) -> tuple[int, int]:
    return len(call.good), len(str(call))


def _kind(call: Call, error: Exception) -> str:
    """The error, and where in this project it passed last."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [x for x in frames if "ring_attn_b" in x.filename.replace("ring_attn_bench_", "")]
    where = f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].name}" if ours else call.function
    return f"{type(error).__name__} in {where}: {_general(str(error))}"


def _general(text: str) -> str:
    """A message without its numbers."""
    line = (text.strip().splitlines() or [""])[0][:110]
    return re.sub(r"-?\d[\d.e+-]*|'[^']*' object|device=\w+", "#", line)


def report(tally: Tally) -> str:
    """Counts, and of each kind of failure how often and the smallest call."""
    lines = [", ".join(f"{tally.counts[what]:,} {what}" for what in
                       (RIGHT, UNJUDGED, REFUSED, RAW, WRONG))]  # fmt: skip
    for kind, count in tally.kinds.most_common():
        lines += [f"{count:6,} x {kind.what}: {kind.kind}", f"         {tally.smallest[kind]}"]
    return "\n".join(lines)
