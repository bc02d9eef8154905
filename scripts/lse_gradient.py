"""What the gradient of lse costs, and how right it is, by each kernel of a GPU.

    python scripts/lse_gradient.py [--tokens 2048] [--backend NAME ...]

One GPU, batch 1, 16 query and 4 key heads of 128, bfloat16, causal. The loss is of out alone, or of
out and lse together. *Error* is the rms of dq and of dk against float64, over that of plain PyTorch
in bfloat16; *ms* is the median of 30 backward passes. A kernel that computes delta by itself runs
twice for lse.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from ring_attn_bench import flash_attn_func
from ring_attn_bench.errors import RingAttnBenchError
from ring_attn_bench.registry import backends, load

HEADS, KEY_HEADS, DIM, CALLS = 16, 4, 128, 30
Attention = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def plain(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """out and lse, as matrices in the inputs' dtype, for autograd to differentiate."""
    k, v = (x.repeat_interleave(HEADS // KEY_HEADS, 2).transpose(1, 2) for x in (k, v))
    s = (q.transpose(1, 2) @ k.transpose(2, 3)) * DIM**-0.5
    hidden = torch.ones(s.shape[2:], dtype=torch.bool, device=s.device).triu(1)
    s = s.masked_fill(hidden, float("-inf"))
    lse = s.logsumexp(-1)
    return (torch.exp(s - lse[..., None]) @ v).transpose(1, 2), lse


def gradients(
    attention: Attention, leaves: list[Tensor], upstream: dict[str, Tensor]
) -> Callable[[], tuple[Tensor, ...]]:
    """A backward pass of a forward one that was made before."""
    found = dict(zip(("out", "lse"), attention(*leaves), strict=True))
    of, given = [found[name] for name in upstream], [x.to(found[n]) for n, x in upstream.items()]
    return lambda: torch.autograd.grad(of, leaves[:2], given, retain_graph=True)


def rms(found: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> list[float]:
    """Of the difference, one for each tensor."""
    pairs = zip(found, right, strict=True)
    return [(a.double() - b.double()).square().mean().sqrt().item() for a, b in pairs]


def milliseconds(call: Callable[[], object]) -> float:
    """The median of CALLS calls, by device events."""
    times = []
    for _ in range(CALLS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return median(times)


def by_backend(name: str) -> Attention:
    """The public function."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, lse, _ = flash_attn_func(q, k, v, causal=True, backend=name, return_attn_probs=True)
        return out, lse

    return attention


def line(name: str, leaves: list[Tensor], upstream: dict[str, Tensor]) -> str:
    """A backend's row of the table; raises what it raises."""
    cells = [f"{name:14}", f"{'yes' if load(name).needs_delta else 'no':>10}"]
    for uses in (("out",), ("out", "lse")):
        asked = {use: upstream[use] for use in uses}
        right = gradients(plain, [x.detach().double().requires_grad_() for x in leaves], asked)()
        scale = rms(gradients(plain, leaves, asked)(), right)
        call = gradients(by_backend(name), leaves, asked)
        errors = [a / b for a, b in zip(rms(call(), right), scale, strict=True)]
        cells += [f"{errors[0]:8.2f}", f"{errors[1]:8.2f}", f"{milliseconds(call):8.3f}"]
    return " ".join(cells)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--backend", action="append", help="may be repeated; default: all")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device; this measures what a GPU does.")
    tokens = options.tokens
    shapes = [(1, tokens, heads, DIM) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    leaves = [torch.randn(x, device="cuda", dtype=torch.bfloat16).requires_grad_() for x in shapes]
    upstream = {
        "out": torch.randn(1, tokens, HEADS, DIM, device="cuda"),
        "lse": torch.randn(1, HEADS, tokens, device="cuda"),
    }
    print(f"{'':14} {'told delta':>10} {'of out: dq':>8} {'dk':>6} {'ms':>8}", end="")
    print(f" {'and lse: dq':>8} {'dk':>5} {'ms':>8}")
    for name in options.backend or backends():
        try:
            print(line(name, leaves, upstream), flush=True)
        except (RingAttnBenchError, RuntimeError) as error:
            print(f"{name}: left out, because {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main()
