"""What the Hopper forward is told of each entry of a cache, interpreted: of any numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_attn_backends.reference import ReferenceBackend
from ring_attn_backends.triton.arguments import band_of
from ring_attn_backends.triton.cached.extents import NUMBERS, extents

from ring_attn_bench.contract.cache import Appended, Cache, CachedCall
from ring_attn_bench.plan.problem import Mask, Score

pytestmark = [
    # of Triton 3.6's interpreter, to which a scalar is an array of one
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]
DIM, HEADS, KEY_HEADS = 8, 2, 1
BLOCK = 4
"""Keys that are not shared."""


def numbers(draw, count, low, high):
    drawn = draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
    return torch.tensor(drawn, dtype=torch.int32)


def random(*shape, seed=0):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return drawn.double()


@st.composite
def calls(draw):
    """Over rows, with numbers that may be wrong."""
    batch, room, count = draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(st.integers(3, 4))
    k, v = (random(count, room, KEY_HEADS, DIM, seed=seed) for seed in (1, 2))
    # rows are told apart, or the last of two that are appended to would win
    rows = torch.tensor(draw(st.permutations(range(-1, count)))[:batch], dtype=torch.int32)
    told = [numbers(draw, batch, -3, room + 5) if draw(st.booleans()) else None for _ in range(2)]
    cache = Cache(k, v, told[0], rows=rows, skipped=told[1])
    window = draw(st.none() | st.integers(0, room)), draw(st.none() | st.integers(0, room))
    q = random(batch, draw(st.integers(1, 6)), HEADS, DIM)
    call = CachedCall(q, cache, Mask(draw(st.booleans()), *window), Score(DIM**-0.5))
    new = draw(st.integers(0, 6))
    if not new:
        return call
    appended = [random(batch, new, KEY_HEADS, DIM, seed=seed) for seed in (3, 4)]
    return call._replace(appended=Appended(*appended))


def by_extents(call, splits):
    """out of the keys and the band that the table says, of all shares; tokens are there already."""
    (low, high), cache, count = band_of(call.mask), call.cache, call.q.shape[1]
    batch = len(call.q)
    table = torch.full((splits * batch, NUMBERS), -7, dtype=torch.int32)
    new = 0 if call.appended is None else call.appended.k.shape[1]
    extents[(splits * batch, 1, 1)](
        table, cache.lengths, cache.rows, cache.skipped, new, cache.k.shape[1], cache.k.shape[0],
        batch, splits, BLOCK,
    )  # fmt: skip
    scores, values = ([[] for _ in range(batch)] for _ in range(2))
    for first, length, end, entry in table.tolist():
        k, v = (x.flatten(0, 1)[first : first + length, 0] for x in (cache.k, cache.v))
        assert len(k) == length
        apart = torch.arange(count)[:, None] - torch.arange(length) + end - count
        hidden = ~((low <= apart) & (apart <= high))
        found = torch.einsum("mhd,nd->hmn", call.q[entry], k) * call.score.softmax_scale
        scores[entry].append(found.masked_fill(hidden, -torch.inf))
        values[entry].append(v)
    outs = []
    for parts, v in zip(scores, values, strict=True):
        assert len(parts) == splits
        weights = torch.cat(parts, -1).softmax(-1).nan_to_num(0.0)
        outs.append(torch.einsum("hmn,nd->mhd", weights, torch.cat(v)))
    return torch.stack(outs), table.view(splits, batch, NUMBERS)


@settings(deadline=None, max_examples=60)
@given(calls(), st.integers(1, 5))
def test_the_keys_and_the_band_of_each_entry_are_those_of_the_reference(call, splits):
    right, _ = ReferenceBackend().cached_forward(call)  # which appends
    found, shares = by_extents(call, splits)

    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)
    lengths = shares[..., 1].sort(0, descending=True).values
    assert lengths.equal(shares[..., 1]), "the last share is the shortest"
    assert ((shares[:-1, :, 1] % BLOCK == 0) | (shares[1:, :, 1] == 0)).all()
