"""Every case of every feature in every dtype, and the exhaustive grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch

from ring_attn_bench.backend import Backend
from ring_attn_bench.bench.record import Direction
from ring_attn_bench.conformance.ask import faults, refusal
from ring_attn_bench.conformance.cases import FULL, LOCAL, lengths
from ring_attn_bench.conformance.feature import AnyCase, Asks
from ring_attn_bench.conformance.features import FEATURES
from ring_attn_bench.problem import DTYPES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Question:
    """What is asked about a case."""

    asks: Asks
    case: AnyCase

    def __str__(self) -> str:
        return f"{self.case}" if self.asks is Asks.RESULTS else f"{self.asks.value}: {self.case}"

    def ask(self, backend: Backend, direction: Direction) -> None:
        """Fails where the results are wrong; skips what the backend refuses."""
        with one_thread():
            reason = refusal(backend, self.asks, self.case, direction, DEVICE)
            if reason is not None:
                pytest.skip(reason)
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


def _questions() -> Iterator[Question]:
    for feature in FEATURES.values():
        for dtype in DTYPES:
            # on a CPU, where kernels may be interpreted, all but the first in float32 alone
            quick = DEVICE == "cpu" and dtype != "float32"
            for case in feature.chosen(DEVICE, dtype, quick=quick):
                yield Question(feature.asks, replace(case, dtype=dtype))


QUESTIONS = list(dict.fromkeys(_questions()))
"""All cases of all features, in all dtypes; each once, though features may share one."""

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
"""For --full."""
