"""Which calls over a cache the Hopper forward gets."""

from dataclasses import dataclass

import pytest
import torch

from ring_attn_bench.contract.cache import Cache, CachedCall
from ring_attn_bench.plan.cached import Dealt
from ring_attn_bench.plan.problem import Mask, Score

pytest.importorskip("triton")

from ring_attn_backends.triton.cached import chunks
from ring_attn_backends.triton.hopper import serves


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")


def call(batch, queries, heads=32, dim=128, room=4096):
    k = meta(batch, room, 8, dim)
    q = meta(batch, queries, heads, dim)
    return CachedCall(q, Cache(k, torch.empty_like(k)), Mask(True), Score(dim**-0.5))


@pytest.fixture(autouse=True)
def hopper(monkeypatch):
    monkeypatch.setattr(serves, "serves_cache", lambda tensors, score: True)


@pytest.mark.parametrize(
    ("batch", "queries", "is_chunk"),
    [
        (1, 2048, True),
        (8, 128, True),
        (1, 512, True),
        (4, 64, True),
        (1, 128, True),
        (1, 65, True),
        (3, 128, False),
        (64, 63, False),
    ],
)
def test_it_gets_many_queries_where_its_programs_fill_a_gpu(batch, queries, is_chunk):
    assert chunks.is_chunk(call(batch, queries)) is is_chunk


def test_pages_shares_sinks_and_what_is_dealt_or_packed_stay_with_attend():
    one = call(8, 512)
    assert chunks.is_chunk(one)
    others = [
        one._replace(splits=2), one._replace(wide=True), one._replace(sink=meta(32)),
        one._replace(starts=meta(9, dtype=torch.int32), longest=512),
        one._replace(cache=one.cache._replace(table=meta(8, 4, dtype=torch.int32))),
        one._replace(cache=one.cache._replace(dealt=Dealt(64, 2, 0))),
    ]  # fmt: skip

    assert [chunks.is_chunk(x) for x in others] == [False] * len(others)


def test_tokens_farther_than_tma_counts_stay_there_too():
    assert not chunks.is_chunk(call(8, 512, room=2**27))


@dataclass
class OnGpu:
    """As much of a tensor as is asked for."""

    like: torch.Tensor
    is_cuda = True

    def __getattr__(self, name):
        return getattr(self.like, name)

    def data_ptr(self):
        return 0


def test_rows_that_lie_apart_are_not_read_as_one(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(serves, "unserved", lambda device: None)
    near, apart = meta(4, 64, 8, 128), meta(4, 65, 8, 128)[:, :64]
    q = OnGpu(meta(4, 100, 8, 128))

    assert serves.serves_cache((q, OnGpu(near), OnGpu(near)), Score(1.0))
    assert not serves.serves_cache((q, OnGpu(near), OnGpu(apart)), Score(1.0))
    assert not serves.serves_cache((q, OnGpu(near), OnGpu(near)), Score(-1.0))
