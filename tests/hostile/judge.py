"""Whether a call that was accepted is right: by what its arguments mean, read anew here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate, pairwise
from numbers import Real
from operator import index

import torch
from torch import Tensor

from ring_attn_bench.contract.dropout import keep
from tests.hostile import caches, packs
from tests.hostile.truth import FARTHEST, Answer, attention, packed
from tests.hostile.values import randn
from tests.packed_truth import sound

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Meaningless(Exception):
    """An argument was taken for what it cannot mean."""


class Unjudged(Exception):
    """A right call of which float64 says too little: its numbers are beyond what kernels hold."""


def faults(function: str, given: Mapping[str, object], found: object) -> list[str]:
    """What is wrong with the answer of an accepted call; raises Unjudged."""
    try:
        if "attn" in function and function not in _JUDGES:
            return _of_attention(function, given, found)
        return _JUDGES.get(function, _anything)(given, found)
    except Meaningless as error:
        return [str(error)]


# what arguments mean


def _number(name: str, value: object) -> float:
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    raise Meaningless(f"{name} was taken for a number")


def _whole(name: str, value: object) -> int:
    is_bool = isinstance(value, bool) or getattr(value, "dtype", None) is torch.bool
    if is_bool or not hasattr(value, "__index__"):
        raise Meaningless(f"{name} was taken for an integer")
    return index(value)


def _flag(name: str, value: object) -> bool:
    if isinstance(value, Tensor | str | float) or value is None:
        raise Meaningless(f"{name} was taken for True or False")
    return bool(value)


def _cap(value: object) -> float:
    """0 or less is none."""
    cap = _number("softcap", value)
    return 0.0 if cap <= 0 else cap


def _window(value: object) -> tuple[int, int]:
    if not isinstance(value, tuple | list) and getattr(value, "shape", None) != (2,):
        raise Meaningless("window_size was taken for two integers")
    left, right = (_whole("window_size", side) for side in value)
    return left, right


def _double(x: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        where = torch.get_default_device()  # of the truth, which may be another than x is on
        return x.detach().as_subclass(Tensor).to(where, torch.float64).clone()


# attention


def _of_attention(function: str, given: Mapping[str, object], found: object) -> list[str]:
    given = _under_its_name(given)
    if function in caches.FUNCTIONS:
        return _of_a_cache(given, found)
    q, k, v = separated(given)
    if q.is_meta:
        raise Unjudged("it has no numbers")
    probs = _flag("return_attn_probs", given.get("return_attn_probs", False))
    if probs != isinstance(found, tuple):
        return [f"return_attn_probs is {probs}, and a {type(found).__name__} is returned"]
    out, lse = found[:2] if probs else (found, None)
    inputs = {name: given[name] for name in ("q", "k", "v", "kv", "qkv", "sink") if name in given}
    leaves = {n: x for n, x in inputs.items() if isinstance(x, Tensor) and x.requires_grad}
    if leaves and not out.requires_grad:
        return ["an input requires a gradient, and out does not"]
    dout = randn(5, *out.shape, dtype=out.dtype).to(out.device)
    shape = (q.shape[0], q.shape[2], q.shape[1]) if q.dim() == 4 else (q.shape[1], q.shape[0])
    dlse = randn(6, *shape, dtype=torch.float64)
    dlse = dlse if probs and leaves else torch.zeros_like(dlse)
    results = {"out": out} if lse is None else {"out": out, "lse": lse}
    results |= _gradients(results, leaves, dout, dlse.to(out.device))
    answer, dropped = _answer(function, given, (q, k, v), dout, dlse)
    if dropped:  # of a seed that nobody gave, or packed: lse knows nothing of it
        results = {name: x for name, x in results.items() if name == "lse"}
    for x in (*answer.results.values(), *answer.sizes.values()):
        if x.isnan().any() or x.isposinf().any():
            raise Unjudged("it is not finite in float64")
    if not answer.depth < FARTHEST:
        raise Unjudged("scores are beyond float32")
    named = ((name, answer.fault(name, x, q.dtype)) for name, x in results.items())
    return [fault for _, fault in named if fault]


def _of_a_cache(given: Mapping[str, object], found: object) -> list[str]:
    told = _told(given, given["q"].shape[-1])
    for name in ("return_softmax_lse", "rotary_interleaved"):
        _flag(name, given.get(name, False))
    for name in ("num_splits", "block"):
        _whole(name, given.get(name, 0))
    if not isinstance(given.get("cache_seqlens"), Tensor | None):
        _whole("cache_seqlens", given["cache_seqlens"])
    slopes = given.get("alibi_slopes")
    return caches.faults(
        given, found, told | {"slopes": None if slopes is None else _double(slopes)}
    )


def separated(given: Mapping[str, object]) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of any form, without their gradients."""
    if "qkv" in given:
        tensors = given["qkv"].detach().unbind(-3)
    elif "kv" in given:
        tensors = (given["q"].detach(), *given["kv"].detach().unbind(-3))
    else:
        tensors = tuple(given[name].detach() for name in "qkv")
    if any(x.dtype not in DTYPES for x in tensors) or len({x.dtype for x in tensors}) > 1:
        raise Meaningless(f"tensors of {[x.dtype for x in tensors]} were taken")
    return tensors


