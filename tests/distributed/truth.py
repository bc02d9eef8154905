"""One attention call over a whole sequence: its inputs, its ring and its float64 truth.

The truth is dense and differentiated by autograd, and who holds which token is written down here
once more: it shares no code with the library but the yardstick of plain PyTorch's error, and which
weights dropout keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import ring_attn_bench
from ring_attn_bench import RingContext
from ring_attn_bench.contract import dropout
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.truth import oracle, tolerance
from tests.distributed.pool import Ring

PREFIXES = {"contiguous": "ring", "zigzag": "zigzag_ring", "striped": "stripe"}
FORMS = {"separate": "", "kvpacked": "kvpacked_", "qkvpacked": "qkvpacked_"}
SEED = 2**62 + 11
"""Of dropout."""


@dataclass(frozen=True)
class Case:
    """A call of every rank, with `tokens` tokens each.

    slope: ALiBi's of the first head, each other head's is half of the one before. Steep ones leave
    nothing of a key that is far away, and then hide where a window ends.
    """

    world_size: int
    partition: str = "contiguous"
    tokens: int = 6
    form: str = "separate"
    batch: int = 1
    heads: int = 2
    key_heads: int = 2
    dim: int = 8
    dtype: torch.dtype = torch.float64
    backend: str = "reference"
    causal: bool = True
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    alibi: bool = False
    scale: float | None = None
    seed: int = 0
    sink: bool = False
    dropout_p: float = 0.0
    slope: float = 0.5
    device: str = "cpu"

    @property
    def function(self) -> str:
        """The public function of the partition and form."""
        return f"{PREFIXES[self.partition]}_flash_attn_{FORMS[self.form]}func"

    @property
    def slopes(self) -> Tensor | None:
        if not self.alibi:
            return None
        return self.slope * 0.5 ** torch.arange(float(self.heads), device=self.device)

    @property
    def sinks(self) -> Tensor | None:
        if not self.sink:
            return None
        return torch.arange(self.heads, dtype=torch.float64, device=self.device) - 1

    @property
    def options(self) -> dict[str, object]:
        """The keywords of the call."""
        return {
            "softmax_scale": self.scale,
            "causal": self.causal,
            "window_size": self.window,
            "alibi_slopes": self.slopes,
            "softcap": self.softcap,
            "dropout_p": self.dropout_p,
            "dropout_seed": SEED if self.dropout_p else None,
            "backend": self.backend,
        }


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and the gradient of out, over the whole sequence; the same on every device."""
    generator = torch.Generator().manual_seed(case.seed)
    seqlen = case.tokens * case.world_size
    heads = (case.heads, case.key_heads, case.key_heads, case.heads)
    q, k, v, dout = (
        torch.randn(
            case.batch, seqlen, count, case.dim, generator=generator, dtype=torch.float64
        ).to(case.device, case.dtype)
        for count in heads
    )
    return q, k, v, dout


def positions(partition: str, rank: int, world_size: int, seqlen: int) -> Tensor:
    """Where the tokens of a rank are in the whole sequence."""
    everything = torch.arange(seqlen)
    if partition == "contiguous":
        return everything.chunk(world_size)[rank]
    if partition == "striped":
        return everything[rank::world_size]
    chunks = everything.chunk(2 * world_size)
    return torch.cat([chunks[rank], chunks[2 * world_size - 1 - rank]])


def shards(case: Case, rank: int) -> list[Tensor]:
    """A rank's q, k, v and gradient of out."""
    own = positions(case.partition, rank, case.world_size, case.tokens * case.world_size)
    return [x[:, own.to(x.device)].clone() for x in inputs(case)]


