"""Calls over a cache, and whether an accepted one is right: each entry's tokens, taken out anew."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import torch
from torch import Tensor

from tests.hostile.truth import FARTHEST, attention

FUNCTIONS = ("flash_attn_with_kvcache", "ring_attn_with_kvcache")
OWN = {
    "cache_seqlens": ("0", "-1", "1", "10**9", "2**70", "True", "1.5", "np.int64(3)", "starts(0)",
                      "starts(-1, 2)", "starts(10**9, 1)", "starts(1, 2, dtype=torch.int64)",
                      "torch.tensor(2, dtype=torch.int32)", "None"),
    "cache_batch_idx": ("starts(0, 0)", "starts(-1, 0)", "starts(0, 99)", "starts(1)", "0", "None"),
    "cache_leftpad": ("starts(0, 1)", "starts(-1, 0)", "starts(99, 99)", "3", "None"),
    "block_table": ("starts(0, 1)", "starts(0, 0)[:, None]", "starts(5, -3)[:, None]", "0",
                    "torch.zeros(2, 0, dtype=torch.int32)", "starts(0, 1)[:, None].long()"),
    "rotary_cos": ("randn(1, 40, 2)", "randn(1, 1, 2)", "randn(1, 40, 99)", "None"),
    "rotary_interleaved": ("1", "np.False_", "'no'", "2"),
    "num_splits": ("-1", "0", "7", "10**30", "1.0", "True", "np.int8(2)"),
    "return_softmax_lse": ("1", "np.True_", "'True'"),
    "block": ("0", "-1", "1", "3", "10**30", "2.0", "True"),
    "k_cache": ("randn(1, 2, 0, 1, 8)", "randn(1, 2, 9, 1, 8).transpose(1, 3)"),
}  # fmt: skip
OWN["rotary_sin"] = OWN["rotary_cos"]


def drawn(random: Random, shapes: object, options: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A function and its arguments as text; options: some of those that all functions have."""
    s, dtype = shapes, f"dtype={shapes.dtype}"
    new = random.choice((0, 0, 1, 3))
    room = s.keys + new + random.choice((0, 0, 5))
    lengths = [random.randint(0, room - new) for _ in range(s.batch)]
    paged = random.random() < 0.4
    page = random.choice((1, 2, 4))
    pages = -(-room // page)
    of = f"{s.batch * pages}, {page}" if paged else f"{s.batch}, {room}"
    arguments = {
        "q": f"randn(1, {s.batch}, {s.rows}, {s.heads}, {s.dim}, {dtype})",
        "k_cache": f"randn(2, {of}, {s.groups}, {s.dim}, {dtype})",
        "v_cache": f"randn(3, {of}, {s.groups}, {s.dim_v}, {dtype})",
        "cache_seqlens": f"starts({', '.join(map(str, lengths))})",
    }
    if new:
        arguments |= {
            "k": f"randn(4, {s.batch}, {new}, {s.groups}, {s.dim}, {dtype})",
            "v": f"randn(5, {s.batch}, {new}, {s.groups}, {s.dim_v}, {dtype})",
        }
        if random.random() < 0.3:
            angles = f"randn(6, {pages * page if paged else room}, 2)"
            arguments |= {
                "rotary_cos": f"{angles}.cos()",
                "rotary_sin": f"{angles}.sin()",
                "rotary_interleaved": random.choice(("True", "False")),
            }
    elif random.random() < 0.2:
        arguments["cache_seqlens"] = random.choice((str(min(lengths, default=0)), "None"))
    if paged:
        order = torch.randperm(s.batch * pages, generator=torch.Generator().manual_seed(room))
        arguments["block_table"] = f"starts(*{order.tolist()}).view({s.batch}, {pages})"
    elif random.random() < 0.2:
        arguments["cache_batch_idx"] = f"starts(*range({s.batch})).flip(0)"
    if random.random() < 0.2:
        arguments["cache_leftpad"] = f"starts(*[0] * {s.batch})"
    if random.random() < 0.3:
        arguments["num_splits"] = random.choice(("0", "1", "3"))
    if random.random() < 0.5:
        arguments["return_softmax_lse"] = random.choice(("True", "False"))
    function = FUNCTIONS[random.random() < 0.3]
    if function.startswith("ring"):
        arguments["block"] = "1"
    known = {"softmax_scale", "causal", "window_size", "softcap", "alibi_slopes", "sink", "backend"}
    return function, arguments | {name: x for name, x in options.items() if name in known}


def faults(given: Mapping[str, object], found: object, told: Mapping[str, object]) -> list[str]:
    """What is wrong; told: scale, causal, window, softcap, sink, slopes.

    The cache is as the call left it. What a GPU's numbers say nobody has looked at: there only the
    form is judged.
    """
    q, k, v = (given[name] for name in ("q", "k_cache", "v_cache"))
    wants = given.get("return_softmax_lse", False)
    if bool(wants) != isinstance(found, tuple):
        return [f"return_softmax_lse is {wants}, and a {type(found).__name__} is returned"]
    out, lse = found if isinstance(found, tuple) else (found, None)
    if out.shape != (*q.shape[:-1], v.shape[-1]) or out.dtype != q.dtype:
        return [f"out is {out.dtype} {tuple(out.shape)}"]
    if q.device.type != "cpu" or given.get("rotary_cos") is not None:
        return []
    wrong = []
    for entry in range(len(q)):
        keys, values = (_tokens(given, x, entry) for x in (k, v))
        slopes = told["slopes"]
        own = slopes[entry] if slopes is not None and slopes.dim() == 2 else slopes
        rows = q[entry : entry + 1].double()
        answer = attention(
            rows, keys[None].double(), values[None].double(),
            torch.zeros(*rows.shape[:-1], v.shape[-1], dtype=torch.float64),
            torch.zeros(1, rows.shape[2], rows.shape[1], dtype=torch.float64),
            keep=None, dropout_p=0.0, **{**told, "slopes": own},
        )  # fmt: skip
        odd = any(x.isnan().any() or x.isposinf().any() for x in answer.results.values())
        if odd or not answer.depth < FARTHEST:
            continue
        wrong += [answer.fault("out", out[entry : entry + 1], q.dtype)]
        if lse is not None:
            wrong += [answer.fault("lse", lse[entry : entry + 1], q.dtype)]
    return [fault for fault in wrong if fault]


def _tokens(given: Mapping[str, object], cache: Tensor, entry: int) -> Tensor:
    """An entry's tokens, as a list of places says where they lie."""
    table, rows, lengths = (
        given.get(x) for x in ("block_table", "cache_batch_idx", "cache_seqlens")
    )
    skipped, new = given.get("cache_leftpad"), given.get("k")
    if table is not None:
        where = [(int(page), at) for page in table[entry] for at in range(cache.shape[1])]
    else:
        row = entry if rows is None else int(rows[entry])
        where = [(row, at) for at in range(cache.shape[1])]
    length = len(where) if lengths is None else int(lengths if _is_one(lengths) else lengths[entry])
    total = length + (0 if new is None else new.shape[1])
    first = 0 if skipped is None else int(skipped[entry])
    tokens = [cache[at] for at in where[first:total]]
    return torch.stack(tokens) if tokens else cache.new_empty(0, *cache.shape[2:])


def _is_one(lengths: object) -> bool:
    return not isinstance(lengths, Tensor) or lengths.dim() == 0
