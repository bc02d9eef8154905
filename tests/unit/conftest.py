"""Plausible records, as a benchmark run would have written them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from random import Random

import pytest

from ring_attn_bench.records.cache_shape import CacheShape
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import (
    Accuracy,
    Case,
    Contestant,
    Memory,
    Record,
    Samples,
    Speed,
    TensorError,
)
from ring_attn_bench.records.status import Status
from ring_attn_bench.ring.options import DEFAULTS, NAMELESS, RingOptions

H200 = {
    "gpu": "NVIDIA H200",
    "torch": "2.11.0+cu130",
    "triton": "3.6.0",
    "cuda": "13.0",
    "nccl": "2.28.9",
    "driver": "580.95",
    "python": "3.12.3",
    "commit": "0123abc",
    "dirty": False,
    "cpu": "AMD EPYC 9654",
    "hostname": "node1",
    "date": "2026-01-01",
}
CPU = {**H200, "gpu": None, "cuda": None, "nccl": None, "driver": None, "dirty": True}
PEAK_TFLOPS = {"triton": 560, "flash_attn_4": 640, "cudnn": 610, "aten": 520, "reference": 12}
BALANCE = {"zigzag": 1.0, "striped": 0.94, "contiguous": 0.58}
KERNEL_ERROR = {"triton": 1.0, "flash_attn_4": 1.05, "cudnn": 0.9, "aten": 1.4, "reference": 0.6}
TENSOR_SCALE = {"out": 1e-4, "lse": 2e-7, "dq": 3e-4, "dk": 4e-4, "dv": 3e-4}
FLOPS_FACTOR = {Direction.FORWARD: 1.0, Direction.BACKWARD: 2.5, Direction.FORWARD_BACKWARD: 3.5}


def case(**changes: object) -> Case:
    fields = {
        "batch": 1, "seqlen_total": 4 * 8192, "world_size": 4, "heads_q": 32, "heads_kv": 8,
        "head_dim": 128, "dtype": "bfloat16", "causal": True,
    }  # fmt: skip
    return Case(**{**fields, **changes})


class LaterCase(Case):
    """As if another axis had been added to suites."""

    sinks: bool = False


def other_cases(base: Case) -> Iterator[tuple[str, Case]]:
    """By each field of a case, the same case with another value there."""
    for name in type(base).model_fields:
        yield name, base.model_copy(update={name: another(getattr(base, name))})


def another(value: object) -> object:
    match value:
        case bool():
            return not value
        case int() | float():
            return 2 * value or 3.5
        case str():
            return f"{value}x"
        case (int(), int()):
            return (9, 0)
        case None:  # of the one field that is
            return CacheShape(queries=1)
    raise AssertionError(f"say here what another value of {value!r} is")


def contestant(**changes: object) -> Contestant:
    """By p2p, with these fields changed; the options' own fields too. A peer has none."""
    ours = {name: changes.pop(name) for name in DEFAULTS if name in changes}
    fields = {"backend": "triton", "partition": "zigzag", **changes}
    options = RingOptions(**{**NAMELESS, "transport": "p2p", **ours})
    peer = fields["backend"].startswith("peer:")
    return Contestant(**{"options": None if peer else options, **fields})


def tensor_error(scale: float = 1e-4, factor: float = 1.0, **changes: object) -> TensorError:
    fields = {
        "max_abs": 40 * scale * factor, "rmse": scale * factor, "rel_l2": 3e-3 * factor,
        "bound_max_abs": 90 * scale, "bound_rmse": 2.2 * scale,
        "pytorch_max_abs": 40 * scale, "pytorch_rmse": scale,
        "one_gpu_max_abs": 39 * scale * factor, "one_gpu_rmse": 0.98 * scale * factor,
    }  # fmt: skip
    return TensorError(**{**fields, **changes})


def accuracy(direction: Direction, factor: float = 1.0) -> Accuracy:
    tensors = {name: tensor_error(TENSOR_SCALE[name], factor) for name in direction.tensors}
    return Accuracy(oracle="full", oracle_rows=8192, tensors=tensors)


def samples(milliseconds: float, world_size: int, seed: str, count: int = 20) -> Samples:
    random = Random(seed)

    def times(scale: float) -> list[list[float]]:
        return [
            [milliseconds * scale * random.lognormvariate(0.01, 0.01) for _ in range(world_size)]
            for _ in range(count)
        ]

    return Samples(ring=times(1.0), twin=times(0.96), one_gpu=times(0.9), stop="precise")


def speed(of: Case, tflops: float, direction: Direction, seed: str = "") -> Speed:
    area = of.seqlen_total**2 / (2 if of.causal else 1)
    flops = int(4 * area * of.heads_q * of.head_dim * of.batch * FLOPS_FACTOR[direction])
    share = flops // of.world_size
    return Speed(
        samples=samples(share / tflops / 1e9, of.world_size, seed),
        useful_flops=flops,
        executed_flops=int(flops * 1.02),
        devices=of.world_size,
        imbalance=1.0,
        one_gpu_flops=share,
    )


