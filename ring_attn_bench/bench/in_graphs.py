"""Calls in CUDA graphs: what they take when no host is in the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ring_attn_bench.bench.place import WorkerPlace

Results = TypeVar("Results")
_log = logging.getLogger("ring_attn_bench")


@dataclass(frozen=True)
class Replay(Generic[Results]):
    """A graph, and the memory where each replay leaves its results, which must live as long."""

    graph: torch.cuda.CUDAGraph
    results: Results

    def __call__(self) -> None:
        """Runs what was captured."""
        self.graph.replay()


def captured(call: Callable[[], Results]) -> Replay[Results]:
    """The call in a CUDA graph."""
    for _ in range(2):  # what is compiled or chosen once cannot be in a graph
        call()
    graph = torch.cuda.CUDAGraph()
    # a thread that watches a communicator, or a ring, asks for events meanwhile
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = call()
    return Replay(graph, results)


def captured_by_all(
    call: Callable[[], Results], place: WorkerPlace, what: str
) -> Replay[Results] | None:
    """The same on every process, or, with a warning, on none: a collective.

    A replay gives what the call does, or there is none: no time is one of wrong results.
    what: whose call it is, for the warning.
    """
    replay, failure = None, ""
    try:
        replay = captured(call)
    except Exception as error:  # somebody else's, as likely as not
        failure = str(error).strip().partition("\n")[0] or type(error).__name__
    # before anybody replays: a ring's graph waits for those of the others
    if not _anywhere(replay is None, place):
        assert replay is not None
        failure = "" if _repeats(replay, call) else "a replay gives other results than the call"
        if not _anywhere(bool(failure), place):
            return replay
    if failure:
        _log.warning("%s has no time in a CUDA graph: %s", what, failure)
    return None


def _anywhere(failed: bool, place: WorkerPlace) -> bool:
    found: float = place.largest(torch.tensor([float(failed)], device=place.device)).item()
    return found > 0


def _repeats(replay: Replay[Results], call: Callable[[], Results]) -> bool:
    """Whether a replay writes every result anew, and what a call gives."""
    # a peer's results have a history
    expected = [x.detach().clone() for x in _tensors(call())]
    found = [x.detach() for x in _tensors(replay.results)]
    for x in found:
        x.fill_(float("nan"))
    replay()
    return len(found) == len(expected) and all(
        torch.allclose(x.double(), y.double(), rtol=0.0, atol=_ROUNDED * _size(y))
        for x, y in zip(found, expected, strict=True)
    )


_ROUNDED = 2.0**-7
"""Of the largest number: two of bfloat16's roundings, which sums in another order may change."""


def _size(x: Tensor) -> float:
    finite = x[x.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _tensors(results: object) -> list[Tensor]:
    """Of lists and tuples of them, which may lack some."""
    if isinstance(results, Tensor):
        return [results]
    parts = results if isinstance(results, list | tuple) else ()
    return [x for part in parts for x in _tensors(part)]