def _gradients(
    results: dict[str, Tensor], leaves: dict[str, Tensor], dout: Tensor, dlse: Tensor
) -> dict[str, Tensor]:
    """By name, of those that are needed; packed ones apart."""
    if not leaves:
        return {}
    upstream = [dout, dlse.to(results["lse"].dtype)] if "lse" in results else [dout]
    found = torch.autograd.grad(list(results.values()), list(leaves.values()), upstream)
    by_name: dict[str, Tensor] = {}
    for name, gradient in zip(leaves, found, strict=True):
        if name in ("kv", "qkv"):
            parts = zip(name, gradient.unbind(-3), strict=True)
            by_name |= {f"d{part}": share for part, share in parts}
        else:
            by_name[f"d{name}"] = gradient
    return by_name


def _under_its_name(given: Mapping[str, object]) -> Mapping[str, object]:
    """The sink as `sink`, whatever it was called."""
    names = ("sink", "s_aux", "learnable_sink")
    sinks = [given[name] for name in names if given.get(name) is not None]
    if len(sinks) > 1:
        raise Meaningless("two sinks were taken for one")
    rest = {name: x for name, x in given.items() if name not in names}
    return rest | {"sink": sinks[0]} if sinks else rest


def _answer(
    function: str,
    given: Mapping[str, object],
    tensors: tuple[Tensor, Tensor, Tensor],
    dout: Tensor,
    dlse: Tensor,
) -> tuple[Answer, bool]:
    """The truth, and whether weights were dropped that only the call itself knows."""
    q, k, v = (_double(x) for x in tensors)
    dropout_p = _number("dropout_p", given.get("dropout_p", 0.0))
    if not 0 <= dropout_p < 1:
        raise Meaningless(f"a dropout_p of {dropout_p} was taken")
    seed, slopes = given.get("dropout_seed"), given.get("alibi_slopes")
    told = _told(given, q.shape[-1]) | {"dropout_p": dropout_p}
    slopes = None if slopes is None else _double(slopes)
    dout = _double(dout)
    dropped = dropout_p > 0 and (seed is None or _draws_its_own(given))
    if "varlen" in function:
        documents = (
            _on_a_ring(given) if "ring" in function or "llama" in function else _documents(given)
        )
        parts = [
            attention(
                q[None, rows], k[None, keys], v[None, keys], dout[None, rows], dlse[None, :, rows],
                slopes=slopes[i] if slopes is not None and slopes.dim() == 2 else slopes,
                keep=None, **told,
            )
            for i, (rows, keys) in enumerate(documents)
        ]  # fmt: skip
        return packed(parts, documents, q, k, v), dropout_p > 0
    kept = None
    if dropout_p > 0 and not dropped:
        (batch, rows, heads), keys = q.shape[:3], k.shape[1]
        where = (torch.arange(n) + max(0, m - n) for n, m in ((rows, keys), (keys, rows)))
        kept = keep(_whole("dropout_seed", seed), dropout_p, batch, heads, *where)
    return attention(q, k, v, dout, dlse, slopes=slopes, keep=kept, **told), dropped


