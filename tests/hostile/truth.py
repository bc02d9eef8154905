"""Attention and its gradients in float64, and how far from them a right answer may be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROOM = 8.0
"""Roundings to the inputs' dtype on the way to any result, each of half an ulp, twice over."""
LSE_SHARE = 1 / 8
"""An lse error d scales a row by 1 + d: so much of an ulp stays invisible."""
FARTHEST = 1e4
"""Scores beyond say nothing about a kernel: float32 holds them to a thousandth."""


@dataclass(frozen=True)
class Answer:
    """Results by name, and the same sums of their terms' sizes: what rounding is relative to.

    depth: how much the largest score (of the terms' sizes), lse and head dim multiply the rounding
        of sums.
    grain: the sum of the largest factors of weights and of their gradients, which may be smaller
        than the smallest numbers and then are 0.
    """

    results: dict[str, Tensor]
    sizes: dict[str, Tensor]
    depth: float
    grain: float

    def fault(self, name: str, found: Tensor, dtype: torch.dtype) -> str | None:
        """What is wrong with a result of inputs of that dtype, or None."""
        right, size = self.results[name], self.sizes[name]
        if name == "dsink":  # in its own dtype
            dtype = torch.float32 if dtype is torch.float64 else dtype
            dtype = found.dtype if found.dtype.itemsize < dtype.itemsize else dtype
        wide = torch.promote_types(dtype, torch.float32)
        if found.shape != right.shape:
            return f"{name} has shape {tuple(found.shape)}, not {tuple(right.shape)}"
        if found.dtype != (wanted := wide if name == "lse" else dtype) and name != "dsink":
            return f"{name} is {found.dtype}, not {wanted}"
        fine = (LSE_SHARE if name == "lse" else ROOM) * torch.finfo(dtype).eps
        bound = (fine + self.depth * torch.finfo(wide).eps) * size
        smallest = 2.0**-24 if dtype is torch.float16 else torch.finfo(wide).tiny
        bound += smallest * self.grain
        found = found.detach().to(right.device, torch.float64)
        off = ~((found - right).abs() <= bound) & (found != right)
        off &= right.abs() + bound < torch.finfo(dtype).max  # else infinity is right
        if not off.any():
            return None
        at = tuple(off.nonzero()[0].tolist())
        return f"{name}{list(at)} is {found[at].item():.8g}, not {right[at].item():.8g}"


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
    dlse: Tensor,
    *,
    scale: float,
    causal: bool,
    window: tuple[int, int],
    softcap: float,
    slopes: Tensor | None,
    sink: Tensor | None,
    keep: Tensor | None,
    dropout_p: float,
) -> Answer:
    """Of q, dout (B, M, H, .), k, v (B, N, G, .) and dlse (B, H, M), all in float64.

    The last query is at the last key. slopes (H,) or (B, H), sink (H,), keep (B, H, M, N).
    """
    (rows, heads), (keys, groups) = q.shape[1:3], k.shape[1:3]
    q, k, v, dout = (x.transpose(1, 2) for x in (q, k, v, dout))
    k, v = (x.repeat_interleave(heads // groups, 1) for x in (k, v))
    products = scale * q @ k.mT
    s, slope = products, torch.ones_like(products)
    if softcap:
        tanh = torch.tanh(products / softcap)
        s, slope = softcap * tanh, 1 - tanh**2
    distance = torch.arange(rows)[:, None] + keys - rows - torch.arange(keys)
    if slopes is not None:
        s = s - slopes.reshape(-1, heads, 1, 1) * distance.abs()
    left, right = (min(max(side, -1), rows + keys) for side in window)
    hidden = (distance < 0) & causal
    hidden |= (distance > left) & (left >= 0)
    hidden |= (distance < -right) & (right >= 0)
    thick_products = abs(scale) * q.abs() @ k.abs().mT
    reach = max((x.abs().max().item() for x in (thick_products, s) if x.numel()), default=0.0)
    s = s.masked_fill(hidden, float("-inf"))
    whole = s if sink is None else torch.cat([s, sink[:, None, None].expand(*s.shape[:3], 1)], -1)
    lse = whole.logsumexp(-1) if whole.shape[-1] else s.new_full(s.shape[:3], float("-inf"))
    seen = ~lse.isneginf()
    safe, dlse = lse.where(seen, 0.0)[..., None], dlse.where(seen, 0.0)
    p = torch.exp(s - safe)
    kept = torch.ones_like(p) if keep is None else keep.double() / (1 - dropout_p)
    weights = p * kept
    out, thick = weights @ v, weights @ v.abs()
    delta = (dout * out).sum(-1, keepdim=True)
    ds = p * ((dout @ v.mT) * kept - delta + dlse[..., None]) * slope * scale
    thick_delta = (dout.abs() * thick).sum(-1, keepdim=True)
    terms = (dout.abs() @ v.abs().mT) * kept + thick_delta
    size = p * (terms + dlse.abs()[..., None]) * abs(scale)
    largest = lse.where(seen, 0.0).abs().amax().item() if lse.numel() else 0.0
    results = {
        "out": out.transpose(1, 2),
        "lse": lse,
        "dq": (ds @ k).transpose(1, 2),
        "dk": _of_groups(ds.mT @ q, groups),
        "dv": _of_groups(weights.mT @ dout, groups),
    }
    sizes = {
        "out": thick.transpose(1, 2),
        "lse": torch.ones_like(lse),
        "dq": (size @ k.abs()).transpose(1, 2),
        "dk": _of_groups(size.mT @ q.abs(), groups),
        "dv": _of_groups(weights.mT @ dout.abs(), groups),
    }
    if sink is not None:
        share = torch.exp(sink[:, None] - safe[..., 0]).where(seen, 0.0)
        results["dsink"] = -(share * (delta[..., 0] - dlse)).sum((0, 2))
        sizes["dsink"] = (share * (thick_delta[..., 0] + dlse.abs())).sum((0, 2))
    factor = max((x.abs().max().item() for x in (q, k, v, dout) if x.numel()), default=0.0)
    grain = 16 + (heads * rows + keys) * factor * max(1.0, abs(scale))
    return Answer(results, sizes, 16 + q.shape[-1] + 8 * (reach + largest), grain)


def _of_groups(x: Tensor, groups: int) -> Tensor:
    """(B, N, G, .), summed over the query heads of each group."""
    return x.unflatten(1, (groups, -1)).sum(2).transpose(1, 2)


def packed(
    answers: list[Answer],
    documents: list[tuple[slice, slice]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
) -> Answer:
    """Answers of documents as one: (T, H, .), and lse (H, T).

    Of q, k, v (T, H, .). documents: where each answer's rows and its keys are. The tokens of none
    have 0, and an lse of -inf.
    """
    empty = {
        "out": q.new_zeros(*q.shape[:2], v.shape[-1]),
        "lse": q.new_full((q.shape[1], q.shape[0]), float("-inf")),
        **{f"d{name}": torch.zeros_like(x) for name, x in zip("qkv", (q, k, v), strict=True)},
    }
    results = {name: x.clone() for name, x in empty.items()}
    sizes = {name: torch.zeros_like(x) for name, x in empty.items()}
    for answer, (rows, keys) in zip(answers, documents, strict=True):
        for name in empty:
            at = keys if name in ("dk", "dv") else rows
            for all_tokens, part in ((results, answer.results), (sizes, answer.sizes)):
                if name == "lse":
                    all_tokens[name][:, at] = part[name][0]
                else:
                    all_tokens[name][at] = part[name][0]
    if any("dsink" in answer.results for answer in answers):
        results["dsink"] = torch.stack([answer.results["dsink"] for answer in answers]).sum(0)
        sizes["dsink"] = torch.stack([answer.sizes["dsink"] for answer in answers]).sum(0)
    depth = max((answer.depth for answer in answers), default=1.0)
    return Answer(results, sizes, depth, max((answer.grain for answer in answers), default=1.0))
