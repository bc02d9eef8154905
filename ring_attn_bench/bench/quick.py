"""`check --quick`: every backend in a loopback ring, in this process, at small shapes."""

from __future__ import annotations

import os
from collections.abc import Callable

from ring_attn_bench import registry
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.record import Case, Contestant, Direction
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.errors import BackendUnavailable, UnknownName
from ring_attn_bench.partition import PARTITIONS
from ring_attn_bench.ring.options import RingOptions

WORLD_SIZE = 3
"""The smallest ring in which a rank has a neighbour on each side."""
TOKENS = 48
"""Of each rank: no multiple of a kernel's tile."""

Say = Callable[[str], None]


def quick_check(backends: tuple[str, ...], say: Say) -> int:
    """Says how each backend and partition fares; returns how many are wrong."""
    for name in backends:
        if name not in registry.backends():
            raise UnknownName("backend", name, registry.backends())
    import torch

    gpu = torch.cuda.is_available()
    if not gpu:
        _interpret()
    names = backends or tuple(registry.backends())
    return sum(_check(name, say, gpu=gpu) for name in names)


def _interpret() -> None:
    """Lets the backends that have an interpreter use it. Only here, at the edge of a program."""
    for name in registry.backends():
        try:
            needed = registry.backend_class(name).worker_environment.get("cpu", {})
        except BackendUnavailable:
            continue
        os.environ.update(needed)


def _check(name: str, say: Say, *, gpu: bool) -> int:
    wrong = 0
    for partition in PARTITIONS:
        verdict, is_wrong = _verdict(name, partition, gpu=gpu)
        say(f"{name:14s} {partition:11s} {verdict}")
        wrong += is_wrong
    return wrong


def _verdict(name: str, partition: str, *, gpu: bool) -> tuple[str, bool]:
    import torch

    from ring_attn_bench.bench.contestant import Refused
    from ring_attn_bench.bench.place import Place
    from ring_attn_bench.bench.prepared import prepare
    from ring_attn_bench.bench.ring_contestant import Contexts

    device = torch.device("cuda" if gpu else "cpu")
    place = Place(0, 1, device, tuple(range(WORLD_SIZE)), WORLD_SIZE)
    case = Case(
        batch=2,
        seqlen_total=TOKENS * WORLD_SIZE,
        world_size=WORLD_SIZE,
        heads_q=4,
        heads_kv=2,
        head_dim=64,
        dtype="bfloat16" if gpu else "float32",
        causal=True,
    )
    contestant = Contestant(
        backend=name, partition=partition, options=RingOptions(slots=2), played="loopback"
    )
    request = Prepare(case=case, contestant=contestant, directions=tuple(Direction), seed=0)
    try:
        accuracy = prepare(request, place, Contexts(place)).judge(Check(), 0)
    except Refused as refusal:
        return f"unsupported: {refusal}", False
    except Exception as error:
        return f"error: {type(error).__name__}: {error}", True
    found = accuracy[Direction.FORWARD_BACKWARD.value]
    worst = max(
        found.tensors.items(),
        key=lambda item: (item[1].rmse or float("inf")) / item[1].bound_rmse,
    )
    share = (worst[1].rmse or float("inf")) / worst[1].bound_rmse
    verdict = "ok" if found.is_right else "WRONG"
    return f"{verdict}: worst is {worst[0]} at {share:.0%} of its bound", not found.is_right
