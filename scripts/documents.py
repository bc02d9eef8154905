"""What packed documents cost: our Triton kernels beside other people's varlen functions.

    python scripts/documents.py [--tokens 16384] [--head-dim 128] [--rounds 20]

One GPU, 16 query and 4 key heads, bfloat16: documents of equal and of mixed lengths, full and
causal, forward and backward apart. Beside `flash_attn_varlen_func` with the Triton kernels stand
flash-attn 2's function and flash-attn-4's, where they are installed. Calls take turns, timed by
CUDA events from a cold L2 cache; milliseconds are medians. Where outputs differ by more than
rounding, there are no times.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from measuring.turns import in_turns
from torch import Tensor

from ring_attn_bench import flash_attn_varlen_func

Attention = Callable[..., Tensor]


def contestants() -> dict[str, Attention]:
    """Functions of q, k, v, cu_seqlens, the longest document and `causal`."""
    found: dict[str, Attention] = {"triton": by_triton}
    try:
        from flash_attn import flash_attn_varlen_func as second

        found["flash_attn_2"] = partial(by_package, second)
    except ImportError:
        pass
    try:
        from flash_attn.cute import flash_attn_varlen_func as fourth

        found["flash_attn_4"] = partial(by_fourth, fourth)
    except ImportError:
        pass
    return found


def by_triton(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, causal: bool
) -> Tensor:
    """Ours."""
    out = flash_attn_varlen_func(
        q, k, v, starts, starts, longest, longest, causal=causal, backend="triton"
    )
    assert isinstance(out, Tensor)  # no probabilities were asked for
    return out


def by_package(
    function: Attention, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, causal: bool
) -> Tensor:
    """Flash-attn 2's arguments, which ours are."""
    return function(q, k, v, starts, starts, longest, longest, causal=causal)


def by_fourth(
    function: Attention, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, causal: bool
) -> Tensor:
    """Flash-attn-4's, which returns lse too."""
    found = function(
        q, k, v, cu_seqlens_q=starts, cu_seqlens_k=starts, max_seqlen_q=longest,
        max_seqlen_k=longest, causal=causal,
    )  # fmt: skip
    return found[0] if isinstance(found, tuple) else found


def documents(tokens: int) -> dict[str, list[int]]:
    """Lengths of documents that make up so many tokens."""
    drawn, mixed = random.Random(0), list[int]()
    while sum(mixed) < tokens:
        mixed.append(min(tokens - sum(mixed), round(drawn.lognormvariate(6.5, 1.2)) + 1))
    return {
        "one": [tokens],
        "eight equal": [tokens // 8] * 8,
        "32 equal": [tokens // 32] * 32,
        f"{len(mixed)} mixed": mixed,
    }


@dataclass(frozen=True)
class Passes:
    """Both passes by themselves, and the output."""

    out: Tensor
    forward: Callable[[], object]
    backward: Callable[[], object]

    @classmethod
    def of(cls, attention: Attention, tensors: list[Tensor], *how: object) -> Passes:
        """Of q, k, v and dout."""
        *leaves, dout = tensors
        out = attention(*leaves, *how)

        def forward() -> None:
            with torch.no_grad():
                attention(*leaves, *how)

        backward = partial(torch.autograd.grad, out, leaves, dout, retain_graph=True)
        return cls(out, forward, backward)


def measured(
    lengths: list[int], dim: int, causal: bool, rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of each contestant's passes."""
    shapes = [(sum(lengths), heads, dim) for heads in (16, 4, 4, 16)]
    tensors = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes]
    for x in tensors[:3]:
        x.requires_grad_()
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device="cuda")
    found = {
        name: Passes.of(attention, tensors, starts, max(lengths), causal)
        for name, attention in contestants().items()
    }
    ours = found["triton"].out.float()
    for name, one in found.items():
        apart = float((one.out.float() - ours).norm() / ours.norm())
        if apart > 0.01:
            raise SystemExit(f"{name} and triton differ by {apart:.2g} of the output's size.")
    return {
        "forward": in_turns({name: one.forward for name, one in found.items()}, rounds),
        "backward": in_turns({name: one.backward for name, one in found.items()}, rounds),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device.")
    print(f"{options.tokens} tokens, 16:4 heads of {options.head_dim}; ms, and times triton's")
    for name, lengths in documents(options.tokens).items():
        for causal in (False, True):
            for which, times in measured(lengths, options.head_dim, causal, options.rounds).items():
                ours = times.pop("triton")
                others = "".join(f"  {who} {ms / ours:5.2f}" for who, ms in times.items())
                mask = "causal" if causal else "full"
                print(f"{name:12} {mask:7} {which:9} {ours:8.3f}{others}", flush=True)


if __name__ == "__main__":
    main()
