"""`quick`: every backend in a loopback ring, in this process, at small shapes."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import product

import torch

from ring_attn_bench import registry
from ring_attn_bench.bench.contestant import Refused
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.errors import BackendUnavailable, MachineLacks, clause
from ring_attn_bench.machine import plug_ins
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.workers.after_error import sentence, status_of

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
        registry.check_backend(name)
    names = backends or tuple(registry.backends())
    machine = plug_ins.ask(names)
    absent = {name: told.reason for name, told in machine.contestants.items() if told.unavailable}
    if backends and absent:
        lacking = (BackendUnavailable(name, reason) for name, reason in absent.items())
        raise MachineLacks("; ".join(map(str, lacking)))
    refused: dict[str, list[str]] = {}
    for name, reason in absent.items():
        refused.setdefault(reason, []).append(name)
    able = [name for name in names if name not in absent]
    for name in able:  # before any is imported; only here, at the edge of a program
        os.environ.update(machine.variables(name))
    wrong = 0
    for name, partition in product(able, PARTITIONS):
        try:
            fared, is_wrong = _fared(name, partition, machine)
        except Refused as refusal:
            refused.setdefault(str(refusal), []).append(f"{name} {partition}")
            continue
        say(f"{name:14s} {partition:11s} {fared}")
        wrong += is_wrong
    for reason, who in refused.items():
        say(f"unsupported: {', '.join(who)}: {clause(reason)}.")
    return wrong


def _case(*, gpu: bool, short: bool) -> Case:
    """Grouped heads and a causal mask; short: less of it, for a kernel that is interpreted."""
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


def _fared(name: str, partition: str, machine: plug_ins.Inventory) -> tuple[str, bool]:
    """In words, and whether it is wrong; raises Refused."""
    device = torch.device(machine.device)
    gpu = machine.device == "cuda"
    case = _case(gpu=gpu, short=not gpu and bool(machine.variables(name)))
    place = WorkerPlace(0, 1, device, tuple(range(WORLD_SIZE)), WORLD_SIZE)
    contestant = Contestant(
        backend=name, partition=partition, options=RingOptions(slots=2), played="loopback"
    )
    request = Prepare(case=case, contestant=contestant, directions=tuple(Direction), seed=0)
    try:
        accuracy = prepare(request, place, Contexts(place)).judge(Check(), 0, alone=False)
    except Refused:
        raise
    except Exception as error:
        ended = status_of(error)
        return f"{ended.value}: {sentence(error)}", ended.is_failure
    judged = accuracy[Direction.FORWARD_BACKWARD.value]
    worst = max(
        judged.tensors.items(),
        key=lambda item: (item[1].rmse or float("inf")) / item[1].bound_rmse,
    )
    share = (worst[1].rmse or float("inf")) / worst[1].bound_rmse
    status = "ok" if judged.is_right else "WRONG"
    return f"{status}: worst is {worst[0]} at {share:.0%} of its bound", not judged.is_right