def _told(given: Mapping[str, object], dim: int) -> dict[str, object]:
    """What scores and masks are, of a head dim."""
    scale, sink = given.get("softmax_scale"), given.get("sink")
    told = {
        "scale": dim**-0.5 if scale is None else _number("softmax_scale", scale),
        "causal": _flag("causal", given.get("causal", False)),
        "window": _window(given.get("window_size", (-1, -1))),
        "softcap": _cap(given.get("softcap", 0.0)),
        "sink": None if sink is None else _double(sink),
    }
    if not all(math.isfinite(told[name]) for name in ("scale", "softcap")):
        raise Meaningless("a scale or softcap that is not finite was taken")
    return told


def _draws_its_own(given: Mapping[str, object]) -> bool:
    """Whether the kernel draws its own pattern from the seed."""
    return given["backend"] in ("aten", "flash_attn_2") and not _is_on_cpu(given)


def _is_on_cpu(given: Mapping[str, object]) -> bool:
    tensors = (given[name] for name in ("q", "qkv") if name in given)
    return all(x.device.type == "cpu" for x in tensors)


def _documents(given: Mapping[str, object]) -> list[tuple[slice, slice]]:
    """Where rows and keys of each are. What a GPU holds nobody has looked at: it was made sound."""

    def of(name: str, side: str) -> object:
        return given[f"{name}_{side}"] if f"{name}_{side}" in given else given[name]

    at = tuple(of("cu_seqlens", side).tolist() for side in "qk")
    longest = tuple(_whole("max_seqlen", of("max_seqlen", side)) for side in "qk")
    used = given.get("seqused_k")
    counts = [10**9] * len(at[1]) if used is None else used.tolist()
    if _is_on_cpu(given):
        sides = ([slice(*ends) for ends in pairwise(side)] for side in at)
        return _cut(list(zip(*sides, strict=True)), counts)
    q, k, _ = separated(given)
    if used is None:
        return sound(at, (len(q), len(k)), longest)
    # with counts, only those of the keys that are used must not be too many
    found = _cut(sound(at, (len(q), len(k)), (len(q), len(k))), counts)
    rows, keys = (
        list(accumulate((x.stop - x.start for x in side), initial=0))
        for side in zip(*found, strict=True)
    )
    return found[: len(sound((rows, keys), (len(q), len(k)), longest))]


def _on_a_ring(given: Mapping[str, object]) -> list[tuple[slice, slice]]:
    for name in ("max_seqlen", "max_seqlen_q", "max_seqlen_k", "heads_k_stride"):
        if given.get(name) is not None:
            _whole(name, given[name])
    for name in ("cu_seqlens", "queries"):
        if isinstance(given.get(name), list | tuple):
            for x in given[name]:
                _whole(name, x)
    return packs.apart(given)


def _cut(documents: list[tuple[slice, slice]], counts: list[int]) -> list[tuple[slice, slice]]:
    return [
        (rows, slice(keys.start, min(keys.stop, keys.start + max(0, count))))
        for (rows, keys), count in zip(documents, counts, strict=False)
    ]


# the others


