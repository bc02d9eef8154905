"""Faults that adapters have had, each planted in a sound backend."""

import math
from dataclasses import replace

import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.contract.tensors import Sums
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.block import Alibi, Block, Form
from ring_attn_bench.plan.positions import Band, Span


def with_band(block: Block, band: Band) -> Block:
    return Block(block.rows, block.keys, band)


class SaysThatItRounds(ReferenceBackend):
    """Its gradients are wider than 16 bits, which the wire would then be."""

    rounds_gradients = True

    def backward(self, rows, keys, block, score, *, deterministic):
        shares = super().backward(rows, keys, block, score, deterministic=deterministic)
        return Sums(*(x.to(torch.promote_types(x.dtype, torch.float32)) for x in shares))


class OtherLse(ReferenceBackend):
    """lse is another one."""

    def other(self, lse):
        raise NotImplementedError

    def forward(self, q, keys, block, score):
        out, lse = super().forward(q, keys, block, score)
        return out, self.other(lse)


class Log2Lse(OtherLse):
    def other(self, lse):
        return lse / math.log(2)


class ZeroLse(OtherLse):
    def other(self, lse):
        return torch.zeros_like(lse)


class SixteenBitLse(OtherLse):
    def other(self, lse):
        return lse.to(torch.bfloat16).to(lse.dtype)


class LseInBfloat16(OtherLse):
    def other(self, lse):
        return lse.to(torch.bfloat16)


class TransposedLse(OtherLse):
    def other(self, lse):
        return lse.transpose(1, 2)


class StridedLse(OtherLse):
    """A view of (B, M, H): the ring's merge reads lse by pointer."""

    def other(self, lse):
        return lse.transpose(1, 2).contiguous().transpose(1, 2)


class LargeRowsLost(ReferenceBackend):
    """Rows whose lse is above 20 are 0, in both directions."""

    def forward(self, q, keys, block, score):
        out, lse = super().forward(q, keys, block, score)
        return out.masked_fill((lse > 20).transpose(1, 2)[..., None], 0.0), lse

    def backward(self, rows, *arguments, **options):
        lost = (rows.lse > 20).transpose(1, 2)[..., None]
        dout = rows.dout.masked_fill(lost, 0.0)
        rows = rows._replace(dout=dout, delta=rows.delta.masked_fill(lost[..., 0].mT, 0.0))
        return super().backward(rows, *arguments, **options)


class LargestScoreIsZero(ReferenceBackend):
    """Exponentials are taken of the scores as they are, so that large ones overflow."""

    def forward(self, q, keys, block, score):
        out, lse = super().forward(q, keys, block, score)
        total = torch.exp(lse)
        lost = (~total.isfinite() | (total == 0)).transpose(1, 2)[..., None]
        return out.masked_fill(lost, float("nan")), torch.log(total)


class OtherBlock(ReferenceBackend):
    """Computes another block than the one that it is given."""

    def other(self, block):
        raise NotImplementedError

    def forward(self, q, keys, block, score):
        return super().forward(q, keys, self.other(block), score)

    def backward(self, rows, keys, block, score, **options):
        block = self.other(block)
        return super().backward(rows, keys, block, score, **options)


class IgnoredWindow(OtherBlock):
    def other(self, block):
        return with_band(block, Band(low=block.band.low))


class HalfAWindow(OtherBlock):
    """A window that is only kept where both sides are closed, as flash-attn 2's dense one."""

    def other(self, block):
        closed = block.band.low is not None and block.band.high is not None
        return block if closed or block.band.high is None else with_band(block, Band())


class ZeroIsNoWindow(OtherBlock):
    """A window of size 0 is taken for none."""

    def other(self, block):
        return with_band(block, Band(low=block.band.low)) if block.band.high == 0 else block


class StrictlyCausal(OtherBlock):
    def other(self, block):
        return with_band(block, Band(low=1))


class LateCausal(OtherBlock):
    def other(self, block):
        return with_band(block, Band(low=-1))


class TopLeftCausal(OtherBlock):
    """Causal from the first row and key on, whatever their positions are."""

    def other(self, block):
        if block.form is Form.FULL:
            return block
        rows, keys = Span(0, block.row_count), Span(0, block.key_count)
        return Block((rows,), (keys,), block.band)


class BottomRightCausal(TopLeftCausal):
    """Causal up to the last row and key, whatever their positions are."""

    def other(self, block):
        found = super().other(block)
        if found is block:
            return block
        rows = Span(max(0, block.key_count - block.row_count), block.row_count)
        keys = Span(max(0, block.row_count - block.key_count), block.key_count)
        return Block((rows,), (keys,), block.band)


class OtherScore(ReferenceBackend):
    """Computes another score than the one that it is given."""

    def other(self, score, q):
        raise NotImplementedError

    def forward(self, q, keys, block, score):
        return super().forward(q, keys, block, self.other(score, q))

    def backward(self, rows, keys, block, score, **options):
        score = self.other(score, rows.q)
        return super().backward(rows, keys, block, score, **options)


class DefaultScale(OtherScore):
    def other(self, score, q):
        return replace(score, softmax_scale=q.shape[3] ** -0.5)


class IgnoredSoftcap(OtherScore):
    def other(self, score, q):
        return replace(score, softcap=0.0)


