"""From packed documents to calls of the kernels; shapes as in `contract.backend.PackedBackend`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ring_attn_backends.cute.arguments import (
    FAR,
    L2_SHARE,
    Call,
    Numbers,
    factors,
    name_of,
    of_band,
    strides_of,
)
from ring_attn_backends.cute.serves import (
    readable,
    readable_backward,
    readable_line,
    unreadable,
    unreadable_lines,
)
from ring_attn_backends.cute.table import BACKWARD, PACKED, Build, Config, Kernel
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from ring_attn_bench.plan.problem import Documents, Score


def forward_call(
    q: Tensor, keys: Keys, out: Tensor, lse: Tensor, documents: Documents, score: Score,
    *, config: Config | None = None,
) -> Call:  # fmt: skip
    """The contract's `packed_forward_into` as a launch; raises Unsupported as `_check` has it."""
    q, k, v = map(readable, (q, *keys))
    _check([("q", q, None), ("k", k, q.dtype), ("v", v, q.dtype), ("out", out, None)])
    return _called(
        "packed.forward", (q, k, v, out, lse), documents, score, config or PACKED[q.shape[-1]]
    )


def dkdv_call(
    rows: Rows, keys: Keys, dk: Tensor, dv: Tensor, documents: Documents, score: Score,
    *, config: Config | None = None,
) -> Call:  # fmt: skip
    """The part of `packed_backward_into` that is dk and dv."""
    config = config or BACKWARD["backward_dkdv", rows.q.shape[-1]]
    read = _read(rows, keys)
    _check([("dk", dk, None), ("dv", dv, dk.dtype)])
    return _called("packed.backward_dkdv", (*read, dk, dv), documents, score, config)


def dq_call(
    rows: Rows, keys: Keys, dq: Tensor, documents: Documents, score: Score,
    *, config: Config | None = None,
) -> Call:  # fmt: skip
    """The part of `packed_backward_into` that is dq."""
    config = config or BACKWARD["backward_dq", rows.q.shape[-1]]
    read = _read(rows, keys)
    _check([("dq", dq, None)])
    return _called("packed.backward_dq", (*read, dq), documents, score, config)


def _read(rows: Rows, keys: Keys) -> tuple[Tensor, ...]:
    """What a backward's signature begins with."""
    rows, keys = readable_backward(rows, keys)
    q, dout, _, lse, delta = rows
    why = unreadable_lines(rows)
    if why is not None:
        raise Unsupported("cute", why)
    assert delta is not None  # or that would be why
    named = ("q", q), ("k", keys.k), ("v", keys.v), ("dout", dout)
    _check([(name, x, q.dtype) for name, x in named])
    return q, *keys, dout, lse, delta


def _check(named: Iterable[tuple[str, Tensor, torch.dtype | None]]) -> None:
    """Raises Unsupported where a kernel cannot read or write one of them where it lies."""
    for name, x, dtype in named:
        why = unreadable(name, x, dtype)
        if why is None and len(x) >= FAR:
            why = f"it counts tokens below {FAR} (got {len(x)} in {name})"
        if why is not None:
            raise Unsupported("cute", why)


def _called(
    kernel: Kernel, tensors: tuple[Tensor, ...], documents: Documents, score: Score, config: Config
) -> Call:
    """A launch of what can be read and written; tensors: all but the documents' starts."""
    q, k, *_ = tensors
    result = tensors[-2] if kernel == "packed.forward" else tensors[-1]
    build = Build(config, name_of(q.dtype), name_of(result.dtype), score.softcap > 0, kernel=kernel)
    told: tuple[float, ...] = factors(score.softmax_scale, score.softcap)
    if kernel != "packed.forward":
        told = (*told, score.softmax_scale)
    starts = tuple(readable_line(x) for x in (documents.cu_seqlens_q, documents.cu_seqlens_k))
    return Call(
        build,
        (*tensors, *starts),
        (*(_strides(x) for x in tensors), (), ()),
        Numbers(sizes_of(build, q, k, len(starts[0]) - 1), of_band(documents.mask.band), told),
    )


def sizes_of(build: Build, q: Tensor, k: Tensor, documents: int) -> tuple[int, ...]:
    """As `arguments.Numbers` has them."""
    (rows, heads, width), (tokens, key_heads, _) = q.shape, k.shape
    group = heads // key_heads
    if build.kernel == "packed.backward_dkdv":  # a program goes through a group's rows
        owned, all_heads, passed, together = tokens, key_heads, rows * group, 1
    else:
        owned, all_heads, passed, together = rows, heads, tokens, group
    # what is read again at a time is of a few documents, and nobody knows here which are long
    passed = min(passed, 2 * -(-passed // documents))
    together *= max(1, L2_SHARE // max(1, 2 * width * passed * q.element_size()))
    section = max(1, min(together, all_heads))
    return documents, rows, tokens, heads, key_heads, section, most_tiles(build, owned, documents)


def most_tiles(build: Build, tokens: int, documents: int) -> int:
    """How many tiles so many documents have at most: each may end in one of a single token."""
    own = build.config.own
    return (tokens + documents * (own - 1)) // own


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """With one of batch entries, of which there is one."""
    return 0, *strides_of(tensor.shape, tensor.stride())
