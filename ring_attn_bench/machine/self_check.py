"""A machine looked at for some seconds: is attention right here, and do its GPUs reach each other?

In a process that may touch CUDA, and that what is looked at may end. Each look says what it found;
one that fails says why, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from ctypes import CDLL, byref, c_int

import torch
from torch import Tensor

from ring_attn_bench import registry
from ring_attn_bench.attention import flash_attn_func
from ring_attn_bench.errors import BackendUnavailable, Unsupported, clause
from ring_attn_bench.machine.gpus import SeenGpu, Unseen
from ring_attn_bench.machine.looks import Look
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.records.gpus import GpuLook
from ring_attn_bench.truth import oracle, tolerance

TOKENS = 300
"""No multiple of a kernel's tile."""
COPIED = 64 * 2**20
"""Bytes from one GPU to another."""
MULTICAST = 132
"""CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED, of CUDA's driver."""
CANNOT_REACH = "its rings send messages (p2p), which NCCL takes through the host's memory"


def look_around() -> Iterator[Look]:
    """All looks, one after another."""
    yield _guarded("attention", _attention)
    if not torch.cuda.is_available():
        return
    yield _guarded("clocks", _clocks)
    if torch.cuda.device_count() > 1:
        yield _guarded("peer access", _peer_access)
        yield _guarded("copies", _copies)
    yield _guarded("transports", _transports)
    yield _guarded("multicast", _multicast)


def _guarded(what: str, look: Callable[[], tuple[str, bool | None]]) -> Look:
    try:
        found, is_right = look()
    except Exception as error:  # of CUDA, a driver, or a kernel's package
        return Look(what=what, found=f"{type(error).__name__}: {clause(error)}", is_right=False)
    return Look(what=what, found=found, is_right=is_right)


def _attention() -> tuple[str, bool]:
    """The first kernel that can, which is what `auto` takes, forward and backward."""
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    torch.manual_seed(1)
    q, k, v, dout = (
        torch.randn(1, TOKENS, heads, 64, device=device).to(dtype) for heads in (4, 2, 2, 4)
    )
    reasons = []
    for name in registry.backends():
        began = time.perf_counter()
        try:
            results = _results(name, q, k, v, dout)
        except (BackendUnavailable, Unsupported) as error:
            reasons.append(f"{name}: {error.reason}")
            continue
        except Exception as error:  # of a kernel's package
            return f"{name} on {device}: {type(error).__name__}: {clause(error)}", False
        took = time.perf_counter() - began
        share, worst = max(_shares(results, q, k, v, dout))
        told = f"{name} on {device}: forward and backward in {took:.1f} s, the first time"
        return f"{told}; {worst} is out by {share:.0%} of what it may be", share <= 1.0
    return f"no kernel can: {'; '.join(reasons)}", False


def _results(name: str, q: Tensor, k: Tensor, v: Tensor, dout: Tensor) -> dict[str, Tensor]:
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out, lse, _ = flash_attn_func(*leaves, causal=True, return_attn_probs=True, backend=name)
    dq, dk, dv = torch.autograd.grad(out, leaves, dout)
    if q.is_cuda:
        torch.cuda.synchronize()
    return {"out": out.detach(), "lse": lse.detach(), "dq": dq, "dk": dk, "dv": dv}


def _shares(
    results: dict[str, Tensor], q: Tensor, k: Tensor, v: Tensor, dout: Tensor
) -> Iterator[tuple[float, str]]:
    """By result, its error over its bound."""
    truth = _truth(q.double(), k.double(), v.double(), dout.double(), torch.float64)
    plain = _truth(q, k, v, dout, q.dtype)
    for name, found in results.items():
        off = tolerance.error(found, truth[name])
        reference = tolerance.error(plain[name], truth[name])
        bound = tolerance.bounds(name, q.dtype, reference, tolerance.size(truth[name]))
        yield max(off.max_abs / bound.max_abs, off.rmse / bound.rmse), name


