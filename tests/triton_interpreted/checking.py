"""Blocks for the kernels, interpreted or on a GPU, and the one way in which numbers are judged."""

from dataclasses import dataclass

import torch
from ring_attn_backends.reference import ReferenceBackend, allowed
from ring_attn_backends.triton import TritonBackend

from ring_attn_bench.contract.dropout import keep
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Score

BACKEND = TritonBackend()
REFERENCE = ReferenceBackend()
NAMES = ("out", "dq", "dk", "dv")
DTYPES = (torch.float32, torch.float16)
OPEN = Band()
CAUSAL = Band(low=0)


@dataclass(frozen=True)
class Case:
    """One block and how it is scored; the tiles are at most 128 x 128, so 260 has whole ones.

    rows, keys: how many from position 0 on, or spans.
    """

    rows: int | tuple[Span, ...] = 130
    keys: int | tuple[Span, ...] = 130
    batch: int = 1
    heads: int = 2
    groups: int = 2
    head_dim: int = 64
    head_dim_v: int | None = None
    band: Band = OPEN
    softcap: float = 0.0
    softmax_scale: float | None = None
    alibi: bool = False
    dropout_p: float = 0.0
    seed: int = 2**40 + 3
    device: str = "cpu"

    @property
    def block(self):
        spans = [(Span(0, x),) if isinstance(x, int) else x for x in (self.rows, self.keys)]
        return Block(*spans, self.band)

    @property
    def score(self):
        scale = self.head_dim**-0.5 if self.softmax_scale is None else self.softmax_scale
        slopes = None
        if self.alibi:  # of one row for all batch entries where there is one entry
            slopes = 0.4 ** torch.arange(1.0, 1 + self.batch * self.heads)
            slopes = slopes.view(self.batch, self.heads) if self.batch > 1 else slopes
            slopes = slopes.to(self.device)
        return Score(scale, self.softcap, slopes, self.dropout_p, self.seed)

    def tensors(self, dtype, seed=0):
        """q, k, v, dout."""
        random = torch.Generator().manual_seed(seed)
        rows, keys = self.block.row_count, self.block.key_count
        width = self.head_dim_v or self.head_dim
        shapes = (
            (self.batch, rows, self.heads, self.head_dim),
            (self.batch, keys, self.groups, self.head_dim),
            (self.batch, keys, self.groups, width),
            (self.batch, rows, self.heads, width),
        )
        return [torch.randn(shape, generator=random).to(self.device, dtype) for shape in shapes]


def computed(backend, case, q, k, v, dout, lse=None, delta=None):
    """out, lse, dq, dk, dv, with this row's lse and delta or the block's own."""
    out, own_lse = backend.forward(q, Keys(k, v), case.block, case.score)
    lse = own_lse if lse is None else lse
    delta = row_sum(dout, out, lse.dtype) if delta is None else delta
    gradients = backend.backward(
        Rows(q, dout, out, lse, delta), Keys(k, v), case.block, case.score, deterministic=False
    )
    return out, own_lse, *gradients


def row_sum(dout, out, dtype):
    return (dout.to(dtype) * out.to(dtype)).sum(-1).transpose(1, 2).contiguous()


def wide(tensors):
    return [tensor.double() for tensor in tensors]


def positions(spans):
    return torch.tensor([at for span in spans for at in span.positions()], dtype=torch.int64)


def plain_torch(case, q, k, v, dout):
    """out, dq, dk, dv as plain torch has them in the inputs' dtype, by autograd."""
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    q, k, v = (x.transpose(1, 2) for x in leaves)
    k, v = (x.repeat_interleave(case.heads // case.groups, dim=1) for x in (k, v))
    rows, keys = (positions(x).to(case.device) for x in (case.block.rows, case.block.keys))
    distance = rows[:, None] - keys
    s = q @ k.transpose(-1, -2) * case.score.softmax_scale
    if case.softcap:
        s = case.softcap * torch.tanh(s / case.softcap)
    if case.alibi:
        slopes = case.score.alibi_slopes.expand(case.batch, -1)[..., None, None]
        s = (s.float() - slopes * distance.abs()).to(s.dtype)
    visible = allowed(distance, case.block)
    hidden = ~visible & visible.any(-1, keepdim=True)  # a row without keys would be NaN
    p = torch.softmax(s.masked_fill(hidden, float("-inf")), dim=-1) * visible
    if case.dropout_p:
        stays = keep(case.seed, case.dropout_p, case.batch, case.heads, rows, keys)
        p = torch.where(stays, p / (1 - case.dropout_p), 0.0)
    out = (p @ v).transpose(1, 2)
    out.backward(dout)
    return out.detach(), *(x.grad for x in leaves)


def assert_as_good_as_plain_torch(case, *tensors, backend=BACKEND):
    judge(case, computed(backend, case, *tensors), *tensors)


def judge(case, found, *tensors):
    """found: out, lse, dq, dk, dv."""
    dtype = tensors[0].dtype
    out, lse, *gradients = found
    true_out, true_lse, *true_gradients = computed(REFERENCE, case, *wide(tensors))
    # dp - delta cancels, wholly where a row sees one key: each is only known to an eps of these
    uncancelled = computed(REFERENCE, case, *wide(tensors), delta=torch.zeros_like(true_lse))[2:]
    values = zip(
        (out, *gradients), (true_out, *true_gradients), plain_torch(case, *tensors),
        (true_out, *uncancelled), NAMES, strict=True,
    )  # fmt: skip
    for got, true, reached, terms, name in values:
        bound = (2 if name == "out" else 3) * error(reached, true) + floor(true, dtype)
        bound += 2 * floor(terms, torch.float32)
        if case.dropout_p and name in ("dq", "dk"):
            # one key's out is no longer v but v / (1 - p), and rounded; delta follows from it
            bound += floor(terms, dtype) / 4
        assert error(got, true) <= bound, f"{name}: error {error(got, true):.2e} > {bound:.2e}"

    assert out.dtype is dtype
    assert torch.equal(lse.isneginf(), true_lse.isneginf())
    seen = ~true_lse.isneginf()
    # a GPU's matrix unit keeps fewer bits of a sum; an lse error d scales weights by 1 + d
    margin = 1e-5 if case.device == "cpu" else max(1e-5, torch.finfo(dtype).eps / 8)
    torch.testing.assert_close(lse[seen].double(), true_lse[seen], atol=margin, rtol=1e-6)


def floor(true, dtype):
    return 4 * torch.finfo(dtype).eps * float(true.abs().max()) if true.numel() else 0.0


def error(got, true):
    return float((got.double() - true).abs().max()) if true.numel() else 0.0
