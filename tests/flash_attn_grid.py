"""flash-attn's own test grid as data, and how a public call is judged by it.

The axes are those of test_flash_attn_output in flash-attn 2.8's tests (and head dim 80). What is
drawn is theirs too: windows anywhere in the keys, slopes up to 0.3, and, where there is a softcap,
queries so large that it binds. The judge is the project's rule against a float64 truth, computed on
the device that is asked: for 2048 tokens that takes a GPU 40 ms, and a CPU most of a minute.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, product

import torch
from torch import Tensor

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.conformance.expected import Expected, Results, bounds
from ring_attn_bench.conformance.faults import faults
from ring_attn_bench.contract import dropout
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.truth import oracle, tolerance

HEAD_DIMS = (32, 40, 59, 64, 80, 96, 111, 128, 160, 192, 224, 256)
LENGTHS = (
    (113, 203), (128, 217), (113, 211), (108, 256), (256, 512), (512, 256), (1024, 1024),
    (1023, 1024), (1024, 1023), (2048, 2048),
)  # fmt: skip
"""Queries and keys."""
KEY_HEADS = {"mha": 6, "mqa": 1, "gqa": 2}
HEADS, BATCH = 6, 2
SOFTCAP, DROPOUT_P, SEED = 50.0, 0.17, 2**40 + 7
NAMES = ("dq", "dk", "dv")


@dataclass(frozen=True)
class Question:
    """A call. lengths: queries and keys of each batch entry, or if `packed` of each document."""

    head_dim: int
    kind: str
    lengths: tuple[tuple[int, int], ...]
    causal: bool = False
    local: bool = False
    softcap: bool = False
    alibi: bool = False
    dropout: bool = False
    dtype: str = "bfloat16"
    packed: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        """The inputs'."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def window(self) -> tuple[int, int]:
        """Any two sides within the keys."""
        if not self.local:
            return -1, -1
        drawn, most = random.Random(str(self)), max(1, *(keys for _, keys in self.lengths))
        return drawn.randrange(most), drawn.randrange(most)

    @property
    def mask(self) -> Mask:
        """Causality and the window."""
        return Mask.from_window_size(self.causal, self.window)


@dataclass(frozen=True)
class Data:
    """q, k, v and dout, (B, S, H, D) or packed (T, H, D), and slopes (B or documents, H)."""

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    slopes: Tensor


@dataclass(frozen=True)
class Part:
    """What is softmaxed by itself: the batch, or one document as a batch of one."""

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    rows: Tensor
    keys: Tensor
    score: Score
    keep: Tensor | None


def questions(**fixed: object) -> list[Question]:
    """Every kind of heads, length and mask, with what is fixed: a head dim, and features."""
    axes = product(KEY_HEADS, LENGTHS, (False, True), (False, True))
    found = (
        Question(kind=kind, lengths=(lengths,) * BATCH, causal=causal, local=local, **fixed)
        for kind, lengths, causal, local in axes
    )
    return [documents(question) if question.packed else question for question in found]


