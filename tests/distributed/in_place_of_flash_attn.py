"""A rank of a peer's ring that finds our functions where it imports flash-attn's; prints faults.

`torchrun --nproc-per-node=2 in_place_of_flash_attn.py PEER FUNCTION`, on a CPU by gloo, whose
backend is what `auto` takes. In bfloat16, because in float32 these rings' accumulators are their
kernels' buffers. The truth is float64, the bound a multiple of plain PyTorch's error.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench import flash_attn, shard
from ring_attn_bench.truth.tolerance import bounds, error, size

NAMES = ("out", "dq", "dk", "dv")
LENGTHS = {"func": [32], "varlen_func": [16, 8, 24]}
"""By the end of a function's name, the documents; of a sequence there is one."""


def imported(peer: str) -> ModuleType:
    sys.modules["flash_attn"] = sys.modules["flash_attn.flash_attn_interface"] = flash_attn
    if peer == "ring_flash_attn":  # what it has for transformers needs transformers
        adapters = ModuleType("ring_flash_attn.adapters")
        names = ("substitute_hf_flash_attn", "update_ring_flash_attn_params")
        vars(adapters).update(dict.fromkeys(names))
        sys.modules[adapters.__name__] = adapters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(peer if peer == "ring_flash_attn" else f"{peer}.ring")


def truth(tensors: list[Tensor], lengths: list[int], dtype: torch.dtype) -> dict[str, Tensor]:
    *leaves, dout = (x.to(dtype, copy=True) for x in tensors)
    leaves = [x.requires_grad_() for x in leaves]
    outs = []
    for q, k, v in zip(*(x.split(lengths, 1) for x in leaves), strict=True):
        k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], 2) for x in (k, v))
        s = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[3] ** -0.5
        s = s.masked_fill(torch.ones(s.shape[2:], dtype=torch.bool).triu(1), float("-inf"))
        outs.append(torch.einsum("bhij,bjhd->bihd", s.softmax(-1), v))
    out = torch.cat(outs, 1)
    return dict(zip(NAMES, (out.detach(), *torch.autograd.grad(out, leaves, dout)), strict=True))


def main(peer: str, name: str) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    function = getattr(imported(peer), name)
    lengths = LENGTHS["varlen_func" if "varlen" in name else "func"]
    random = torch.Generator().manual_seed(0)
    shapes = [(1, sum(lengths), heads, 16) for heads in (4, 2, 2, 4)]
    tensors = [torch.randn(shape, generator=random).bfloat16() for shape in shapes]

    def dealt(x: Tensor) -> Tensor:
        parts = [shard(part, rank, world, "zigzag") for part in x.split(lengths, 1)]
        return torch.cat(parts, 1).contiguous()

    *leaves, dout = map(dealt, tensors)
    leaves = [x.requires_grad_() for x in leaves]
    if "varlen" in name:
        starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        where = starts // world, max(lengths) // world
        out = function(*(x[0] for x in leaves), *where, causal=True)[None]
    else:
        out = function(*leaves, causal=True)
    out.backward(dout)
    right = truth(tensors, lengths, torch.float64)
    plain = truth(tensors, lengths, torch.bfloat16)
    for what, found in zip(NAMES, (out.detach(), *(x.grad for x in leaves)), strict=True):
        baseline = error(plain[what], right[what])
        allowed = bounds(what, torch.bfloat16, baseline, size(right[what]))
        if not (off := error(found, dealt(right[what]))).within(allowed):
            sys.stdout.write(f"rank {rank}: {what}: {off}; allowed {allowed}\n")
    sys.stdout.write("done\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
