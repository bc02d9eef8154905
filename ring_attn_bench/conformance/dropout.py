"""The truth of dropout: which weights a backend keeps is read off its own results.

With v = one key's unit vectors at a time, out is the matrix of dropped probabilities itself. What
is not 0 there was kept. That needs what the contract promises anyway: one seed, block and shape
give one mask, whatever v holds, each time. A backend whose mask is another is wrong.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ring_attn_bench.conformance import blocks
from ring_attn_bench.conformance.cases import BlockCase
from ring_attn_bench.contract import dropout
from ring_attn_bench.contract.backend import Backend, drops_by_position
from ring_attn_bench.plan.positions import Spans
from ring_attn_bench.truth import oracle

SIGMAS = 5.0
"""By how many standard deviations the share of kept weights may miss 1 - p."""


def kept(backend: Backend, case: BlockCase, device: str) -> Tensor:
    """(B, H, M, N): the weights that the backend keeps; False where a row does not see a key."""
    data, width = blocks.inputs(case, device), case.head_dim_v
    parts = blocks.parts(backend, case)
    assert not isinstance(parts, str)  # was asked before
    keys = data.k.shape[1]
    shape = case.batch, case.heads, data.q.shape[1], keys
    kept = torch.zeros(shape, dtype=torch.bool, device=device)
    for start in range(0, keys, width):
        inside = min(width, keys - start)
        units = torch.zeros_like(data.v)
        units[:, start : start + inside, :, :inside] = torch.eye(inside, device=device)[:, None].to(
            units
        )
        out = blocks.forward(backend, case, replace(data, v=units), parts)["out"]
        kept[..., start : start + inside] = (out != 0).transpose(1, 2)[..., :inside]
    return kept


def mask_faults(backend: Backend, case: BlockCase, device: str, keep: Tensor) -> list[str]:
    """What is wrong with the weights that are kept, whatever comes of them."""
    seen, wrong = _allowed(case, device), []
    first = keep[..., seen]
    if not torch.equal(first, kept(backend, case, device)[..., seen]):
        return ["it drops other weights when it is called again with the same seed"]
    count, share, wanted = first.numel(), first.double().mean().item(), 1 - case.dropout_p
    sigma = (wanted * case.dropout_p / count) ** 0.5
    if abs(share - wanted) > SIGMAS * sigma:
        wrong.append(
            f"it keeps {share:.4f} of {count} weights, not {wanted:g} "
            f"({abs(share - wanted) / sigma:.0f} standard deviations away)"
        )
    if torch.equal(
        first, kept(backend, replace(case, dropout_seed=case.dropout_seed - 1), device)[..., seen]
    ):
        wrong.append("it drops the same weights with another seed")
    if torch.equal(first, kept(backend, _elsewhere(case), device)[..., seen]):
        wrong.append("it drops the same weights in another block")
    heads = first.flatten(0, 1)
    if len(heads.unique(dim=0)) < len(heads):
        wrong.append("it drops the same weights in several heads or batch entries")
    if drops_by_position(backend) and (first & ~_by_position(case, device)[..., seen]).any():
        wrong.append("it keeps weights that dropout by position drops, and says it drops so")
    return wrong


def _by_position(case: BlockCase, device: str) -> Tensor:
    """(B, H, M, N): what a backend keeps that drops by position."""
    where = blocks.positions(case, device)
    return dropout.keep(case.dropout_seed, case.dropout_p, case.batch, case.heads, *where)


def _elsewhere(case: BlockCase) -> BlockCase:
    """The same block further on in the sequence: another rank's."""
    further = 4 * max(span.last for span in case.rows + case.keys)

    def moved(spans: Spans) -> Spans:
        return tuple(replace(span, start=span.start + further) for span in spans)

    return replace(case, rows=moved(case.rows), keys=moved(case.keys))


def _allowed(case: BlockCase, device: str) -> Tensor:
    """(M, N): the keys that a row sees."""
    (rows, keys), band = blocks.positions(case, device), case.mask.band
    return oracle.allowed_at(rows[:, None] - keys[None, :], band)