class AlibiOfTheFirstBatchEntry(OtherScore):
    def other(self, score, q):
        slopes = score.alibi_slopes
        by_batch = slopes is not None and slopes.dim() == 2
        return replace(score, alibi_slopes=slopes[0]) if by_batch else score


class AlibiByIndex(ReferenceBackend):
    """Says that it has ALiBi in every form, and counts its distances inside the block."""

    alibi = Alibi.POSITION

    def forward(self, q, keys, block, score):
        return super().forward(q, keys, self._by_index(block, score), score)

    def backward(self, rows, keys, block, score, **options):
        block = self._by_index(block, score)
        return super().backward(rows, keys, block, score, **options)

    def _by_index(self, block, score):
        if score.alibi_slopes is None or block.index_band is None:
            return block
        rows = Span(block.key_count - block.row_count, block.row_count)
        keys = Span(0, block.key_count)
        shift = block.key_count - block.row_count
        return Block((rows,), (keys,), block.index_band.shifted(shift))


class StridesOfContiguous(ReferenceBackend):
    """Reads keys as if they were dense."""

    def forward(self, q, keys, block, score):
        return super().forward(q, keys._replace(k=dense(keys.k)), block, score)

    def backward(self, rows, keys, block, score, **options):
        keys = keys._replace(k=dense(keys.k))
        return super().backward(rows, keys, block, score, **options)


class DoutByPointer(ReferenceBackend):
    """Reads dout as if it were dense."""

    def backward(self, rows, *arguments, **options):
        rows = rows._replace(dout=dense(rows.dout))
        return super().backward(rows, *arguments, **options)


class LseByPointer(ReferenceBackend):
    """Reads lse and delta as if they were dense."""

    def backward(self, rows, keys, block, score, **options):
        rows = rows._replace(lse=dense(rows.lse), delta=dense(rows.delta))
        return super().backward(rows, keys, block, score, **options)


def dense(x):
    """The memory that a kernel reads which takes the first element's address and no strides."""
    return x.as_strided(x.shape, x.new_empty(x.shape, device="meta").stride())


class HeadsInterleaved(ReferenceBackend):
    """Head h reads key head h % G."""

    def forward(self, q, keys, block, score):
        out, lse = super().forward(self._dealt(q, keys.k), keys, block, score)
        return self._gathered(out, keys.k, 2), self._gathered(lse, keys.k, 1)

    def _dealt(self, x, k):
        return x.unflatten(2, (-1, k.shape[2])).transpose(2, 3).flatten(2, 3)

    def _gathered(self, x, k, dim):
        return x.unflatten(dim, (k.shape[2], -1)).transpose(dim, dim + 1).flatten(dim, dim + 1)


class LocalLse(ReferenceBackend):
    """Normalises a block's gradients by the block alone."""

    def backward(self, rows, keys, block, score, **options):
        out, lse = self.forward(rows.q, keys, block, score)
        delta = (rows.dout.to(lse.dtype) * out.to(lse.dtype)).sum(-1).transpose(1, 2)
        rows = rows._replace(out=out, lse=lse, delta=delta)
        return super().backward(rows, keys, block, score, **options)


class MissingDelta(ReferenceBackend):
    def backward(self, rows, keys, block, score, **options):
        rows = rows._replace(delta=torch.zeros_like(rows.delta))
        return super().backward(rows, keys, block, score, **options)


class LastKeyLost(ReferenceBackend):
    """A tile boundary off by one: the last key of the block is never read."""

    def forward(self, q, keys, block, score):
        k = keys.k.clone()
        k[:, -1] = 0
        return super().forward(q, keys._replace(k=k), block, score)


class TailNotWritten(ReferenceBackend):
    """Rows beyond the last whole tile of 64 are left as they are found."""

    def forward(self, q, keys, block, score):
        right, lse = super().forward(q, keys, block, score)
        whole = q.shape[1] // 64 * 64
        out = torch.empty_like(right)
        out[:, :whole] = right[:, :whole]
        return out, lse


class DqAddedToWhatIsThere(ReferenceBackend):
    """dq is summed into memory that nobody has cleared."""

    def backward(self, *arguments, **options):
        dq, dk, dv = super().backward(*arguments, **options)
        return torch.empty_like(dq).add_(dq), dk, dv


class QueriesScaledInPlace(ReferenceBackend):
    def forward(self, q, keys, block, score):
        found = super().forward(q, keys, block, score)
        q.mul_(score.softmax_scale)
        return found


class Unstable(ReferenceBackend):
    """Right, and each time in other bits, by an ulp more or less."""

    calls = 0

    def backward(self, *arguments, **options):
        self.calls += 1
        dq, dk, dv = super().backward(*arguments, **options)
        return dq * (1 + torch.finfo(torch.float32).eps * (self.calls % 4)), dk, dv


class NarrowValues(ReferenceBackend):
    """v's head dim is taken to be q's."""

    def forward(self, q, keys, block, score):
        out, lse = super().forward(q, keys, block, score)
        return out[..., : q.shape[3]], lse


class RefusesWhenCalled(ReferenceBackend):
    """Says nothing, and then will not compute a single key."""

    def forward(self, q, keys, block, score):
        if keys.k.shape[1] == 1:
            raise Unsupported(self.name, "it has no attention over a single key")
        return super().forward(q, keys, block, score)


class Raises(ReferenceBackend):
    def forward(self, q, keys, block, score):
        raise RuntimeError("planted: CUDA error: an illegal memory access was encountered")
