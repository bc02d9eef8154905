"""One call of packed documents on a ring: its inputs and its float64 truth, document by document.

Who holds which token is written down in `truth.positions`, and the truth is `packed_truth`'s: they
share no code with the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ring_attn_bench import RingContext, documents, ring_attn_varlen_func
from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.truth import tolerance
from tests.distributed.pool import Ring
from tests.distributed.truth import positions
from tests.packed_truth import expected

NAMES = ("out", "lse", "dq", "dk", "dv")


@dataclass(frozen=True)
class Packed:
    """A call of every rank, with `tokens` tokens each, of which those behind `starts` are padding.

    beyond: what padding holds, in q, k, v and the gradient of out. uneven: ranks hold no padding.
    used: how many tokens of each document are no padding.
    """

    world_size: int
    starts: tuple[int, ...]
    partition: str = "contiguous"
    tokens: int = 8
    heads: int = 2
    key_heads: int = 2
    dim: int = 8
    dtype: torch.dtype = torch.float64
    backend: str = "reference"
    causal: bool = True
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    alibi: bool = False
    sink: bool = False
    dropout_p: float = 0.0
    beyond: float = float("nan")
    uneven: bool = False
    used: tuple[int, ...] | None = None

    @property
    def options(self) -> dict[str, object]:
        """What the truth is told too."""
        slopes = 0.5 ** torch.arange(1.0, self.heads + 1) if self.alibi else None
        return {
            "causal": self.causal,
            "window_size": self.window,
            "softcap": self.softcap,
            "alibi_slopes": slopes,
        }

    @property
    def sinks(self) -> Tensor | None:
        return torch.arange(self.heads, dtype=torch.float64) - 1 if self.sink else None

    @property
    def batch(self) -> DealtDocuments:
        """The value that a data loader deals by."""
        whole = None if self.uneven else self.tokens * self.world_size
        return documents(
            self.starts, self.partition, self.world_size, whole,
            causal=self.causal, uneven=self.uneven, seqused=self.used,
        )  # fmt: skip

    @property
    def ends(self) -> list[int]:
        """Where what is used of each document ends."""
        if self.used is None:
            return list(self.starts[1:])
        return [start + used for start, used in zip(self.starts, self.used, strict=False)]

    def inputs(self) -> list[Tensor]:
        """q, k, v and the gradient of out, over the whole packed sequence."""
        generator = torch.Generator().manual_seed(len(self.starts))
        whole = self.tokens * self.world_size
        made = []
        for heads in (self.heads, self.key_heads, self.key_heads, self.heads):
            x = torch.randn(whole, heads, self.dim, generator=generator, dtype=torch.float64)
            x = x.to(self.dtype)
            x[self.starts[-1] :] = self.beyond
            for used, stop in zip(self.ends, self.starts[1:], strict=True):
                x[used:stop] = self.beyond
            made.append(x)
        return made

    def order(self, rank: int) -> Tensor:
        """Where rank's tokens are in the packed sequence."""
        whole = self.tokens * self.world_size
        if self.partition in DEALS:
            spans = self.batch.spans(rank)
            held = torch.tensor([at for span in spans for at in span.positions()])
            return held[: self.batch.held(rank)]
        held = positions(self.partition, rank, self.world_size, whole)
        return held[held < self.starts[-1]] if self.uneven else held


def attend(ring: Ring, case: Packed, context: RingContext | None = None) -> dict[str, Tensor]:
    """A rank's results of the public function, with gradients."""
    *leaves, dout = (x[case.order(ring.rank)].clone() for x in case.inputs())
    leaves = [x.requires_grad_() for x in leaves]
    sink = case.sinks.to(case.dtype).requires_grad_() if case.sink else None
    told: dict[str, object] = {"cu_seqlens": case.batch}
    if case.partition not in DEALS and not case.uneven and case.used is None:
        starts = torch.tensor(case.starts, dtype=torch.int32)
        told = {"cu_seqlens": starts, "partition": case.partition}
    out, lse, nothing = ring_attn_varlen_func(
        *leaves, **told, group=ring.group, context=context, backend=case.backend,
        return_attn_probs=True, sink=sink, dropout_p=case.dropout_p, dropout_seed=7,
        **case.options,
    )  # fmt: skip
    assert nothing is None
    wanted = leaves if sink is None else [*leaves, sink]
    gradients = torch.autograd.grad(out, wanted, dout)
    found = {"out": out.detach(), "lse": lse.detach()}
    return found | dict(zip(("dq", "dk", "dv", "dsink"), gradients, strict=False))


