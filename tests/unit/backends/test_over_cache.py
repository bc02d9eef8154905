"""Adapters over a cache of pages, flash-attn 3 and 4 and FlagGems, over fakes that compute."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.conformance.cached import inputs
from ring_attn_bench.conformance.feature import Asks
from ring_attn_bench.conformance.features.cache import CACHE
from ring_attn_bench.contract.cache import Appended, Cache, CachedCall, caching, reason_over_cache
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.cached import Dealt
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.records.direction import Direction
from tests.unit.backends.fake_kernels.conformance import answer
from tests.unit.backends.fake_kernels.flash_attn_3 import Of2025August, Of2026
from tests.unit.backends.fake_kernels.flash_attn_4 import FlashAttn4
from tests.unit.backends.over_pages import (
    MASKS,
    PROBLEM,
    close,
    drawn,
    fourth,
    gems,
    pages,
    third,
)  # fmt: skip

ALL = {"flash_attn_3": third, "flash_attn_4": fourth, "flag_gems": gems}
every = pytest.mark.parametrize("name", ALL)


@pytest.fixture
def backend(name, monkeypatch):
    return ALL[name](monkeypatch)


# which cases of the conformance suite are answered, and that they are answered right

REFUSED = {
    "flash_attn_3": {"cache_alibi", "cache_latent", "cache_sink"},
    "flash_attn_4": {
        "cache_append", "cache_rotary", "cache_leftpad", "cache_splits", "cache_alibi",
        "cache_sink", "cache_deterministic", "cache_latent",
    },
    "flag_gems": {
        "cache_append", "cache_rotary", "cache_leftpad", "cache_splits", "cache_sink",
        "cache_deterministic", "cache_latent",
    },
}  # fmt: skip
OTHER_DIMS = {"flash_attn_3": "one head dim", "flag_gems": "one head dim"}


@every
@pytest.mark.parametrize("feature", CACHE.features, ids=lambda feature: feature.name)
def test_each_feature_is_right_or_refused(name, feature, backend):
    reasons = {
        case.title: answer(
            backend, feature.asks, replace(case, dtype="bfloat16"), Direction.FORWARD
        )
        for case in feature.chosen("cpu", "bfloat16")
    }
    if feature.name in REFUSED[name]:
        assert all(reasons.values())
        return
    for title, reason in reasons.items():
        if "128 and 64" in title and name in OTHER_DIMS:
            assert OTHER_DIMS[name] in reason
        elif "appended to" in title and name != "flash_attn_3":
            assert "appends nothing to a cache; `triton`" in reason
        else:
            assert reason is None, title


# what the harness of the suite does not ask: packed queries, and numbers that nobody looked at


@every
@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_packed_queries_are_each_entrys_own(backend, mask):
    problem = replace(PROBLEM, packed=True, page_size=16, queries=5, capacity=64, mask=mask)
    assert reason_over_cache(backend, problem) is None
    cache, counts = pages([40, 17, 0, 9]), [5, 1, 2, 0]
    starts = torch.tensor([0, *counts]).cumsum(0).int()
    q = drawn(sum(counts), 4, 64)
    call = CachedCall(q, cache, mask, Score(0.125), starts=starts, longest=5)
    found, expected = (x.cached_forward(call) for x in (backend, ReferenceBackend()))
    close(found, expected)


@every
@pytest.mark.parametrize("queries", [1, 3])
def test_numbers_that_nobody_looked_at_lead_nowhere_else(backend, queries):
    """The fakes end in an illegal address for a length or a page that is not there."""
    cache = pages([40, 17, 9])
    cache = cache._replace(
        lengths=torch.tensor([-7, 10**9, 9], dtype=torch.int32),
        table=torch.tensor([[-1] * 4, [10**6] * 4, cache.table[2].tolist()], dtype=torch.int32),
    )
    call = CachedCall(drawn(3, queries, 4, 64), cache, Mask(True), Score(0.125))
    out, lse = backend.cached_forward(call)
    assert out[0].eq(0).all()
    assert lse[0].isneginf().all()
    expected = ReferenceBackend().cached_forward(call)
    close((out[2:], lse[2:]), (expected[0][2:], expected[1][2:]))


@every
def test_a_row_is_found_by_its_number(backend):
    k, v = drawn(5, 90, 2, 64), drawn(5, 90, 2, 64) + 1
    lengths, rows = (torch.tensor(x, dtype=torch.int32) for x in ([90, 33], [4, 1]))
    for given in (Cache(k, v, lengths, rows=rows), Cache(k, v, rows=rows)):
        call = CachedCall(drawn(2, 2, 4, 64), given, Mask(True), Score(0.125))
        found, expected = (x.cached_forward(call) for x in (backend, ReferenceBackend()))
        close(found, expected)


@every
def test_no_query_and_no_token_are_answered_without_a_launch(name, backend):
    lengths = torch.zeros(0, dtype=torch.int32)
    cache = Cache(drawn(0, 90, 2, 64), drawn(0, 90, 2, 64), lengths)
    out, lse = backend.cached_forward(CachedCall(drawn(0, 1, 4, 64), cache, Mask(), Score(1.0)))
    assert (out.shape, lse.shape) == ((0, 1, 4, 64), (0, 4, 1))
    packed = CachedCall(
        drawn(0, 4, 64), pages([3]), Mask(), Score(1.0), starts=torch.zeros(2).int(), longest=0
    )
    out, lse = backend.cached_forward(packed)
    assert (out.shape, lse.shape) == ((0, 4, 64), (4, 0))
    assert not backend._package.calls


@every
def test_what_no_kernel_of_them_does_is_refused(name, backend):
    def refused(**changes):
        return reason_over_cache(backend, replace(PROBLEM, **changes))

    assert caching(backend) is not None
    assert refused() is None
    assert "ranks" in refused(dealt=Dealt(64, 2, 0))
    assert "a query" in refused(queries=0)
    assert "float" in refused(dtype="float32")
    assert refused(head_dim=36, head_dim_v=36)
    assert "256" in refused(head_dim=264, head_dim_v=264)


# flash-attn 3


@pytest.mark.parametrize("package", [Of2025August, Of2026])
def test_flash_attn_3_is_asked_by_name_for_pages_with_a_padding(package, monkeypatch):
    backend = third(monkeypatch, package=package(), sm_margin=9)
    given = {"splits": 7, "softcap": 2.5, "mask": Mask(True, 17), "dtype": "bfloat16"}
    (feature,) = (x for x in CACHE.features if x.name == "cache_rotary")
    case = replace(feature.cases[0], **given)
    assert answer(backend, Asks.RESULTS, case, Direction.FORWARD) is None
    call = backend._package.calls[-1]
    asked = {
        "causal": True, "window_size": (17, -1), "softcap": 2.5, "num_splits": 7, "sm_margin": 9,
        "softmax_scale": 64**-0.5, "rotary_interleaved": True, "return_softmax_lse": True,
    }  # fmt: skip
    assert {name: call[name] for name in asked} == asked
    data = inputs(case, "cpu")
    assert call["k"].equal(data.k)
    assert call["v"].equal(data.v)
    assert call["rotary_cos"].equal(data.cos)
    assert call["cache_leftpad"].tolist() == [0, 0, 0]
    assert call["page_table"].tolist() == [[0], [1], [2]]
    assert call["cache_seqlens"].tolist() == list(case.lengths)
    left = {"cache_batch_idx", "cu_seqlens_q", "cu_seqlens_k_new", "max_seqlen_q", "pack_gqa"}
    assert all(call[name] is None for name in left)


def test_what_flash_attn_3_makes_of_rows_and_of_pages_without_a_padding():
    """What the tests above would find, if the adapter called it as its users do."""
    package, cache = Of2026(), pages([40, 17, 9], size=128)
    told = {"cache_seqlens": cache.lengths, "softmax_scale": 1.0}
    table = cache.table.clamp(0, len(cache.k) - 1)

    def run(queries, **more):
        return package.flash_attn_with_kvcache(drawn(3, queries, 4, 64), cache.k, cache.v, **more)

    few, many = (run(m, page_table=table, **told) for m in (1, 65))
    assert few.isfinite().all()
    assert many.isnan().any()
    zeros = torch.zeros(3, dtype=torch.int32)
    assert run(65, page_table=table, cache_leftpad=zeros, **told).isfinite().all()
    assert package.flash_attn_with_kvcache(
        drawn(3, 1, 4, 64), cache.k[:3], cache.v[:3], **told | {"cache_seqlens": zeros + 100}
    ).isnan().any()  # fmt: skip


def test_many_queries_over_pages_as_long_as_tiles_are_right(monkeypatch):
    cache = pages([140, 117, 129], size=128)
    call = CachedCall(drawn(3, 100, 4, 64), cache, Mask(True), Score(0.125))
    close(third(monkeypatch).cached_forward(call), ReferenceBackend().cached_forward(call))


def test_what_a_build_of_flash_attn_3_lacks_is_refused_where_it_is_needed(monkeypatch):
    backend = third(monkeypatch, "APPENDKV", "SPLIT", "LOCAL")
    assert reason_over_cache(backend, PROBLEM) is None
    for lacks, change in (
        ("APPENDKV", {"appended": 1}), ("SPLIT", {"splits": 2}), ("LOCAL", {"mask": Mask(True, 4)}),
    ):  # fmt: skip
        reason = reason_over_cache(backend, replace(PROBLEM, **change))
        assert reason == f"it was built with {lacks} left out"
    assert reason_over_cache(backend, replace(PROBLEM, splits=1)) is None
    for lacks in ("PAGEDKV", "VARLEN"):
        assert lacks in reason_over_cache(third(monkeypatch, lacks), PROBLEM)


def test_what_flash_attn_3_gets_wrong_is_refused(monkeypatch):
    backend = third(monkeypatch)

    def refused(**changes):
        return reason_over_cache(backend, replace(PROBLEM, **changes))

    turned = {"appended": 4, "queries": 4, "rotary_dim": 32}
    assert "multiple of 16" in refused(**turned | {"rotary_dim": 24})
    assert refused(**turned) is None
    for mask in (Mask(False, 999), Mask(False, 999, 3), Mask(window_right=3)):
        assert "rotates all queries alike" in refused(**turned, mask=mask)
        assert refused(**turned | {"queries": 1}, mask=mask) is None
    for mask in (Mask(), Mask(True, 999), Mask(False, 998), Mask(window_right=2)):
        assert refused(**turned, mask=mask) is None
    assert "no more queries" in refused(appended=1, queries=1001)
    assert refused(queries=1001) is None


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_what_flash_attn_3_appends_turns_and_skips_is_what_the_reference_does(mask, monkeypatch):
    results = []
    for backend in (third(monkeypatch), ReferenceBackend()):
        cache = pages([40, 17, 9])._replace(skipped=torch.tensor([3, 16, 9], dtype=torch.int32))
        table = torch.arange(12, dtype=torch.int32).reshape(3, 4).flip(1)
        k, v = (drawn(12, 16, 2, 64) + i for i in range(2))
        cache = cache._replace(k=k, v=v, table=table)
        angles = torch.linspace(0, 6, 64 * 16).reshape(64, 16)
        new = Appended(
            drawn(3, 4, 2, 64), drawn(3, 4, 2, 64), angles.cos().bfloat16(),
            angles.sin().bfloat16(), interleaved=False,
            one_place=not (mask.causal or mask.has_window),
        )  # fmt: skip
        call = CachedCall(drawn(3, 4, 4, 64), cache, mask, Score(0.125), new)
        results.append((*backend.cached_forward(call), k, v))
    close(results[0], results[1])
    for ours, theirs in zip(results[0][2:], results[1][2:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


# flash-attn 4


def test_what_flash_attn_4_would_read_by_tma_is_refused(monkeypatch):
    def refused(architecture=9, **changes):
        backend = fourth(monkeypatch, architecture)
        return reason_over_cache(backend, replace(PROBLEM, **changes))

    for size in ({"page_size": 128}, {"capacity": 128}):
        for architecture in (9, 10):
            assert "tiles, loaded whole by TMA" in refused(architecture, **size)
    assert refused(page_size=64) is None
    wide = {"head_dim": 256, "head_dim_v": 256}
    assert "of 64 tokens" in refused(page_size=64, **wide)
    assert refused(page_size=128, **wide) is None
    assert "at most 128 on Blackwell" in refused(10, page_size=16, **wide)
    assert refused(10, page_size=16, head_dim=192, head_dim_v=128) is None
    assert "multiples of 64" in refused(head_dim=80, head_dim_v=80)
    assert "sm_90" in refused(splits=2)
    assert refused(splits=1) is None
    assert refused(10, splits=2) is None
    assert "two head dims" in refused(10, splits=2, head_dim=128)


def test_flash_attn_4_chooses_splits_where_it_has_them(monkeypatch):
    call = CachedCall(drawn(3, 2, 4, 64), pages([40, 17, 9]), Mask(True), Score(0.125))
    for architecture, splits, told in ((9, 0, 1), (9, 1, 1), (10, 0, 0), (10, 3, 3)):
        backend = fourth(monkeypatch, architecture)
        close(
            backend.cached_forward(call._replace(splits=splits)),
            ReferenceBackend().cached_forward(call),
        )
        assert backend._package.calls[-1]["num_splits"] == told


def test_what_flash_attn_4_makes_of_rows():
    cache = pages([40, 17, 9], size=256)
    run = FlashAttn4()._flash_attn_fwd
    told = {"seqused_k": torch.full((3,), 100, dtype=torch.int32), "return_lse": True}
    assert (
        run(drawn(3, 1, 4, 64), cache.k[:3], cache.v[:3], softmax_scale=1.0, **told)[0]
        .isnan()
        .any()
    )


# FlagGems


def test_flag_gems_groups_the_heads_of_one_query_and_puts_their_lse_in_order(monkeypatch):
    backend = gems(monkeypatch)
    cache = pages([40, 17, 9])
    call = CachedCall(drawn(3, 1, 8, 64), cache, Mask(True), Score(0.125))
    close(backend.cached_forward(call), ReferenceBackend().cached_forward(call))
    assert backend._package.calls == [("over a cache", False, None)]


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("by_entry", [False, True])
@pytest.mark.parametrize("queries", [1, 3])
def test_flag_gems_over_a_cache_with_alibi(mask, by_entry, queries, monkeypatch):
    slopes = 0.5 ** torch.arange(1, 5.0)
    slopes = torch.stack([slopes, slopes / 2, slopes * 2]) if by_entry else slopes
    call = CachedCall(
        drawn(3, queries, 4, 64), pages([40, 17, 9]), mask, Score(0.125, alibi_slopes=slopes)
    )
    close(gems(monkeypatch).cached_forward(call), ReferenceBackend().cached_forward(call))


def test_caches_that_flag_gems_would_read_elsewhere_are_refused(monkeypatch):
    backend = gems(monkeypatch)
    k = drawn(3, 90, 2, 64)
    for k_cache, v_cache in (
        (drawn(3, 95, 2, 64)[:, :90], drawn(3, 95, 2, 64)[:, :90]),
        (k, drawn(3, 90, 4, 64)[:, :, :2]),
        (k[:1].expand(3, -1, -1, -1), k[:1].expand(3, -1, -1, -1)),
    ):
        call = CachedCall(drawn(3, 1, 4, 64), Cache(k_cache, v_cache), Mask(), Score(1.0))
        with pytest.raises(Unsupported, match="one behind another"):
            backend.cached_forward(call)


@pytest.mark.parametrize("name", ["flash_attn_3", "flash_attn_4"])
def test_caches_that_begin_where_no_kernel_can_read_are_refused(backend):
    odd = drawn(3, 90, 2, 68)[..., 2:66]
    even = drawn(3, 90, 2, 64)
    for given in (Cache(odd, even), Cache(even, odd)):
        call = CachedCall(drawn(3, 1, 4, 64), given, Mask(), Score(1.0))
        with pytest.raises(Unsupported, match="multiples of 16 bytes"):
            backend.cached_forward(call)
    call = CachedCall(drawn(3, 1, 4, 68)[..., 2:66], Cache(even, even), Mask(), Score(1.0))
    close(backend.cached_forward(call), ReferenceBackend().cached_forward(call))
