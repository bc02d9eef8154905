"""Faults of dropout, packed documents and accumulators, each planted in a sound backend."""

from dataclasses import replace

import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.one_device.one_by_one import OneByOne
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.gathered import OWN
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.ring.merge import merge
from tests.unit.conformance.faulty_adapters import OtherBlock, OtherScore


class OnlyOneDropout(OtherScore):
    """Drops nothing in backward."""

    def forward(self, q, keys, block, score):
        return ReferenceBackend.forward(self, q, keys, block, score)

    def other(self, score, q):
        return replace(score, dropout_p=0.0)


class DropoutOfOtherCalls(OtherScore):
    """Counts calls, where a seed is given."""

    calls = 0

    def other(self, score, q):
        self.calls += 1
        return replace(score, dropout_seed=score.dropout_seed + self.calls)


class DropoutOfOneSeed(OtherScore):
    def other(self, score, q):
        return replace(score, dropout_seed=7)


class DropoutUnscaled(ReferenceBackend):
    """What is kept is not divided by 1 - p."""

    def forward(self, q, keys, block, score):
        out, lse = super().forward(q, keys, block, score)
        return out * (1 - score.dropout_p), lse


class DropoutOfTheFirstHead(ReferenceBackend):
    """Every head and batch entry drops what the first drops."""

    def forward(self, q, keys, block, score):
        heads = [
            super(DropoutOfTheFirstHead, self).forward(
                q[b : b + 1, :, h : h + 1], Keys(*(x[b : b + 1, :, g : g + 1] for x in keys)),
                block, score,
            )
            for b in range(q.shape[0])
            for h in range(q.shape[2])
            for g in [h * keys.k.shape[2] // q.shape[2]]
        ]  # fmt: skip
        shape = (q.shape[0], q.shape[2])
        out = torch.stack([o[0, :, 0] for o, _ in heads]).unflatten(0, shape).transpose(1, 2)
        return out, torch.stack([lse[0, 0] for _, lse in heads]).unflatten(0, shape)


class DropoutOfOneBlock(OtherBlock):
    """Weights are dropped by their indices inside the block."""

    def other(self, block):
        rows, keys = Span(0, block.row_count), Span(0, block.key_count)
        band = block.index_band
        return block if band is None else Block((rows,), (keys,), band)


class DropoutOfItsOwn(OtherScore):
    """Sound, but for saying that it drops by position."""

    def other(self, score, q):
        return replace(score, dropout_seed=score.dropout_seed + 1)


class DropoutTooOften(OtherScore):
    def other(self, score, q):
        return replace(score, dropout_p=score.dropout_p * 1.3)


class Accumulating(ReferenceBackend):
    """A sound one, that adds its blocks to what is there."""

    def forward_into(self, q, keys, running, block, score, *, first):
        out, lse = self.forward(q, keys, block, score)
        if first:
            running.result.copy_(out)
            running.lse.copy_(lse)
        else:
            merge(running.out, running.lse, out, lse, running.target)

    def backward_into(self, rows, keys, sums, block, score, *, first, first_keys, deterministic):
        shares = self.backward(rows, keys, block, score, deterministic=deterministic)
        starts = (first, first_keys, first_keys)
        for total, share, begins in zip(sums, shares, starts, strict=True):
            total.copy_(share) if begins else total.add_(share)


class NeverFirst(Accumulating):
    """Adds to what was never written."""

    def backward_into(self, *arguments, first, first_keys, **options):
        super().backward_into(*arguments, first=False, first_keys=first_keys, **options)


class KeysAlwaysFirst(Accumulating):
    """Overwrites what other rows gave to the keys."""

    def backward_into(self, *arguments, first, first_keys, **options):
        super().backward_into(*arguments, first=first, first_keys=True, **options)


class ForgetsTheTarget(Accumulating):
    """Leaves the merged out where it was merged."""

    def forward_into(self, q, keys, running, block, score, *, first):
        super().forward_into(q, keys, running._replace(target=None), block, score, first=first)


class ReplacesLse(Accumulating):
    """The merged lse is the last block's."""

    def forward_into(self, q, keys, running, block, score, *, first):
        super().forward_into(q, keys, running, block, score, first=first)
        running.lse.copy_(self.forward(q, keys, block, score)[1])


class Packed(Accumulating):
    """A sound one, that takes packed documents too."""

    def packed_forward(self, *arguments):
        return OneByOne(self).packed_forward(*arguments)

    def packed_backward(self, *arguments, **options):
        return OneByOne(self).packed_backward(*arguments, **options)


class PackedAsOne(Packed):
    """Queries see the keys of every document."""

    def packed_forward(self, q, keys, documents, score):
        return super().packed_forward(q, keys, self._joined(documents), score)

    def packed_backward(self, rows, keys, documents, score, **options):
        documents = self._joined(documents)
        return super().packed_backward(rows, keys, documents, score, **options)

    def _joined(self, documents):
        starts = documents.cu_seqlens_q, documents.cu_seqlens_k
        ends = [x[[0, -1]] for x in starts]
        return replace(
            documents, cu_seqlens_q=ends[0], cu_seqlens_k=ends[1],
            max_seqlen_q=int(ends[0][1]), max_seqlen_k=int(ends[1][1]),
        )  # fmt: skip


class PackedWithStaleEmptyRows(Packed):
    """A document without keys leaves its rows as they were."""

    def packed_forward(self, q, keys, documents, score):
        out, lse = super().packed_forward(q, keys, documents, score)
        seen = lse.isfinite().all(0)
        return torch.where(seen[:, None, None], out, torch.empty_like(out)), lse


class AnyDocument(ReferenceBackend):
    """On a ring a query sees keys of whatever document its launch sees."""

    def gathered_forward(self, q, keys, where, score):
        every = tuple(dict.fromkeys(visit for line in where.rows for visit in line.visits))
        rows = tuple(replace(line, visits=every) for line in where.rows)
        return super().gathered_forward(q, keys, replace(where, rows=rows), score)


class OwnRankAlone(ReferenceBackend):
    """On a ring a query sees those of its document's keys that its own rank holds."""

    def gathered_forward(self, q, keys, where, score):
        rows = tuple(
            replace(line, visits=tuple(x for x in line.visits if x.piece == OWN))
            for line in where.rows
        )
        return super().gathered_forward(q, keys, replace(where, rows=rows), score)
