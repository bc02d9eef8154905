"""`quick`: every backend in a loopback ring, in this process, at small shapes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import product

import torch

from ring_attn_bench import registry
from ring_attn_bench.bench.contestant import Refused
from ring_attn_bench.bench.forecast import unavailable
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.errors import BackendUnavailable, MachineLacks, UnknownName, clause
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.options import RingOptions

WORLD_SIZE = 3
"""The smallest ring in which a rank has a neighbour on each side."""
TOKENS = 48
"""Of each rank: no multiple of a kernel's tile."""
INTERPRETED_TOKENS = 40
"""The same where an interpreter runs the kernel, with half of batch, heads and head dim: such a
kernel took 28 s, and all others together 6."""

Say = Callable[[str], None]


def quick_check(backends: tuple[str, ...], say: Say) -> int:
    """Says how each backend and partition fares, last what cannot run; returns how many are wrong.

    Raises UnknownName, or MachineLacks where a backend that is asked for by name cannot run here.
    """
    for name in backends:
        if name not in registry.backends():
            raise UnknownName("backend", name, registry.backends())
    gpu = torch.cuda.is_available()
    if not gpu:
        _interpret()
    names = backends or tuple(registry.backends())
    absent = unavailable(names)
    if backends and absent:
        lacking = (BackendUnavailable(name, reason) for name, reason in absent.items())
        raise MachineLacks("; ".join(map(str, lacking)))
    refused: dict[str, list[str]] = {}
    for name, reason in absent.items():
        refused.setdefault(reason, []).append(name)
    wrong = 0
    for name, partition in product((name for name in names if name not in absent), PARTITIONS):
        try:
            fared, is_wrong = _fared(name, partition, gpu=gpu)
        except Refused as refusal:
            refused.setdefault(str(refusal), []).append(f"{name} {partition}")
            continue
        say(f"{name:14s} {partition:11s} {fared}")
        wrong += is_wrong
    for reason, who in refused.items():
        say(f"unsupported: {', '.join(who)}: {clause(reason)}.")
    return wrong


def _interpret() -> None:
    """Lets the backends that have an interpreter use it. Only here, at the edge of a program."""
    for name in registry.backends():
        os.environ.update(_needed(name))


def _needed(name: str) -> Mapping[str, str]:
    """The environment variables that let a backend run on a CPU."""
    try:
        return registry.backend_class(name).worker_environment.get("cpu", {})
    except BackendUnavailable:
        return {}


def _case(name: str, *, gpu: bool) -> Case:
    """Grouped heads and a causal mask; less of it where the kernel is interpreted."""
    short = not gpu and bool(_needed(name))
    return Case(
        batch=1 if short else 2,
        seqlen_total=(INTERPRETED_TOKENS if short else TOKENS) * WORLD_SIZE,
        world_size=WORLD_SIZE,
        heads_q=2 if short else 4,
        heads_kv=1 if short else 2,
        head_dim=32 if short else 64,
        dtype="bfloat16" if gpu else "float32",
        causal=True,
    )


def _fared(name: str, partition: str, *, gpu: bool) -> tuple[str, bool]:
    """In words, and whether it is wrong; raises Refused."""
    device = torch.device("cuda" if gpu else "cpu")
    place = WorkerPlace(0, 1, device, tuple(range(WORLD_SIZE)), WORLD_SIZE)
    contestant = Contestant(
        backend=name, partition=partition, options=RingOptions(slots=2), played="loopback"
    )
    request = Prepare(
        case=_case(name, gpu=gpu), contestant=contestant, directions=tuple(Direction), seed=0
    )
    try:
        accuracy = prepare(request, place, Contexts(place)).judge(Check(), 0, alone=False)
    except Refused:
        raise
    except Exception as error:
        return f"error: {type(error).__name__}: {error}", True
    judged = accuracy[Direction.FORWARD_BACKWARD.value]
    worst = max(
        judged.tensors.items(),
        key=lambda item: (item[1].rmse or float("inf")) / item[1].bound_rmse,
    )
    share = (worst[1].rmse or float("inf")) / worst[1].bound_rmse
    status = "ok" if judged.is_right else "WRONG"
    return f"{status}: worst is {worst[0]} at {share:.0%} of its bound", not judged.is_right
