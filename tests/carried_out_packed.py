"""Launches of `cute` over packed documents carried out in float64, from what they are told."""

from itertools import pairwise

from ring_attn_backends.cute.arguments import Call, Numbers
from ring_attn_backends.cute.table import Build

from tests.carried_out import carried_out as carried_out_alone

BY_KEY = {
    "packed.forward": (False, True, True, False, False),
    "packed.backward_dkdv": (False, True, True, False, False, False, True, True),
    "packed.backward_dq": (False, True, True, False, False, False, False),
}
"""Of each tensor but the starts, whether its tokens are keys."""


def carried_out(call, folder=None):
    """A document after the other, each as a launch over a block; nothing of another one is read."""
    kernel, config = call.build.kernel, call.build.config
    *tensors, row_starts, key_starts = call.tensors
    count, rows, keys, heads, key_heads, section, tiles = call.numbers.sizes
    sides = [list(pairwise(x.tolist())) for x in (row_starts, key_starts)]
    assert len(sides[0]) == len(sides[1]) == count
    of_keys = kernel == "packed.backward_dkdv"
    assert 1 <= section <= (key_heads if of_keys else heads)
    owned = [stop - first for first, stop in sides[of_keys]]
    assert sum(-(-n // config.own) for n in owned) <= tiles <= sum(owned) + count * config.own
    for (row, row_stop), (key, key_stop) in zip(*sides, strict=True):
        assert 0 <= row <= row_stop <= rows
        assert 0 <= key <= key_stop <= keys
        M, N = row_stop - row, key_stop - key
        views = []
        for by_key, x, strides in zip(BY_KEY[kernel], tensors, call.strides, strict=False):
            first, stop = (key, key_stop) if by_key else (row, row_stop)
            is_line = len(strides) == 2
            step = 1 if is_line else strides[1]
            shape = (1, heads, M) if is_line else (1, stop - first, x.shape[1], config.width)
            views.append(x.as_strided(shape, (*strides, 1), x.storage_offset() + first * step))
        low, high = call.numbers.band
        band = low - (N - M), high - (N - M)
        _alone(call, views, (1, M, N, heads, key_heads, 1), band)


def _alone(call, views, sizes, band):
    kernel = call.build.kernel.removeprefix("packed.")
    if 0 in sizes[1:3]:
        _nothing_seen(kernel, views)
        return
    if kernel == "forward":
        q, k, v, out, lse = views
        views = [q, k, v, out, out, lse]
    build = Build(
        call.build.config, call.build.dtype, call.build.out, call.build.capped, kernel=kernel
    )
    strides = tuple(x.stride()[:-1] for x in views)
    numbers = Numbers(sizes, band, call.numbers.factors)
    carried_out_alone(Call(build, tuple(views), strides, numbers))


def _nothing_seen(kernel, views):
    if kernel == "forward":
        views[3].zero_()
        views[4].fill_(-float("inf"))
    for result in views[6:]:
        result.zero_()
