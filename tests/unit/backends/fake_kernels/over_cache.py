"""A cache as the fakes' kernels read it: by places, and by whole tiles where TMA does."""

from __future__ import annotations

import torch


def places(k_cache, table, entry):
    """(page, place in it) of each token of an entry; without a table its row is its page."""
    size = k_cache.shape[1]
    row = [entry] if table is None else table[entry].tolist()
    return [(page, at) for page in row for at in range(size)]


def tokens(x, where, first, stop):
    """Those of an entry from `first` to `stop`, (N, G, D)."""
    assert 0 <= stop <= len(where), "an illegal address"
    assert all(0 <= page < len(x) for page, _ in where[first:stop]), "an illegal address"
    found = [x[at] for at in where[first:stop]]
    return torch.stack(found) if found else x.new_empty(0, *x.shape[2:])


def behind(v_cache, where, stop, tile):
    """Whether weights of 0 meet what is no number: a tile is loaded whole, as TMA loads it."""
    if stop % tile == 0:
        return False
    end = min(len(where), stop + -stop % tile)
    found = [v_cache[page, at] for page, at in where[stop:end] if 0 <= page < len(v_cache)]
    return bool(found) and not torch.stack(found).isfinite().all()


def check_numbers(*tensors):
    """Lengths, tables and paddings, as packages want them."""
    for x in tensors:
        if x is not None:
            assert x.dtype is torch.int32, "must have dtype torch.int32"
            assert x.stride(-1) == 1, "must have contiguous last dimension"


def queries(q, starts, entry):
    """An entry's, (M, H, D), and where they and their lse lie in the results."""
    if starts is None:
        return q[entry], entry, entry
    at = slice(int(starts[entry]), int(starts[entry + 1]))
    return q[at], at, (slice(None), at)


def results(q, v, starts):
    """out and lse that nobody has written."""
    out = q.new_full((*q.shape[:-1], v.shape[-1]), float("nan"))
    shape = (q.shape[1], q.shape[0]) if starts is not None else (len(q), q.shape[2], q.shape[1])
    return out, torch.full(shape, float("nan"))


def turned(x, cos, sin, *, interleaved):
    """x (heads, D) with its leading columns turned, in float32: rotary.h of flash-attn 2 and 3."""
    cos, sin, width = cos.float(), sin.float(), 2 * len(cos)
    head = x[..., :width].float()
    a, b = (head[..., ::2], head[..., 1::2]) if interleaved else head.chunk(2, -1)
    pairs = a * cos - b * sin, a * sin + b * cos
    head = torch.stack(pairs, -1).flatten(-2) if interleaved else torch.cat(pairs, -1)
    return torch.cat([head.to(x.dtype), x[..., width:]], -1)
