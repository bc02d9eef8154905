"""On a GPU: keys of 576 columns of which 512 are the values, in every tiling that may be taken."""

from __future__ import annotations

import pytest
import torch
from ring_attn_backends.triton import kept
from ring_attn_backends.triton.cached import latent

from ring_attn_bench.cached import again
from ring_attn_bench.calls.remembered import Remembered
from ring_attn_bench.errors import Unsupported
from tests.gpu.over_cache import called, int32, random, right

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280)]
BATCH, ROOM, DIM, OF_V = 3, 2048, 576, 512


@pytest.fixture(params=latent.CANDIDATES, ids=str)
def tiling(request, monkeypatch):
    """The only one in the table; what was launched in another is forgotten."""
    monkeypatch.setattr(latent, "TABLE", {request.param.rows: request.param})
    monkeypatch.setattr(kept, "_kept", {})
    monkeypatch.setattr(again, "_made", Remembered())
    return request.param


def call_of(heads, queries=1, page=None):
    q = random(BATCH, queries, heads, DIM)
    rows = (BATCH, ROOM) if page is None else (BATCH * ROOM // page, page)
    k = random(*rows, 1, DIM, seed=1)
    told = {"cache_seqlens": int32(2048, 777, 0), "causal": True}
    if page is not None:
        told["block_table"] = torch.randperm(len(k), device="cuda").view(BATCH, -1).int()
    return q, k, told


@pytest.mark.parametrize("page", [None, 16, 64])
@pytest.mark.parametrize(("queries", "heads"), [(1, 16), (1, 128), (2, 128), (5, 7)])
def test_latent_keys_are_attended_over(tiling, queries, heads, page):
    q, k, told = call_of(heads, queries, page)
    poison = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(8)]
    del poison  # what is not written shows
    truth = right(q, k, k[..., :OF_V], **told)
    found = [called(q, k, k[..., :OF_V], **told) for _ in range(4)]

    out, lse = found[0]
    torch.testing.assert_close(out.double(), truth[0], rtol=0, atol=2e-2)
    torch.testing.assert_close(lse.double(), truth[1], rtol=0, atol=2e-3)
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


def test_values_that_lie_elsewhere_are_not_taken_for_columns_of_the_keys(tiling):
    q, k, told = call_of(16)
    called(q, k, k[..., :OF_V], **told)
    elsewhere = random(*k.shape, seed=2)[..., :OF_V]
    with pytest.raises(Unsupported, match="first columns of k_cache"):
        called(q, k, elsewhere, **told)