def joined(case: Packed, ranks: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The ranks' results as those of the packed sequence, as it is dealt."""
    order = torch.cat([case.order(rank) for rank in range(case.world_size)]).argsort()
    whole = {}
    for name in ranks[0]:
        if name == "dsink":
            whole[name] = torch.stack([results[name] for results in ranks]).sum(0)
            continue
        dim = 1 if name == "lse" else 0
        tokens = torch.cat([results[name] for results in ranks], dim)
        whole[name] = tokens.index_select(dim, order)
    return whole


def truth(case: Packed) -> dict[str, Tensor]:
    """In float64, each document by itself; nothing in padding, if there is any."""
    apart = [(slice(a, b),) * 2 for a, b in zip(case.starts, case.ends, strict=False)]
    found = expected(*case.inputs(), apart, sink=case.sinks, **case.options)
    if not case.uneven:
        return found
    end = case.starts[-1]
    return {
        name: x if name == "dsink" else x[:, :end] if name == "lse" else x[:end]
        for name, x in found.items()
    }


def plain(case: Packed) -> dict[str, Tensor]:
    """What plain PyTorch makes of it in the case's dtype: the yardstick of the tolerance."""
    narrow = replace(case, beyond=0.0)
    leaves = [x.requires_grad_() for x in narrow.inputs()[:3]]
    dout = narrow.inputs()[3]
    found = {
        "out": torch.zeros_like(dout),
        "lse": torch.full((case.heads, len(dout)), float("-inf")),
    }
    for a, b in pairwise(case.starts):
        q, k, v = (x[a:b].float().transpose(0, 1) for x in leaves)
        k, v = (x.repeat_interleave(case.heads // case.key_heads, 0) for x in (k, v))
        scores = q @ k.transpose(1, 2) * case.dim**-0.5
        if case.causal:
            hidden = torch.ones(b - a, b - a, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        found["lse"][:, a:b] = scores.logsumexp(-1).detach()
        p = scores.softmax(-1).to(case.dtype)
        found["out"][a:b] = (p @ v.to(case.dtype)).transpose(0, 1)
    gradients = torch.autograd.grad(found["out"], leaves, dout)
    found["out"] = found["out"].detach()
    return found | dict(zip(("dq", "dk", "dv"), gradients, strict=True))


def faults(case: Packed, ranks: Sequence[dict[str, Tensor]]) -> list[str]:
    """What is wrong with the ranks' results, in sentences: float64 to 1e-12, others by `plain`."""
    found, exact, results = [], truth(case), joined(case, ranks)
    yardstick = None if case.dtype is torch.float64 else plain(case)
    for name, right in exact.items():
        result = results[name]
        nowhere = right.isneginf()
        if not torch.equal(result.isneginf(), nowhere):
            found.append(f"{name} is -inf elsewhere")
            continue
        pair = result.masked_fill(nowhere, 0.0), right.masked_fill(nowhere, 0.0)
        error = tolerance.error(*pair)
        if yardstick is None:
            if not error.max_abs < 1e-12:
                found.append(f"{name} is out by {error}")
            continue
        plainly = yardstick[name].masked_fill(nowhere, 0.0)
        allowed = tolerance.bounds(
            name, case.dtype, tolerance.error(plainly, pair[1]), tolerance.size(pair[1])
        )
        if not error.within(allowed):
            found.append(f"{name} is out by {error}; allowed are {allowed}")
    return found
