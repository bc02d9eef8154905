"""On a GPU: NVML says how it is, or a reason says why not; our kernels tell their registers."""

import os

import pytest
import torch

from ring_attn_bench.bench.gpu_looks import OwnGpu
from ring_attn_bench.bench.messages import Envelope, Measure, Prepare, Sample, Subject
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.worker import BenchWorker
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.gpus import GpuLook
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.options import RingOptions

pytestmark = pytest.mark.gpu


def test_a_gpu_says_how_it_is_or_why_nobody_knows():
    look = GpuLook.model_validate(OwnGpu(torch.device("cuda", 0)).look())

    if look.unseen:
        pytest.skip(look.unseen)
    assert look.sm_mhz > 0
    assert look.memory_mhz > 0
    assert 0 < look.celsius < 120


def test_a_worker_tells_looks_with_times_and_the_registers_of_the_kernels_that_ran():
    worker = BenchWorker(WorkerPlace(0, 1, torch.device("cuda", 0), (0, 1), 2), os.getppid())
    case = Case(
        batch=1, seqlen_total=1024, world_size=2, heads_q=4, heads_kv=2, head_dim=128,
        dtype="bfloat16", causal=True,
    )  # fmt: skip
    who = Contestant(backend="triton", partition="zigzag", options=RingOptions(), played="loopback")
    direction = Direction.FORWARD_BACKWARD

    def ask(command):
        return worker.execute(Envelope(about="it", command=command))

    ask(Prepare(case=case, contestant=who, directions=(direction,), seed=1))
    measured = ask(Measure(direction=direction))
    timed = ask(Sample(direction=direction, subject=Subject.RING, count=3, warmup=1))

    assert len(timed["milliseconds"]) == 3
    assert [bool(look) for look in timed["looks"]] == [True, True]
    assert len(measured["kernels"]) >= 3, "a forward, dq, dk and dv"
    assert all(16 <= kernel["registers"] <= 255 for kernel in measured["kernels"])
