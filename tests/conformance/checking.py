"""Blocks to compute, and the one way in which a backend's results on them are judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from ring_attn_bench import launch, oracle
from ring_attn_bench.backend import Backend
from ring_attn_bench.bench import tolerance
from ring_attn_bench.bench.tolerance import Deviation
from ring_attn_bench.block import Block, Form
from ring_attn_bench.positions import Range, Span, Spans, count
from ring_attn_bench.problem import DTYPES, DtypeName, Mask, Problem, Score

ALL, CAUSAL = Mask(), Mask(causal=True)


@dataclass(frozen=True)
class Case:
    """One block with its shapes; `title` says what a backend has to get right in it."""

    title: str
    rows: Spans
    keys: Spans
    mask: Mask = ALL
    batch: int = 2
    heads: int = 2
    key_heads: int = 2
    dim: int = 64
    scale: float | None = None
    softcap: float = 0.0
    alibi: bool = False
    token_major: bool = False
    dtype: DtypeName = "float32"

    def __str__(self) -> str:
        return f"{self.title}-{self.dtype}"

    @property
    def block(self) -> Block:
        return Block(self.rows, self.keys, self.mask.band)

    @property
    def torch_dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def score(self, device: str) -> Score:
        slopes = 0.5 ** torch.arange(1, self.heads + 1, device=device) if self.alibi else None
        return Score(self.scale or self.dim**-0.5, self.softcap, slopes)

    def problem(self, device: str, *, deterministic: bool = False) -> Problem:
        last = max(span.last for span in self.rows + self.keys)
        return Problem(
            self.batch, last + 1, self.heads, self.key_heads, self.dim, self.dim, self.dtype,
            "cuda" if device == "cuda" else "cpu", self.mask, self.softcap, self.alibi,
            deterministic=deterministic,
        )  # fmt: skip


FULL = Case("full", (Span(96, 96),), (Span(0, 96),))
LOCAL = Case("causal", (Span(0, 96),), (Span(0, 96),), CAUSAL)
_ZIGZAG = (Span(0, 40), Span(200, 40))

BLOCKS = [
    FULL,
    LOCAL,
    replace(FULL, title="full, more keys than rows", rows=(Span(200, 33),), keys=(Span(0, 129),)),
    replace(FULL, title="full, fewer keys than rows", rows=(Span(60, 131),), keys=(Span(0, 59),)),
    replace(LOCAL, title="causal, odd length", rows=(Span(0, 77),), keys=(Span(0, 77),)),
    replace(LOCAL, title="causal, two rows", rows=(Span(8, 2),), keys=(Span(8, 2),), batch=3),
    replace(FULL, title="full, one row", rows=(Span(90, 1),), keys=(Span(0, 70),), heads=4),
    replace(LOCAL, title="causal over a zigzag rank's own tokens", rows=_ZIGZAG, keys=_ZIGZAG),
    replace(LOCAL, title="causal over stripes", rows=(Span(3, 70, 4),), keys=(Span(2, 70, 4),)),
    replace(LOCAL, title="causal, grouped heads", heads=6, key_heads=2),
    replace(LOCAL, title="causal, one key head", heads=3, key_heads=1, batch=1),
    replace(LOCAL, title="causal, head dim 32", dim=32),
    replace(LOCAL, title="causal, head dim 128", dim=128, heads=1, key_heads=1),
    replace(FULL, title="full, head dim 96", dim=96, heads=1, key_heads=1),
    replace(FULL, title="full, head dim 256", dim=256, heads=1, key_heads=1),
    replace(LOCAL, title="causal, token-major views", token_major=True, batch=3, heads=4),
    replace(FULL, title="full, token-major views", token_major=True, heads=4),
    replace(LOCAL, title="causal, another softmax scale", scale=0.31),
    replace(LOCAL, title="causal, softcap", softcap=2.5),
    replace(FULL, title="full, softcap", softcap=2.5, heads=4),
    replace(LOCAL, title="causal, alibi", alibi=True),
    replace(FULL, title="full, alibi", alibi=True),
    replace(LOCAL, title="window", mask=Mask(causal=True, window_left=17)),
    replace(LOCAL, title="window on both sides", mask=Mask(window_left=9, window_right=30)),
    replace(LOCAL, title="window open to the left", mask=Mask(window_right=11)),
    replace(LOCAL, title="window, grouped heads", heads=4, mask=Mask(True, 17), token_major=True),
    replace(
        FULL, title="window of two keys, odd length",
        rows=(Span(0, 83),), keys=(Span(0, 83),), mask=Mask(True, 1),
    ),
    replace(
        FULL, title="the corner that a window leaves of the chunk before",
        rows=(Span(96, 40),), keys=(Span(56, 40),), mask=Mask(True, 40),
    ),
    replace(
        FULL, title="causal, fewer rows than keys",
        rows=(Span(50, 46),), keys=(Span(0, 96),), mask=CAUSAL,
    ),
    replace(
        FULL, title="causal, first rows see nothing",
        rows=(Span(0, 96),), keys=(Span(30, 66),), mask=CAUSAL,
    ),
    replace(
        FULL, title="window, last rows see nothing and first keys are seen by none",
        rows=(Span(96, 96),), keys=(Span(0, 96),), mask=Mask(True, 40),
    ),
    replace(
        FULL, title="causal by position, zigzag ranks",
        rows=_ZIGZAG, keys=(Span(40, 40), Span(160, 40)), mask=CAUSAL, heads=4,
    ),
    replace(
        FULL, title="window by position, zigzag ranks",
        rows=_ZIGZAG, keys=(Span(40, 40), Span(160, 40)), mask=Mask(True, 60),
    ),
]  # fmt: skip

CASES = [replace(block, dtype=dtype) for block in BLOCKS for dtype in DTYPES]

GRID = [
    replace(
        base, title=f"{base.title}, {length} tokens, head dim {dim}, {heads} on {key_heads} heads",
        rows=(replace(base.rows[0], count=length),), keys=(replace(base.keys[0], count=length),),
        dim=dim, heads=heads, key_heads=key_heads, dtype=dtype, token_major=True,
    )
    for base in (FULL, LOCAL)
    for length in (127, 256)
    for dim in (32, 40, 64, 80, 96, 128, 160, 192, 256)
    for heads, key_heads in ((4, 2), (5, 1))
    for dtype in DTYPES
]  # fmt: skip
"""The exhaustive grid, for --full."""


@dataclass(frozen=True)
class Inputs:
    """A case's tensors as a ring would hand them over."""

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    rows: Tensor
    keys: Tensor


