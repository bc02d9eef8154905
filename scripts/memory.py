"""What calls took of GPUs, by the records of a run, beside what their plans say.

    python scripts/memory.py RECORDS...

RECORDS: `records.jsonl` or `.jsonl.gz`. One line for each record of our ring with a memory: the
rank that took most, in MiB, measured and predicted (`plan.memory`, with what `triton`'s
kernels for an H200 take for shares; the scratch of other kernels is theirs and not predicted), and
what is kept, which for copy engines is predicted without the communicator. Needs no GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import torch
from ring_attn_backends.triton.hopper.splits import scratch_bytes

from ring_attn_bench import registry
from ring_attn_bench.bench.contestant import problem_of
from ring_attn_bench.bench.inputs import mask_of
from ring_attn_bench.contract.backend import Backend, abilities, accumulating
from ring_attn_bench.errors import RingAttnBenchError
from ring_attn_bench.plan import memory
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.memory import KernelMemory, ShardShape
from ring_attn_bench.plan.partition import get_partition
from ring_attn_bench.plan.plans import Plan, plan
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Record, read
from ring_attn_bench.records.status import Status
from ring_attn_bench.ring.jobs import shares_travel, travel_dtype
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.ring.packing import accumulator_dtype
from ring_attn_bench.ring.settle import layout_of
from ring_attn_bench.ring.transports.copy_engine.sizes import kept_bytes

MIB = 2**20
PREDICTED = {
    Direction.FORWARD: memory.forward,
    Direction.BACKWARD: memory.backward,
    Direction.FORWARD_BACKWARD: memory.forward_backward,
}
SYMMETRIC = "copy_engine"
AS_GIVEN = ("copy_engine", "p2p")  # those that hand gradients on as they came


def lines(record: Record) -> Iterator[str]:
    """The record's, if there is anything to compare."""
    contestant, case, memory = record.contestant, record.case, record.memory
    options = record.took or contestant.options
    if memory is None or options is None or record.status is not Status.OK:
        return
    if contestant.played != "real":
        return
    symmetric = options.transport == SYMMETRIC
    name = f"{case.name} {contestant.name} {record.direction.value}"
    try:
        backend = _backend(contestant.backend)
        layout, able = _layout(case, contestant.partition, options), abilities(backend, alibi=False)
        as_given = options.transport in AS_GIVEN and shares_travel(layout, able)
        sizes = _sizes(case, options, as_given=as_given)
    except RingAttnBenchError as error:
        yield f"{name}: {error}"
        return
    kernel = _kernel(contestant.backend, backend, case)
    predict = PREDICTED[record.direction]
    found = [plan(layout, rank, able) for rank in range(case.world_size)]
    plans = [one for one in found if isinstance(one, Plan)]
    most = [predict(one, sizes, kernel, symmetric=symmetric).bytes for one in plans]
    measured, expected = max(memory.peak_extra_bytes) / MIB, max(most) / MIB
    words = [f"{measured:,.1f} measured, {expected:,.1f} predicted ({measured / expected:.3f})"]
    if memory.kept_bytes is not None:
        words.append(f"{max(memory.kept_bytes) / MIB:,.1f} kept")
    if symmetric:
        packed = sizes.packed(case.seqlen_per_gpu, 1)
        backward = None if record.direction is Direction.FORWARD else packed * sizes.travels
        areas = kept_bytes(case.world_size, packed * sizes.element, backward)
        words.append(f"{areas / MIB:,.1f} predicted of symmetric areas")
    yield f"{name}: {'; '.join(words)}"


@cache
def _backend(name: str) -> Backend:
    return registry.load(name)


def _layout(case: Case, partition: str, options: RingOptions) -> Layout:
    tokens = get_partition(partition).tokens_per_rank(case.seqlen_total, case.world_size)
    return layout_of(partition, case.world_size, tokens, mask_of(case), options)


def _sizes(case: Case, options: RingOptions, *, as_given: bool) -> ShardShape:
    dtype: torch.dtype = getattr(torch, case.dtype)
    wide = accumulator_dtype(dtype)
    travels = travel_dtype(options, dtype, as_given=as_given)
    heads = case.heads_q, case.heads_kv, case.head_dim, case.head_dim
    return ShardShape(case.batch, *heads, dtype.itemsize, wide.itemsize, travels.itemsize)


def _kernel(name: str, backend: Backend, case: Case) -> KernelMemory:
    traits = accumulating(backend) is not None, backend.needs_delta
    if name != "triton" or case.dtype not in ("float16", "bfloat16"):
        return KernelMemory(*traits)

    problem = problem_of(case, torch.device("cuda"), backward=True)
    return KernelMemory(*traits, partial(scratch_bytes, problem))


def main() -> None:
    """Prints the lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("records", type=Path, nargs="+")
    for path in parser.parse_args().records:
        for record in read(path):
            for line in lines(record):
                print(line)


if __name__ == "__main__":
    main()