def documents(question: Question) -> Question:
    """The same with a shorter document, an empty one and one of a single query beside it."""
    (rows, keys), *_ = question.lengths
    return replace(question, lengths=((rows, keys), (rows // 3, keys // 2), (0, 5), (1, keys)))


def sampled(found: Sequence[Question], share: int) -> list[Question]:
    """One in `share`, the same ones every time."""
    return random.Random(str(found[0])).sample(found, len(found) // share)


def wrong(found: Sequence[Question], device: str, backend: str) -> list[str]:
    """What is wrong with the backend's answers, in sentences."""
    return [
        f"{question}: {fault}" for question in found for fault in _of(question, device, backend)
    ]


def _of(question: Question, device: str, backend: str) -> list[str]:
    data = draw(question, device)
    try:
        results = computed(question, data, backend)
    except Exception as error:  # one of hundreds: the others are asked all the same
        return [f"{type(error).__name__}: {error}"]
    return faults(truth(question, data), results)


def draw(question: Question, device: str) -> Data:
    """Inputs that depend on shapes, dtype and softcap."""
    generator = torch.Generator(device).manual_seed(question.head_dim)
    dim, key_heads = question.head_dim, KEY_HEADS[question.kind]
    size = [sum(side) for side in zip(*question.lengths, strict=True)]
    entries = len(question.lengths)

    def drawn(side: int, heads: int, scale: float = 1.0) -> Tensor:
        shape = (size[side], heads, dim)
        x = (torch.randn(shape, generator=generator, device=device) * scale).to(
            question.torch_dtype
        )
        return x if question.packed else x.unflatten(0, (entries, -1))

    q = drawn(0, HEADS, SOFTCAP if question.softcap else 1.0)
    k, v, dout = drawn(1, key_heads), drawn(1, key_heads), drawn(0, HEADS)
    slopes = torch.rand(entries, HEADS, generator=generator, device=device) * 0.3
    return Data(q, k, v, dout, slopes)


def computed(question: Question, data: Data, backend: str) -> Results:
    """The public function's results."""
    leaves = [x.detach().requires_grad_() for x in (data.q, data.k, data.v)]
    options = {
        "causal": question.causal, "window_size": question.window,
        "softcap": SOFTCAP if question.softcap else 0.0,
        "alibi_slopes": data.slopes if question.alibi else None,
        "dropout_p": DROPOUT_P if question.dropout else 0.0, "dropout_seed": SEED,
        "return_attn_probs": True, "backend": backend,
    }  # fmt: skip
    if question.packed:
        sides = list(zip(*question.lengths, strict=True))
        starts = [
            torch.tensor([0, *accumulate(side)], dtype=torch.int32, device=data.q.device)
            for side in sides
        ]
        out, lse, _ = flash_attn_varlen_func(*leaves, *starts, *map(max, sides), **options)
    else:
        out, lse, _ = flash_attn_func(*leaves, **options)
    gradients = torch.autograd.grad(out, leaves, data.dout)
    return {"out": out.detach(), "lse": lse} | dict(zip(NAMES, gradients, strict=True))


def truth(question: Question, data: Data) -> Expected:
    """The results in float64, and how far from them a backend's may be."""
    arithmetic = tolerance.baseline_arithmetic(question.torch_dtype)
    exact, plain, sizes = [], [], {"dq": 0.0, "dk": 0.0}
    for part in _parts(question, data):
        exact.append(_answers(question.mask, part, torch.float64))
        plain.append(_answers(question.mask, part, arithmetic))
        for name, most in _uncancelled(question.mask, part, exact[-1]).items():
            sizes[name] = max(sizes[name], most)
    right = _joined(question, exact)
    dtype = question.torch_dtype
    return Expected(dtype, right, bounds(dtype, right, [_joined(question, plain)], sizes))


def _parts(question: Question, data: Data) -> Iterator[Part]:
    entries, ends = len(question.lengths), [0, 0]
    for index, lengths in enumerate(question.lengths):
        own, device = slice(index, index + 1), data.q.device
        sides = [slice(end, end + length) for end, length in zip(ends, lengths, strict=True)]
        ends = [side.stop for side in sides]
        tokens = (data.q, data.k, data.v, data.dout)
        if question.packed:
            tokens = tuple(
                x[None, sides[side]] for x, side in zip(tokens, (0, 1, 1, 0), strict=True)
            )
        else:
            own = slice(None)  # one look at all entries, which are of one length
        rows, keys = lengths
        # the last query and the last key are at one place
        at = torch.arange(rows, device=device) + keys - rows, torch.arange(keys, device=device)
        keep, p = None, DROPOUT_P if question.dropout else 0.0
        if question.dropout:
            # keys before position 0: a call on a batch counts from its first query or key
            start = 0 if question.packed else max(0, rows - keys)
            where = [x + start for x in at]
            keep = dropout.keep(SEED, p, entries, HEADS, *where)[own]
        slopes = data.slopes[own] if question.alibi else None
        score = Score(
            question.head_dim**-0.5, SOFTCAP if question.softcap else 0.0, slopes, p, SEED
        )
        yield Part(*tokens, *at, score, keep)
        if not question.packed:
            return


def _answers(mask: Mask, part: Part, arithmetic: torch.dtype) -> Results:
    asked = oracle.Inquiry(part.rows, part.keys, mask, part.score, part.keep, arithmetic)
    out, lse = oracle.forward(part.q, part.k, part.v, asked)
    gradients = oracle.backward(part.dout, part.q, part.k, part.v, out, lse, asked)
    return {"out": out, "lse": lse} | dict(zip(NAMES, gradients, strict=True))


def _uncancelled(mask: Mask, part: Part, exact: Results) -> dict[str, float]:
    """The size of dq and dk with delta 0, which out 0 gives; see `tolerance.bounds`."""
    dq, dk, _ = oracle.backward(
        part.dout, part.q, part.k, part.v, torch.zeros_like(exact["out"]), exact["lse"],
        oracle.Inquiry(part.rows, part.keys, mask, part.score, part.keep),
    )  # fmt: skip
    return {"dq": tolerance.size(dq).max_abs, "dk": tolerance.size(dk).max_abs}


def _joined(question: Question, parts: Sequence[Results]) -> Results:
    if not question.packed:
        return parts[0]
    return {
        name: torch.cat([part[name][0] for part in parts], dim=1 if name == "lse" else 0)
        for name in parts[0]
    }
