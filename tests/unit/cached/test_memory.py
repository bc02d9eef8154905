"""Caches in one memory, and what is appended from where it goes."""

import itertools

import pytest
import torch

from ring_attn_bench import InvalidArgument, flash_attn_with_kvcache
from ring_attn_bench.cached.memory import kept_apart, overlap, overwritten
from tests.unit.test_cached_attention import int32, random

BUFFER = torch.zeros(6, 8, 4, 10)


def slices(size):
    return [slice(a, b) for a, b in itertools.combinations(range(0, size + 1, size // 2), 2)]


def elements(x):
    """The offsets of all elements, by adding up strides."""
    offsets = torch.tensor([x.storage_offset()])
    for n, step in zip(x.shape, x.stride(), strict=True):
        offsets = (offsets[:, None] + torch.arange(n) * step).flatten()
    return set(offsets.tolist())


@pytest.mark.parametrize("dim", range(4))
def test_views_of_a_buffer_overlap_where_they_have_an_element_in_common(dim):
    views = [BUFFER.narrow(dim, a, n) for a in (0, 1, 3) for n in (1, 2, 3) if a + n <= 4]
    views += [x.transpose(0, 1) for x in views[:2]]
    for x, y in itertools.product(views, views):
        if x.stride() == y.stride():
            assert overlap(x, y) == bool(elements(x) & elements(y)), (x.shape, y.shape)
        assert overlap(x, y) == overlap(y, x)


def test_two_dims_at_once():
    views = [BUFFER[a][:, b] for a in slices(6) for b in slices(8)]
    for x, y in itertools.product(views, views):
        assert overlap(x, y) == bool(elements(x) & elements(y))


def test_tensors_of_nothing_and_other_memory_are_apart():
    assert not overlap(BUFFER, torch.zeros_like(BUFFER))
    assert not overlap(BUFFER[:0], BUFFER)
    assert not overwritten([None, BUFFER[:, :0], torch.ones(3)], [BUFFER])


def test_what_lies_elsewhere_is_not_copied():
    x = torch.ones(3)
    assert kept_apart(x, [BUFFER, BUFFER]) is x
    part = BUFFER[1:2]
    assert kept_apart(part, [x, BUFFER]) is not part


@pytest.mark.parametrize("second", [lambda b: b[..., 4:], lambda b: b[..., 1:, :, :8]], ids=str)
def test_caches_that_overlap_in_part_are_refused_where_something_is_appended(second):
    buffer = random(2, 9, 2, 12)
    k_cache, v_cache = buffer[:, :8, :, :8], second(buffer)[:, :8]
    new, q = random(2, 1, 2, 8, seed=3), random(2, 1, 4, 8, seed=4)
    told = {"cache_seqlens": int32(3, 5), "backend": "reference"}
    flash_attn_with_kvcache(q, k_cache, v_cache, **told)
    with pytest.raises(InvalidArgument, match="one memory, in part"):
        flash_attn_with_kvcache(q, k_cache, v_cache, new, new, **told)


def test_caches_of_one_head_overlap_whenever_they_got_its_dim():
    buffer, q = random(2, 8, 12), random(2, 1, 2, 8, seed=4)
    new, told = random(2, 1, 1, 8, seed=3), {"cache_seqlens": int32(3, 5), "backend": "reference"}
    k_cache = buffer[..., :8].unsqueeze(2)
    v_cache = buffer[..., 4:9].unsqueeze(2)
    assert v_cache.stride() != k_cache.stride()
    with pytest.raises(InvalidArgument, match="one memory, in part"):
        flash_attn_with_kvcache(q, k_cache, v_cache, new, new[..., :5], **told)
    apart = buffer[..., 8:].unsqueeze(2)
    flash_attn_with_kvcache(q, k_cache, apart, new, new[..., :4], **told)
    assert buffer[0, 3].equal(torch.cat([new[0, 0, 0], new[0, 0, 0, :4]]))


@pytest.mark.parametrize("page", [None, 4])
def test_latent_keys_are_not_appended_to_and_the_sentence_says_what_to_do(page):
    k_cache, q = random(2, 8, 2, 12), random(2, 1, 4, 12, seed=4)
    told = {"cache_seqlens": int32(3, 5), "backend": "reference"}
    if page is not None:
        k_cache, told["block_table"] = k_cache.view(4, 4, 2, 12), int32(0, 1, 2, 3).view(2, 2)
    new = random(2, 1, 2, 12, seed=3)
    before = k_cache.clone()
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="new keys into k_cache before the call"):
            flash_attn_with_kvcache(q, k_cache, k_cache[..., :8], new, new[..., :8], **told)
        one_head = k_cache[:, :, :1], k_cache[:, :, 0, :8].unsqueeze(2)
        with pytest.raises(InvalidArgument, match="new keys into k_cache before the call"):
            flash_attn_with_kvcache(q, *one_head, new[:, :, :1], new[:, :, :1, :8], **told)
    assert k_cache.equal(before)


def test_halves_of_one_buffer_are_two_caches():
    buffer, new = random(2, 8, 2, 2, 8), random(2, 1, 2, 8, seed=3)
    q, told = random(2, 1, 4, 8, seed=4), {"cache_seqlens": int32(3, 5), "backend": "reference"}
    apart = [buffer[:, :, side].clone() for side in (0, 1)]
    out = flash_attn_with_kvcache(q, buffer[:, :, 0], buffer[:, :, 1], new, -new, **told)
    assert out.equal(flash_attn_with_kvcache(q, *apart, new, -new, **told))
    assert all(buffer[:, :, side].equal(x) for side, x in enumerate(apart))


def test_what_is_read_from_where_new_tokens_go_is_read_first():
    whole = random(2, 20, 2, 8), random(2, 20, 2, 8, seed=2)
    told = {"cache_seqlens": int32(4, 5), "causal": True, "backend": "reference"}
    results = []
    for copies in (False, True):
        k, v = (x.clone() for x in whole)
        read = k[:, 3:7], k[:, 2:10], v[:, 1:9]
        read = [x.clone() for x in read] if copies else read
        results.append((flash_attn_with_kvcache(read[0], k, v, *read[1:], **told), k, v))
    assert all(a.equal(b) for a, b in zip(*results, strict=True))


def test_no_numbers_are_a_sentence():
    q, cache = (torch.zeros(2, n, 2, 8, device="meta") for n in (1, 9))
    with pytest.raises(InvalidArgument, match="meta device"):
        flash_attn_with_kvcache(q, cache, cache, backend="reference")


def test_a_table_much_longer_than_what_is_there_is_looked_at_where_tokens_are():
    table = torch.full((1, 10**7), 10**6, dtype=torch.int32)
    table[0, 0] = 1
    q, k, v = random(1, 1, 2, 8), random(2, 4, 2, 8), random(2, 4, 2, 8)
    told = {"cache_seqlens": int32(3), "block_table": table, "backend": "reference"}
    with pytest.raises(InvalidArgument, match="block_table"):
        flash_attn_with_kvcache(q, k, v, **told | {"cache_seqlens": int32(5)})
