"""How much of a device a contestant's calls should take, by its plan, before any was made."""

from __future__ import annotations

import torch

from ring_attn_bench import registry
from ring_attn_bench.bench.cached.runners import CacheRunner
from ring_attn_bench.bench.contestant import Runner, problem_of
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.contract.backend import accumulating
from ring_attn_bench.contract.scratch import scratch_of
from ring_attn_bench.plan import memory
from ring_attn_bench.plan.memory import KernelMemory, ShardShape
from ring_attn_bench.plan.problem import Problem
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.packing import accumulator_dtype
from ring_attn_bench.workers.reply import Facts


def predicted(runner: Runner | CacheRunner, request: Prepare, device: torch.device) -> Facts | None:
    """By direction, the bytes of a call on this process, and whether the kernel's own are there.

    None of a peer, over a cache, of a process that plays several ranks or one of a larger ring, of
    packed calls of a ring, which gather what they read, and over a transport that does not say what
    it takes.
    """
    job, took = runner.job, runner.took
    if job is None or took is None or request.contestant.playing or job.plan.packs:
        return None
    alone = job.plan.world_size == 1  # nothing travels, whatever by
    symmetric = False if alone else _symmetric(took.transport)
    if symmetric is None:
        return None
    backward = any(direction is not Direction.FORWARD for direction in request.directions)
    problem = problem_of(request.case, device, backward=backward)
    scratch = scratch_of(job.backend, problem)
    traits = accumulating(job.backend) is not None, job.backend.needs_delta
    kernel = KernelMemory(*traits) if scratch is None else KernelMemory(*traits, scratch)
    given = job.plan, _sizes(problem, job), kernel
    found = {Direction.FORWARD: memory.forward(*given, symmetric=symmetric)}
    if backward:
        keeps = took.keep_keys
        found |= {
            Direction.BACKWARD: memory.backward(*given, symmetric=symmetric, keeps=keeps),
            Direction.FORWARD_BACKWARD: memory.forward_backward(
                *given, symmetric=symmetric, keeps=keeps
            ),
        }
    return {
        "with_kernel": scratch is not None,
        "call_bytes": {way.value: found[way].bytes for way in request.directions},
    }


def _symmetric(transport: str) -> bool | None:
    """Whether keys leave from memory that is kept between calls; None of one that is silent."""
    says: object = getattr(registry.transport_class(transport), "symmetric", None)
    return None if says is None else bool(says)


def _sizes(problem: Problem, job: Job) -> ShardShape:
    dtype: torch.dtype = getattr(torch, problem.dtype)
    return ShardShape(
        problem.batch, problem.heads_q, problem.heads_kv, problem.head_dim, problem.head_dim_v,
        dtype.itemsize, accumulator_dtype(dtype).itemsize, job.gradients.itemsize,
    )  # fmt: skip