def record(**changes: object) -> Record:
    """A good record on four GPUs, with these fields changed."""
    of = changes.get("case", case())
    direction = changes.get("direction", Direction.FORWARD)
    is_ok = changes.get("status", Status.OK) is Status.OK
    fields = {
        "run": "20260101T120000", "suite": "sweep", "case": of, "contestant": contestant(),
        "direction": direction, "status": Status.OK, "environment": H200,
        "accuracy": accuracy(direction) if is_ok else None,
        "speed": speed(of, 400.0, direction) if is_ok else None,
        "memory": Memory(peak_extra_bytes=[2**20 * size for size in (90, 100, 95, 80)])
        if is_ok else None,
        "reason": "" if is_ok else "the reason", "started_at": "2026-01-01T12:00:00+00:00",
        "seconds": 3.5, "backend_version": "1.0",
        "command": f"ring-attn-bench run configs/sweep.toml --only {of.name}",
    }  # fmt: skip
    return Record(**{**fields, **changes})


def swept(of: Case, who: Contestant, direction: Direction) -> Record:
    """What a run on four H200 could have said."""
    trouble = _trouble(of, who, direction)
    if trouble is not None:
        status, reason = trouble
        errors = accuracy(direction, 3.4) if status is Status.WRONG else None
        return record(case=of, contestant=who, direction=direction, status=status, reason=reason,
                      accuracy=errors)  # fmt: skip
    seed = f"{of.name} {who.name} {direction}"
    noise = Random(seed).uniform(0.97, 1.03)
    saturation = of.seqlen_per_gpu / (of.seqlen_per_gpu + 1500)
    balance = BALANCE[who.partition] if of.causal else 1.0
    pace = {Direction.FORWARD: 1.0, Direction.BACKWARD: 0.78, Direction.FORWARD_BACKWARD: 0.84}
    tflops = PEAK_TFLOPS[who.backend] * saturation * balance * pace[direction] * noise
    tokens = of.seqlen_per_gpu * (40 if who.backend == "reference" else 1)
    peak = tokens * of.heads_kv * of.head_dim * (12 if direction is Direction.FORWARD else 28)
    return record(
        case=of, contestant=who, direction=direction,
        accuracy=accuracy(direction, KERNEL_ERROR[who.backend] * noise**8),
        speed=speed(of, tflops, direction, seed), memory=Memory(peak_extra_bytes=[int(peak)] * 4),
    )  # fmt: skip


def _trouble(of: Case, who: Contestant, direction: Direction) -> tuple[Status, str] | None:
    backward = direction is not Direction.FORWARD
    if who.partition == "striped" and who.backend in {"cudnn", "aten"} and of.causal:
        return (
            Status.UNSUPPORTED,
            "it knows no block of the form STRICT_CAUSAL, which striped needs.",
        )
    if who.backend == "reference" and of.seqlen_per_gpu > 8192:
        return Status.OOM, "CUDA out of memory: tried to allocate 128.00 GiB."
    if who.backend == "aten" and who.partition == "contiguous" and direction is Direction.BACKWARD:
        return Status.WRONG, "dk: rmse 1.4e-03 is 1.5 times the 8.8e-04 allowed."
    if who.name == "flash_attn_4/contiguous/p2p" and backward and of.seqlen_per_gpu == 32768:
        return Status.TIMEOUT, "no answer within 300 s; the worker group was killed."
    if who.name == "cudnn/contiguous/p2p" and not of.causal and of.seqlen_per_gpu == 2048:
        return Status.ERROR, "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"
    return None


def sweep(lengths: tuple[int, ...] = (2048, 8192, 32768)) -> Iterator[Record]:
    """Five backends, three partitions, all directions, statuses of all kinds."""
    grid = product(lengths, (True, False), BALANCE, PEAK_TFLOPS, Direction)
    for length, causal, partition, backend, direction in grid:
        of = case(seqlen_total=4 * length, causal=causal)
        yield swept(of, contestant(backend=backend, partition=partition), direction)


def tiny() -> Iterator[Record]:
    """Two CPU ranks: the reference has a speed, the interpreted Triton kernel has none."""
    for causal, backend, direction in product((True, False), ("reference", "triton"), Direction):
        of = case(seqlen_total=128, world_size=2, heads_q=4, heads_kv=2, head_dim=16,
                  dtype="float32", causal=causal)  # fmt: skip
        yield record(
            case=of, contestant=contestant(backend=backend), direction=direction,
            suite="smoke", environment=CPU, memory=None, interpreted=backend == "triton",
            accuracy=accuracy(direction, 1.0 if backend == "triton" else 0.7),
            speed=None if backend == "triton" else speed(of, 0.004, direction, direction),
        )  # fmt: skip


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    return record


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    return case


@pytest.fixture(scope="session")
def changed_cases() -> tuple[Case, dict[str, Case]]:
    """A case with an axis more than cases have, and by field the same with another value."""
    base = LaterCase(**case().model_dump())
    return base, dict(other_cases(base))


@pytest.fixture(scope="session")
def make_contestant() -> Callable[..., Contestant]:
    return contestant


@pytest.fixture(scope="session")
def sweep_records() -> tuple[Record, ...]:
    return tuple(sweep())


@pytest.fixture(scope="session")
def tiny_records() -> tuple[Record, ...]:
    return tuple(tiny())