def _truth(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, arithmetic: torch.dtype
) -> dict[str, Tensor]:
    places = torch.arange(TOKENS, device=q.device)
    score = Score(q.shape[-1] ** -0.5)
    asked = oracle.Inquiry(places, places, Mask(causal=True), score, arithmetic=arithmetic)
    out, lse = oracle.forward(q, k, v, asked)
    gradients = oracle.backward(dout, q, k, v, out, lse, asked)
    return {"out": out, "lse": lse, **dict(zip(("dq", "dk", "dv"), gradients, strict=True))}


def _clocks() -> tuple[str, None]:
    try:
        gpu = SeenGpu.of(str(torch.cuda.get_device_properties(0).uuid))
    except Unseen as unseen:
        return f"not known: {clause(unseen)}", None
    now, limits = gpu.look(0), gpu.limits()
    return clocks(now, limits.get("gpu_most_sm_mhz"), limits.get("gpu_most_watts")), None


def clocks(now: GpuLook, most_mhz: object, most_watts: object) -> str:
    """A GPU's clock, power and heat in words, and what holds it back."""
    facts = (
        (now.sm_mhz, most_mhz, "MHz"), (now.watts, most_watts, "W"),
        (now.celsius, None, "degrees C"),
    )  # fmt: skip
    told = [
        f"{value:g}{f' of {most:g}' if isinstance(most, int | float) else ''} {unit}"
        for value, most, unit in facts
        if value is not None
    ]
    held = f"; held back by {', '.join(now.held_back)}" if now.held_back else ""
    return (", ".join(told) or "NVML says nothing of them") + held


def _pairs() -> list[tuple[int, int]]:
    count = torch.cuda.device_count()
    return [(i, j) for i in range(count) for j in range(count) if i != j]


def _peer_access() -> tuple[str, bool | None]:
    lacking = [f"{i} to {j}" for i, j in _pairs() if not torch.cuda.can_device_access_peer(i, j)]
    if not lacking:
        return f"between all {torch.cuda.device_count()} GPUs", None
    return f"not from {', '.join(lacking)}: {CANNOT_REACH}; look at `nvidia-smi topo -p2p r`", None


def _copies() -> tuple[str, bool]:
    """From each GPU to the next: whether all arrives, and how fast."""
    count = torch.cuda.device_count()
    rates, wrong = [], []
    for i in range(count):
        j = (i + 1) % count
        sent = torch.randint(0, 256, (COPIED,), dtype=torch.uint8, device=f"cuda:{i}")
        landed = torch.empty_like(sent, device=f"cuda:{j}")
        for _ in range(2):  # the first one opens the way
            torch.cuda.synchronize(i)
            torch.cuda.synchronize(j)
            began = time.perf_counter()
            landed.copy_(sent)
            torch.cuda.synchronize(i)
            torch.cuda.synchronize(j)
            took = time.perf_counter() - began
        rates.append(COPIED / took / 1e9)
        if not torch.equal(landed.cpu(), sent.cpu()):
            wrong.append(f"{i} to {j}")
    told = f"{min(rates):.0f} to {max(rates):.0f} GB/s from each GPU to the next, 64 MiB at a time"
    if wrong:
        told += f"; what comes from {', '.join(wrong)} is not what was sent"
    return told, not wrong


def _transports() -> tuple[str, None]:
    """Which a ring of one host can have, and why not the others."""
    lacking = {
        name: getattr(registry.transport_class(name), "lacks_here", lambda: None)()
        for name in registry.transports()
    }
    told = f"rings of one host can have {', '.join(x for x, why in lacking.items() if not why)}"
    return "; ".join([told, *(f"{x}: {why}" for x, why in lacking.items() if why)]), None


def _multicast() -> tuple[str, None]:
    """What NCCL's NVLS needs; rings of ours do not."""
    found = c_int()
    try:
        failed = CDLL("libcuda.so.1").cuDeviceGetAttribute(byref(found), MULTICAST, 0)
    except OSError as error:
        return f"not known: {clause(error)}", None
    if failed:
        return "not known: this driver does not say", None
    return ("the GPU can" if found.value else "the GPU cannot") + "; nothing here needs it", None