@dataclass(frozen=True)
class Truth:
    """A case's results in float64, and by name how far a backend's may be from them."""

    results: dict[str, Tensor]
    bounds: dict[str, Deviation]


def refusal(
    backend: Backend, case: Case, device: str, *, deterministic: bool = False
) -> str | None:
    """Why the backend is not asked to compute the case, or None."""
    if case.block.form not in backend.forms:
        return f"{backend.name} has no {case.block.form.value} block"
    reason = backend.unsupported(case.problem(device, deterministic=deterministic))
    return None if reason is None else f"{backend.name}: {reason}"


def inputs(case: Case, device: str) -> Inputs:
    """Normal random values, the same on every device; where token-major, with NaN around them."""
    generator = torch.Generator().manual_seed(1)

    def tensor(tokens: int, heads: int) -> Tensor:
        buffer = torch.randn(tokens + 5, case.batch, heads, case.dim, generator=generator)
        inside = buffer[3:-2]
        if not case.token_major:
            return inside.transpose(0, 1).to(device, case.torch_dtype).contiguous()
        buffer[:3], buffer[-2:] = float("nan"), float("nan")
        return buffer.to(device, case.torch_dtype)[3:-2].transpose(0, 1)

    rows, keys = count(case.rows), count(case.keys)
    return Inputs(
        tensor(rows, case.heads),
        tensor(keys, case.key_heads),
        tensor(keys, case.key_heads),
        tensor(rows, case.heads),
        _positions(case.rows, device),
        _positions(case.keys, device),
    )


@cache
def truth(case: Case, device: str) -> Truth:
    """Computed once for all backends."""
    yardstick = tolerance.baseline_arithmetic(case.torch_dtype)
    exact = _answers(case, device, torch.float64)
    plain = _answers(case, device, yardstick)
    uncancelled = _uncancelled(case, device, exact)
    bounds = {
        name: tolerance.bounds(
            name,
            case.torch_dtype,
            tolerance.error(plain[name], value),
            tolerance.size(value),
            uncancelled.get(name, 0.0),
        )
        for name, value in exact.items()
    }
    return Truth(exact, bounds)


def forward_faults(backend: Backend, case: Case, device: str) -> list[str]:
    """What is wrong with the backend's out and lse, in sentences."""
    data, right = inputs(case, device), truth(case, device)
    out, lse = launch.forward(backend, data.q, data.k, data.v, case.block, case.score(device))
    return _faults(case, right, {"out": out, "lse": lse})


def backward_faults(backend: Backend, case: Case, device: str) -> list[str]:
    """What is wrong with the backend's gradients, given the true out and lse."""
    right = truth(case, device)
    out, lse = right.results["out"].to(case.torch_dtype), right.results["lse"].to(_wide(case))
    return _faults(case, right, gradients(backend, case, inputs(case, device), out, lse, device))


