"""Calls in CUDA graphs: what they take when no host is in the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

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

    what: whose call it is, for the warning.
    """
    replay, failure = None, ""
    try:
        replay = captured(call)
    except Exception as error:  # somebody else's, as likely as not
        failure = str(error).strip().partition("\n")[0] or type(error).__name__
    failed = torch.tensor([float(replay is None)], device=place.device)
    if not place.largest(failed).item():
        return replay
    if failure:
        _log.warning("%s has no time in a CUDA graph: %s", what, failure)
    return None
