"""Whether these kernels compute what is asked for, on which GPU, and with which compiler."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import torch

from ring_attn_backends.cute.arguments import FAR
from ring_attn_backends.cute.build import COMPILER, TESTED
from ring_attn_backends.cute.table import PACKED, head_dims
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.contract.tensors import Keys, Rows

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.contract.tensors import Running, Sums
    from ring_attn_bench.plan.problem import Problem

CAPABILITY = (9, 0)
"""Of the GPUs that have wgmma, and TMA as Hopper has it: code for sm_90a runs nowhere else."""
LARGEST_CAP = 1024.0
"""Softcap up to which a tanh that is right to 1e-7 absolute leaves scores right to 1e-4."""
BESIDE_TRITON = {8: "flash_attn_2", 10: "flash_attn_4", 11: "flash_attn_4"}
"""By major compute capability, who else is known to serve it."""


def lacking() -> str | None:
    """Why nothing can be compiled here, or None."""
    try:
        found = version(COMPILER)
    except PackageNotFoundError:
        return f"{COMPILER} is not installed; try: {COMMANDS['nvidia_cutlass_dsl']}"
    if found.startswith(TESTED):
        return None
    reason = f"its kernels are written for {COMPILER} {TESTED}x, and {found} is installed"
    return f"{reason}; try: {COMMANDS['nvidia_cutlass_dsl']}"


def lacking_gpu() -> str | None:
    """Why nothing can be launched here, or None."""
    if not torch.cuda.is_available():
        return "there is no CUDA device that torch can use"
    found = [torch.cuda.get_device_capability(x) for x in range(torch.cuda.device_count())]
    return None if CAPABILITY in found else _elsewhere(found[0])


def _elsewhere(capability: tuple[int, int]) -> str:
    major, minor = capability
    others = ", ".join(filter(None, ("triton", BESIDE_TRITON.get(major))))
    reason = f"its kernels are for sm_90a (H100, H200), not for sm_{major}{minor}"
    return f"{reason}; use {others} or cudnn there"


def refused(problem: Problem, capability: tuple[int, int] | None) -> str | None:
    """Why a problem is not computed on a GPU of that capability, or None."""
    if problem.device != "cuda" or capability is None:
        return "it needs a CUDA device; aten, flex and reference run on a CPU"
    if capability != CAPABILITY:
        return _elsewhere(capability)
    if problem.dtype not in ("float16", "bfloat16"):
        other = "reference" if problem.dtype == "float64" else "triton"
        return f"it computes in float16 and bfloat16 only, not {problem.dtype}; {other} has that"
    if problem.alibi:
        return "it has no ALiBi; triton has"
    if problem.dropout_p > 0:
        return f"it has no dropout (dropout_p is {problem.dropout_p}); triton has"
    if problem.packed and not PACKED:
        return "it has no packed documents; triton has"
    dims = problem.head_dim, problem.head_dim_v
    served = head_dims(backward=problem.backward)
    if dims not in served.items():
        has = f"it has {named(served)}"
        return f"{has} (got {dims}); triton has all up to 256, reference any"
    if problem.packed and dims[0] not in PACKED:
        return f"it has no packed documents of head dim {dims[0]}; triton has"
    if problem.softcap > LARGEST_CAP:
        rough = f"its tanh is too rough for a softcap above {LARGEST_CAP:g}"
        return f"{rough} (got {problem.softcap}); triton takes any"
    if max(problem.seqlen, problem.queries or 0) >= FAR:
        return f"it counts tokens below {FAR} (got {problem.seqlen})"
    return None


def named(served: dict[int, int]) -> str:
    """Head dims of `table.head_dims`, as a sentence has them."""
    others = {width: width_v for width, width_v in served.items() if width != width_v}
    *most, last = (f"{x} ({others[x]} in v)" if x in others else str(x) for x in sorted(served))
    # of gradients where others have none
    of = "gradients of head dims" if served != head_dims(backward=False) else "head dims"
    return f"{of} {', '.join(most)} and {last}, {'else ' * bool(others)}the same in v"


def readable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where TMA cannot read it: as dout of a sum, whose strides are 0."""
    if _is_aligned(tensor):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def readable_line(tensor: Tensor) -> Tensor:
    """The same of a number for each row, such as lse."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()


def unreadable(name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> str | None:
    """Why the kernel cannot read or write a tensor where it lies, or None."""
    if dtype is not None and tensor.dtype is not dtype:
        return f"{name} is {tensor.dtype}, not {dtype}"
    if not _is_aligned(tensor):
        return f"{name} begins, or has strides, beside the 16 bytes that are moved at a time"
    return None


def _is_aligned(tensor: Tensor) -> bool:
    """TMA wants addresses and strides that 16 bytes divide, and pairs of numbers are written."""
    size = tensor.element_size()
    *outer, (width, step) = zip(tensor.shape, tensor.stride(), strict=True)
    if tensor.data_ptr() % 16 or (step != 1 and width > 1):
        return False
    return not any(n > 1 and (s <= 0 or s * size % 16) for n, s in outer)


def unreadable_forward(q: Tensor, keys: Keys, running: Running, *, first: bool) -> str | None:
    """Why a forward cannot read, or write, one of its tensors, or None."""
    named = [("q", q, None), ("k", keys.k, q.dtype), ("v", keys.v, q.dtype)]
    named += [("out", running.result, None)]
    if not first:
        named += [("the running out", running.out, torch.float32)]
    return next((why for x in named if (why := unreadable(*x)) is not None), None)


def readable_backward(rows: Rows, keys: Keys) -> tuple[Rows, Keys]:
    """The same rows and keys, with a copy of what the kernels cannot read where it lies."""
    return readable_rows(rows), Keys(*map(readable, keys))


def readable_rows(rows: Rows) -> Rows:
    """The same of rows alone."""
    q, dout, out, lse, delta = rows
    read = None if delta is None else readable_line(delta)
    return Rows(readable(q), readable(dout), out, readable_line(lse), read)


def unreadable_backward(
    rows: Rows, keys: Keys, sums: Sums, *, first: bool, first_keys: bool
) -> str | None:
    """Why a backward cannot read, or write, one of its tensors, or None."""
    why = unreadable_lines(rows)
    if why is not None:
        return why
    dtype, wide = rows.q.dtype, torch.float32
    key_dtype = sums.dk.dtype if first_keys else wide
    named = (
        ("q", rows.q, None), ("dout", rows.dout, dtype), ("k", keys.k, dtype), ("v", keys.v, dtype),
        ("dq", sums.dq, None if first else wide),
        ("dk", sums.dk, key_dtype), ("dv", sums.dv, key_dtype),
    )  # fmt: skip
    return next((why for x in named if (why := unreadable(*x)) is not None), None)


def unreadable_lines(rows: Rows) -> str | None:
    """Why a backward cannot read lse or delta, or None."""
    if rows.delta is None:
        return "delta is missing, which the kernel reads"
    for name, line in (("lse", rows.lse), ("delta", rows.delta)):
        if line.dtype is not torch.float32:
            return f"{name} is {line.dtype}, not {torch.float32}"
    return None