def gradients(
    backend: Backend,
    case: Case,
    data: Inputs,
    out: Tensor,
    lse: Tensor,
    device: str,
    *,
    deterministic: bool = False,
) -> dict[str, Tensor]:
    """The backend's share of dq, dk, dv; lse and delta are cut out of longer rows."""
    delta = (data.dout.to(lse.dtype) * out.to(lse.dtype)).sum(-1).transpose(1, 2)
    share = launch.backward(
        backend,
        data.dout, data.q, data.k, data.v, out, _cut(lse),
        _cut(delta) if backend.needs_delta else None,
        case.block, case.score(device), deterministic=deterministic,
    )  # fmt: skip
    return dict(zip(("dq", "dk", "dv"), share, strict=True))


def two_block_faults(backend: Backend, case: Case, device: str) -> list[str]:
    """What is wrong when a CAUSAL case's first keys and the rest are computed as two blocks.

    The forwards are merged by hand; each backward gets the whole rows' out and lse.
    """
    data, right, score = inputs(case, device), truth(case, device), case.score(device)
    first = count(case.keys) - count(case.rows)
    parts = [
        replace(case, keys=(case.keys[0].part(tokens),))
        for tokens in _split(first, count(case.keys))
    ]
    held = [
        replace(data, k=data.k[:, tokens.slice], v=data.v[:, tokens.slice])
        for tokens in _split(first, count(case.keys))
    ]
    assert [part.block.form for part in parts] == [Form.FULL, Form.CAUSAL]
    forwards = [
        launch.forward(backend, x.q, x.k, x.v, part.block, score)
        for part, x in zip(parts, held, strict=True)
    ]
    lse = torch.logaddexp(forwards[0][1], forwards[1][1])
    weights = [torch.exp(own - lse).transpose(1, 2)[..., None] for _, own in forwards]
    out = forwards[0][0] * weights[0] + forwards[1][0] * weights[1]
    shares = [
        gradients(backend, part, x, out.to(case.torch_dtype), lse, device)
        for part, x in zip(parts, held, strict=True)
    ]
    results = {"out": out, "lse": lse, "dq": sum(share["dq"].to(_wide(case)) for share in shares)}
    results |= {name: torch.cat([s[name] for s in shares], dim=1) for name in ("dk", "dv")}
    return _faults(case, right, results)


def _uncancelled(case: Case, device: str, exact: dict[str, Tensor]) -> dict[str, float]:
    """The size of dq and dk with delta 0, which out 0 gives; see `tolerance.bounds`."""
    data = inputs(case, device)
    dq, dk, _ = oracle.backward(
        data.dout, data.q, data.k, data.v, torch.zeros_like(exact["out"]), exact["lse"],
        data.rows, data.keys, case.mask, case.score(device),
    )  # fmt: skip
    return {"dq": tolerance.size(dq).max_abs, "dk": tolerance.size(dk).max_abs}


def _answers(case: Case, device: str, arithmetic: torch.dtype) -> dict[str, Tensor]:
    data, score = inputs(case, device), case.score(device)
    where = (data.rows, data.keys, case.mask, score)
    qkv = (data.q, data.k, data.v)
    out, lse = oracle.forward(*qkv, *where, arithmetic=arithmetic)
    found = oracle.backward(data.dout, *qkv, out, lse, *where, arithmetic=arithmetic)
    return {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), found, strict=True))


def _faults(case: Case, right: Truth, results: dict[str, Tensor]) -> list[str]:
    found = []
    for name, result in results.items():
        expected, bounds = right.results[name], right.bounds[name]
        allowed = {_wide(case)} | ({case.torch_dtype} if name != "lse" else set())
        if result.shape != expected.shape:
            found.append(f"{name} has shape {tuple(result.shape)}, not {tuple(expected.shape)}")
        elif result.dtype not in allowed:
            found.append(f"{name} is {result.dtype}, not one of {allowed}")
        elif not (error := tolerance.error(result, expected)).within(bounds):
            found.append(f"{name} is out by {error}; allowed are {bounds}")
    return found


def _wide(case: Case) -> torch.dtype:
    return torch.promote_types(case.torch_dtype, torch.float32)


def _cut(x: Tensor) -> Tensor:
    """The same values as part of a longer row, with NaN around them."""
    return torch.nn.functional.pad(x, (2, 3), value=float("nan"))[..., 2:-3]


def _split(at: int, stop: int) -> tuple[Range, Range]:
    return Range(0, at), Range(at, stop)


def _positions(spans: Spans, device: str) -> Tensor:
    return torch.tensor([at for span in spans for at in span.positions()], device=device)
