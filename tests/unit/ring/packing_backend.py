"""A kernel as flash-attn 2's, in float64 on a CPU: by blocks, packed, ALiBi counted by index."""

from itertools import pairwise

import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.contract.tensors import Keys, Sums
from ring_attn_bench.plan.block import Alibi, Block, Form
from ring_attn_bench.plan.positions import Range, Span

_EXACT = ReferenceBackend()


class PackingBackend:
    """Counts its packed launches; segments are attended one by one, as a kernel's programs do."""

    name = "packing"
    forms = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
    alibi = Alibi.INDEX
    needs_delta = True
    worker_environment = {}  # noqa: RUF012 - as backends have it

    def __init__(self):
        self.launches = 0
        self.blocks = 0

    def unsupported(self, problem):
        return None

    def version(self):
        return "of the tests"

    def forward(self, q, keys, block, score):
        self.blocks += 1
        return _EXACT.forward(q, keys, by_index(block), score)

    def backward(self, rows, keys, block, score, *, deterministic):
        return _EXACT.backward(rows, keys, by_index(block), score, deterministic=deterministic)

    def packed_forward(self, q, keys, documents, score):
        self.launches += 1
        out = q.new_full((*q.shape[:2], keys.v.shape[2]), torch.nan)
        lse = q.new_full((q.shape[1], q.shape[0]), torch.nan)
        for rows, of, block in segments(q, keys, documents):
            given = _EXACT.forward(q[None, rows.slice], of_one(keys.part(of)), block, score)
            out[rows.slice], lse[:, rows.slice] = given[0][0], given[1][0]
        return out, lse

    def packed_backward(self, rows, keys, documents, score, *, deterministic):
        sums = Sums(*(torch.full_like(x, torch.nan) for x in (rows.q, *keys)))
        for at, of, block in segments(rows.q, keys, documents):
            share = _EXACT.backward(
                type(rows)(*(x[None] for x in rows.part(at))), of_one(keys.part(of)), block, score,
                deterministic=deterministic,
            )  # fmt: skip
            for total, gradient in zip(sums.part(at, of), share, strict=True):
                total.copy_(gradient[0])
        return sums


class OwnDelta(PackingBackend):
    """As flash-attn's kernels: not told delta, and so not a gradient of lse."""

    name = "packing_own_delta"
    needs_delta = False

    def packed_backward(self, rows, keys, documents, score, *, deterministic):
        assert rows.delta is None
        rows = rows._replace(delta=(rows.dout * rows.out).sum(-1).mT)
        return super().packed_backward(rows, keys, documents, score, deterministic=deterministic)


def segments(q, keys, documents):
    """Rows, keys and the block of each: the last row and the last key at one place."""
    sides = documents.cu_seqlens_q.tolist(), documents.cu_seqlens_k.tolist()
    assert [side[-1] for side in sides] == [len(q), len(keys.k)], "nothing is outside"
    longest = documents.max_seqlen_q, documents.max_seqlen_k
    for (a, b), (c, d) in zip(*map(pairwise, sides), strict=True):
        assert b - a <= longest[0]
        assert d - c <= longest[1]
        block = Block((Span(d - c - (b - a), b - a),), (Span(0, d - c),), documents.mask.band)
        yield Range(a, b), Range(c, d), block


def by_index(block):
    """The block as the kernel sees it, which counts from where the last row meets the last key."""
    rows, keys = block.row_count, block.key_count
    band = block.index_band.shifted(keys - rows)
    return Block((Span(keys - rows, rows),), (Span(0, keys),), band)


def of_one(keys):
    return Keys(*(x[None] for x in keys))
