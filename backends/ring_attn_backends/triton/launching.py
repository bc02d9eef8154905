"""One kernel call of any family, ready to run, and the words that all families share.

B batch, M rows, N keys, H query heads, G key heads, D head dim of q and k, E head dim of v:
q (B, M, H, D)   k (B, N, G, D)   v (B, N, G, E)   out, dout (B, M, H, E)   lse, delta (B, H, M)

A block here is one that `lines.pieces` made. Where documents are packed, B is 1, and M and N count
the tokens of all of them. Landed keys are tokens, too, piece behind piece.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from ring_attn_bench.errors import Unsupported
from ring_attn_bench.relaunch import Made

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.triton.arguments import Arguments

Kernel = Literal["forward", "backward_dq", "backward_dkdv"]
Side = Literal["rows", "keys"]
"""Of which a program has a tile; it visits tiles of the other."""


@dataclass(frozen=True, slots=True)
class TritonLaunch:
    """A kernel call, and what is to run after it; tests compile it where no GPU is to run it on.

    config: a configuration of the family's table; None for a kernel that needs none.
    """

    kernel: Any  # a triton.JITFunction, its interpreted twin, or a gluon kernel
    grid: tuple[int, int, int]
    arguments: Arguments
    device: torch.device
    config: Any = None
    scratch: tuple[Tensor, ...] = ()
    """Those among the arguments that nobody needs afterwards."""
    tables: tuple[Tensor, ...] = ()
    """Those among the arguments that say what the programs of a gathered launch do."""
    after: tuple[TritonLaunch, ...] = ()

    @property
    def options(self) -> dict[str, int]:
        """The launch's options for the compiler."""
        return {"num_warps": 4} if self.config is None else self.config.options

    def run(self) -> None:
        """Enqueues it on the current stream of the tensors' device."""
        self.made()

    def made(self) -> tuple[Made, ...]:
        """Runs it, and returns the calls that were made, if there was anything to do."""
        if 0 in self.grid:
            return ()
        device = self.device
        if device.type not in ("cuda", "cpu"):
            raise Unsupported(
                "triton", f"it reads memory, and a tensor on {device} has none for it"
            )
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            compiled = self.kernel[self.grid](**self.arguments, **self.options)
        call = Made(compiled, self.grid, tuple(self.arguments.values()))
        return call, *(part for launch in self.after for part in launch.made())