def positions(seqlen: int, rank: int, world: int, partition: str) -> list[int]:
    """Token by token, from the partitions' definitions."""
    if partition == "striped":
        return [at for at in range(seqlen) if at % world == rank]
    pieces = world if partition == "contiguous" else 2 * world
    mine = {rank} if partition == "contiguous" else {rank, 2 * world - 1 - rank}
    return [at for at in range(seqlen) if at // (seqlen // pieces) in mine]


def _position_ids(given: Mapping[str, object], found: Tensor) -> list[str]:
    numbers = [_whole(name, given[name]) for name in ("seqlen", "rank", "world_size")]
    if found.device.type == "meta":
        return [] if len(found) == numbers[0] // numbers[2] else ["as many as there are not"]
    right = positions(*numbers, given["partition"])
    return [] if found.tolist() == right else [f"{found.tolist()}, not {right}"]


def _shard(given: Mapping[str, object], found: Tensor) -> list[str]:
    x, dim = given["x"], _whole("dim", given["dim"])
    numbers = [_whole(name, given[name]) for name in ("rank", "world_size")]
    mine = positions(x.shape[dim], *numbers, given["partition"])
    return _same(found, x, x.movedim(dim, 0)[mine].movedim(0, dim))


def _unshard(given: Mapping[str, object], found: Tensor) -> list[str]:
    _whole("dim", given["dim"])
    return _same(found, given["x"], given["x"])


def _join_shards(given: Mapping[str, object], found: Tensor) -> list[str]:
    parts, dim = list(given["shards"]), _whole("dim", given["dim"])
    seqlen = len(parts) * parts[0].shape[dim]
    right = torch.empty_like(torch.cat(parts, dim)).movedim(dim, 0)
    for rank, part in enumerate(parts):
        at = positions(seqlen, rank, len(parts), given["partition"])
        right[at] = part.detach().movedim(dim, 0).to(right.dtype)
    return _same(found, parts[0], right.movedim(0, dim))


def _same(found: Tensor, x: Tensor, right: Tensor) -> list[str]:
    if found.dtype != x.dtype or found.shape != right.shape:
        return [f"{found.dtype} {tuple(found.shape)}, not {x.dtype} {tuple(right.shape)}"]
    if found.device.type == "meta":
        return []
    if (x.requires_grad and torch.is_grad_enabled()) != found.requires_grad:
        return ["a gradient is lost, or made"]
    if not torch.equal(found.detach().resolve_neg(), right.detach().resolve_neg()):
        return ["other values"]
    if not found.requires_grad or not found.numel() or x.itemsize == 1:  # torch adds no 8-bit ones
        return []
    (gradient,) = torch.autograd.grad(found, x, torch.ones_like(found))
    # 1 for each token that is in both: one of several shards, or a shard of several
    once = set(gradient.double().unique().tolist()) <= {0.0, 1.0}
    good = once and gradient.double().sum() == min(found.numel(), x.numel())
    return [] if good else ["another gradient"]


def _value(given: Mapping[str, object], found: object) -> list[str]:
    for name in ("causal", "uneven"):
        _flag(name, given.get(name, False))
    _window(given["window_size"])
    for name in ("world_size", "seqlen"):
        if given[name] is not None:
            _whole(name, given[name])
    for name in ("cu_seqlens", "seqused"):
        for x in given[name] if isinstance(given[name], list | tuple) else ():
            _whole(name, x)
    return packs.made_wrong(given, found)


def _shard_documents(given: Mapping[str, object], found: Tensor) -> list[str]:
    _whole("rank", given["rank"])
    x, dim = given["x"], _whole("dim", given["dim"])
    return _same(found, x, x.movedim(dim, 0)[packs.held(given)].movedim(0, dim))


def _document_position_ids(given: Mapping[str, object], found: Tensor) -> list[str]:
    _whole("rank", given["rank"])
    return packs.position_ids_wrong(given, found)


def _prepared(given: Mapping[str, object], found: tuple[object, ...]) -> list[str]:
    _flag("causal", given["causal"])
    for name in ("rank", "world_size"):
        _whole(name, given[name])
    return packs.prepared_wrong(given, found)


def _ring_options(given: Mapping[str, object], found: object) -> list[str]:
    other = [name for name, value in given.items() if getattr(found, name) != value]
    return [f"{name} is {getattr(found, name)!r}" for name in other]


def _ring_context(given: Mapping[str, object], found: object) -> list[str]:
    found.close()
    return []


def _is_peer(given: Mapping[str, object], found: bool) -> list[str]:
    name = given["name"]
    return [] if found == (isinstance(name, str) and name[:5] == "peer:") else [f"{found}"]


def _anything(given: Mapping[str, object], found: object) -> list[str]:
    name = given["name"]
    return [] if isinstance(name, str) else [f"a {type(name).__name__} was taken for a name"]


_JUDGES = {
    "position_ids": _position_ids, "shard": _shard, "unshard": _unshard,
    "join_shards": _join_shards, "is_peer": _is_peer, "RingOptions": _ring_options,
    "RingContext": _ring_context, "documents": _value, "shard_documents": _shard_documents,
    "document_position_ids": _document_position_ids, packs.PREPARE: _prepared,
}  # fmt: skip
