"""What the CuTe kernels are asked on a GPU, and tensors in which it shows what they spoil."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from ring_attn_backends.cute import table
from torch import Tensor

from ring_attn_bench.plan.problem import Mask

OTHERS = ("triton", "flash_attn_4", "cudnn")
ROUNDS = 15
DEVICE = "cuda"
FULL, CAUSAL = Mask(), Mask(causal=True)


@dataclass(frozen=True)
class Check:
    """Rows and keys, where they begin, and what is asked of them; carried: in two calls, or of a
    backward added to what is there."""

    name: str
    rows: int
    keys: int
    mask: Mask = FULL
    first_row: int = 0
    first_key: int = 0
    heads: int = 2
    key_heads: int = 2
    batch: int = 1
    softcap: float = 0.0
    dtype: torch.dtype = torch.bfloat16
    carried: bool = False


CHECKS = (
    Check("one tile", 64, 128),
    Check("all rows of a program", 192, 128),
    Check("two tiles", 192, 256),
    Check("many tiles", 384, 2048),
    Check("no multiple of any tile", 333, 517),
    Check("one row", 1, 300),
    Check("one key", 300, 1),
    Check("causal", 512, 512, CAUSAL),
    Check("causal, odd", 515, 515, CAUSAL),
    Check("causal, later rows", 300, 700, CAUSAL, first_row=400),
    Check("causal, rows that see nothing", 400, 300, CAUSAL, first_key=150),
    Check("window", 700, 700, Mask(window_left=130, window_right=40)),
    Check("causal window", 700, 700, Mask(causal=True, window_left=64)),
    Check("grouped heads, batch", 260, 390, CAUSAL, 130, heads=8, key_heads=2, batch=3),
    Check("one key head", 260, 390, heads=6, key_heads=1),
    Check("softcap", 300, 400, CAUSAL, 100, softcap=5.0),
    Check("float16", 515, 515, CAUSAL, dtype=torch.float16),
    Check("carried", 333, 517, carried=True),
    Check("carried, causal", 400, 600, CAUSAL, first_row=200, carried=True),
    Check("carried, nothing seen yet", 500, 500, Mask(causal=True, window_left=99), carried=True),
    Check("carried, softcap, float16", 200, 300, softcap=9.0, dtype=torch.float16, carried=True),
    Check("2048", 2048, 2048, heads=4, key_heads=2),
    Check("2048, causal", 2048, 2048, CAUSAL, heads=4, key_heads=2),
)


def propose(dims: Iterable[int]) -> None:
    """Fills the tables of this process with the first candidates of head dims that they lack."""
    forward, backward = table.proposed(dims)
    table.TABLE.update(forward)
    table.BACKWARD.update(backward)


def width_v(dim: int) -> int:
    """Of a head dim of q and k, that of v."""
    return table.CANDIDATES[dim][0].width_v


def inside(*shape: int, dtype: torch.dtype, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A tensor (B, tokens, H, D), or (B, H, tokens), in a larger one of NaN, and the larger one."""
    dim = 1 if len(shape) == 4 else 2
    more = [n + 8 * (i == dim) for i, n in enumerate(shape)]
    whole = torch.full(more, float("nan"), dtype=dtype, device=DEVICE)
    part = whole.narrow(dim, 4, shape[dim])
    if values is not None:
        part.copy_(values)
    return part, whole


def untouched(part: Tensor, whole: Tensor) -> bool:
    """Whether the larger tensor is NaN but for the part."""
    return int(whole.isnan().logical_not().sum()) == int(part.isnan().logical_not().sum())


def all_right(what: str, fault: Callable[[Check], str]) -> bool:
    """Prints a line for each check; whether none had a fault."""
    right = True
    for check in CHECKS:
        print(f"{what}: {check.name} ... ", end="", flush=True)
        said = fault(check)
        print(said or "right", flush=True)
        right = right and not said
    return right