def packed(form: str, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """The tensors that a function of that form takes."""
    if form == "separate":
        return [q, k, v]
    return [q, torch.stack([k, v], 2)] if form == "kvpacked" else [torch.stack([q, k, v], 2)]


def attend(ring: Ring, case: Case, context: RingContext | None = None) -> dict[str, Tensor]:
    """A rank's results of the public function, with gradients."""
    q, k, v, dout = shards(case, ring.rank)
    leaves = [x.requires_grad_() for x in packed(case.form, q, k, v)]
    sink = case.sinks.to(dout.dtype).requires_grad_() if case.sinks is not None else None
    out, lse, nothing = getattr(ring_attn_bench, case.function)(
        *leaves, return_attn_probs=True, group=ring.group, context=context, sink=sink,
        **case.options,
    )  # fmt: skip
    assert nothing is None
    *grads, dsink = (
        *torch.autograd.grad(out, leaves, dout, retain_graph=True),
        None if sink is None else torch.autograd.grad(out, sink, dout)[0],
    )
    dq, dk, dv = [part for g in grads for part in (g.unbind(2) if g.dim() == 5 else (g,))]
    results = {"out": out.detach(), "lse": lse.detach(), "dq": dq, "dk": dk, "dv": dv}
    results |= {} if dsink is None else {"dsink": dsink}
    return {name: x.cpu() for name, x in results.items()}


def truth(case: Case) -> dict[str, Tensor]:
    """The results over the whole sequence, in float64."""
    q, k, v, dout = (x.double() for x in inputs(case))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    group = case.heads // case.key_heads
    keys, values = (x.repeat_interleave(group, 2) for x in (k, v))
    s = torch.einsum("bihd,bjhd->bhij", q, keys) * (case.scale or case.dim**-0.5)
    if case.softcap:
        s = case.softcap * torch.tanh(s / case.softcap)
    at = torch.arange(q.shape[1], device=case.device)
    distance = at[:, None] - at[None, :]
    if case.slopes is not None:
        s = s - case.slopes.double()[:, None, None] * distance.abs()
    left, right = case.window
    hidden = (distance < 0) & case.causal
    hidden |= (distance > left) & (left >= 0)
    hidden |= (distance < -right) & (right >= 0)
    s = s.masked_fill(hidden, float("-inf"))
    sinks = case.sinks
    if sinks is not None:
        sinks.requires_grad_()
        column = sinks[None, :, None, None].expand(*s.shape[:3], 1)
        s = torch.cat([s, column], -1)
        values = torch.cat([values, torch.zeros_like(values[:, :1])], 1)
        leaves.append(sinks)
    p, keep = s.softmax(-1), kept(case)
    if keep is not None:
        p = torch.where(keep, p / (1 - case.dropout_p), 0.0)
    out = torch.einsum("bhij,bjhd->bihd", p, values)
    names = ("dq", "dk", "dv", "dsink")
    grads = dict(zip(names, torch.autograd.grad(out, leaves, dout), strict=False))
    return {"out": out.detach(), "lse": s.logsumexp(-1).detach()} | grads


def kept(case: Case) -> Tensor | None:
    """Which weights stay, (B, H, S, S), where some are dropped."""
    if not case.dropout_p:
        return None
    at = torch.arange(case.tokens * case.world_size, device=case.device)
    return dropout.keep(SEED, case.dropout_p, case.batch, case.heads, at, at)


def plain(case: Case) -> dict[str, Tensor]:
    """What plain PyTorch makes of it in the case's dtype: the yardstick of the tolerance."""
    q, k, v, dout = inputs(case)
    at = torch.arange(q.shape[1], device=case.device)
    scale = case.scale or case.dim**-0.5
    score = Score(scale, case.softcap, case.slopes, case.dropout_p, SEED)
    asked = oracle.Inquiry(
        at, at, Mask.from_window_size(case.causal, case.window), score, kept(case),
        tolerance.baseline_arithmetic(case.dtype),
    )  # fmt: skip
    out, lse = oracle.forward(q, k, v, asked)
    grads = oracle.backward(dout, q, k, v, out, lse, asked)
    found = {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), grads, strict=True))
    if case.sinks is not None:  # whose share of a row is what its keys' shares leave
        sink = case.sinks.to(lse.dtype)[:, None]
        share = torch.exp(sink - torch.logaddexp(lse, sink))
        delta = (dout * out).sum(-1).transpose(1, 2) * (1 - share)
        found["dsink"] = -(share * delta).sum((0, 2)).to(case.dtype)
    return found


def joined(case: Case, ranks: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The ranks' results as those of the whole sequence."""
    seqlen, world = case.tokens * case.world_size, case.world_size
    order = torch.cat([positions(case.partition, r, world, seqlen) for r in range(world)])
    whole = {}
    for name in ranks[0]:
        if name == "dsink":
            whole[name] = torch.stack([results[name] for results in ranks]).sum(0)
            continue
        dim = 2 if name == "lse" else 1
        tokens = torch.cat([results[name] for results in ranks], dim)
        whole[name] = tokens.index_select(dim, order.argsort())
    return whole


def faults(case: Case, ranks: Sequence[dict[str, Tensor]]) -> list[str]:
    """What is wrong with the ranks' results, in sentences."""
    found = []
    exact, yardstick, results = truth(case), plain(case), joined(case, ranks)
    for name, right in exact.items():
        result = results[name].to(right.device)
        wide = torch.promote_types(case.dtype, torch.float32)
        dtype = wide if name == "lse" else case.dtype
        if result.dtype is not dtype or result.shape != right.shape:
            found.append(f"{name} is {result.dtype} of shape {tuple(result.shape)}")
            continue
        kind = "dq" if name == "dsink" else name  # a gradient like any other
        allowed = tolerance.bounds(
            kind, case.dtype, tolerance.error(yardstick[name], right), tolerance.size(right)
        )
        error = tolerance.error(result, right)
        if not error.within(allowed):
            found.append(f"{name} is out by {error}; allowed are {allowed}")
        if case.dtype is torch.float64 and error.max_abs >= 1e-12:
            found.append(f"{name} is out by {error} in float64")
    return found
