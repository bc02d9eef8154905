"""Every case of every feature in every dtype, the exhaustive grid, and who is asked what."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from ring_attn_bench.conformance.ask import faults, refusal
from ring_attn_bench.conformance.cases import FULL, LOCAL, AnyCase, lengths
from ring_attn_bench.conformance.feature import Asks, Feature
from ring_attn_bench.conformance.features import FEATURES
from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.problem import DTYPES
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.registry import backend_class, backends, load

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _made(name: str) -> Backend | str:
    """The backend, or why it cannot run in this process."""
    try:
        needed = backend_class(name).worker_environment.get(DEVICE, {})
        for variable, value in needed.items():
            # read when the kernel's package is imported: too late to set it here
            if os.environ.get(variable) != value:
                return f"{name} on {DEVICE} needs a process started with {variable}={value}"
        return load(name)
    except BackendUnavailable as error:
        return f"{name}: {error.reason}"


_MADE = {name: _made(name) for name in sorted(backends())}
BACKENDS = {name: made for name, made in _MADE.items() if not isinstance(made, str)}
"""Those that can run in this process, by name."""
AT_FULL_SPEED = {k: x for k, x in BACKENDS.items() if DEVICE not in x.worker_environment}
"""Those whose kernels are not interpreted."""
MISSING = {name: made for name, made in _MADE.items() if isinstance(made, str)}
"""Why the others cannot."""


@dataclass(frozen=True)
class Question:
    """What is asked about a case."""

    asks: Asks
    case: AnyCase

    def __str__(self) -> str:
        return f"{self.case}" if self.asks is Asks.RESULTS else f"{self.asks.value}: {self.case}"

    def refusal(self, backend: Backend, direction: Direction) -> str | None:
        """Why the backend is not asked, or None."""
        return refusal(backend, self.asks, self.case, direction, DEVICE)

    def ask(self, backend: Backend, direction: Direction) -> None:
        """Fails where the results are wrong."""
        with one_thread():
            assert faults(backend, self.asks, self.case, direction, DEVICE) == []


@contextmanager
def one_thread() -> Iterator[None]:
    """Blocks this small spend most of their time waiting for threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def about(feature: Feature) -> Iterator[Question]:
    """Its cases in all dtypes; all of them, where they have one of their own, in that."""
    if feature.own_dtype:
        yield from (Question(feature.asks, x) for x in feature.chosen(DEVICE, "float32"))
    for dtype in DTYPES:
        # on a CPU, where kernels may be interpreted, all but the first in float32 alone
        quick = DEVICE == "cpu" and dtype != "float32"
        for case in feature.chosen(DEVICE, dtype, quick=quick):
            yield Question(feature.asks, replace(case, dtype=dtype))


QUESTIONS = list(dict.fromkeys(x for feature in FEATURES.values() for x in about(feature)))
"""All cases of all features, in all dtypes; each once, though features may share one."""
FIRST = {
    Question(x.asks, case)
    for x in FEATURES.values()
    for case in x.chosen(DEVICE, "float32", quick=True)
}
"""The telling case of each feature: interpreted, the others are for --full (1 s each)."""

GRID = [
    Question(Asks.RESULTS, replace(
        lengths(base, tokens), dim=dim, heads=heads, key_heads=key_heads, dtype=dtype,
        storage="token_major",
        title=f"{base.title}, {tokens} tokens, head dim {dim}, {heads} on {key_heads} heads",
    ))
    for base in (FULL, LOCAL)
    for tokens in (127, 256)
    for dim in (32, 40, 64, 80, 96, 128, 160, 192, 256)
    for heads, key_heads in ((4, 2), (5, 1))
    for dtype in DTYPES
]  # fmt: skip
"""For --full, and for kernels at full speed: interpreted it takes a quarter of an hour."""


def asked(
    backends: Mapping[str, Backend], questions: Iterable[Question], *directions: Direction
) -> list[Any]:
    """Backend, question and direction, but for what a backend refuses: test_declared.py has that.

    Most of what could be asked is refused, or its backend is not here: 7,000 of 14,000 tests were
    skips.
    """
    return [
        pytest.param(
            backend, question, direction, id=f"{name}-{question}-{direction.value}",
            marks=[] if name in AT_FULL_SPEED or question in FIRST else [pytest.mark.full],
        )
        for name, backend in backends.items()
        for question in questions
        for direction in directions
        if question.refusal(backend, direction) is None
    ]  # fmt: skip
