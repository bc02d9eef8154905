"""Our kernels over a cache, interpreted: whatever numbers they are handed, as the reference."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_attn_backends.reference import ReferenceBackend
from ring_attn_backends.triton import TritonBackend
from ring_attn_backends.triton.cached import latent as wide

from ring_attn_bench import flash_attn_varlen_func, flash_attn_with_kvcache
from ring_attn_bench.cached.call import computed
from ring_attn_bench.conformance.ask import faults
from ring_attn_bench.conformance.feature import Asks
from ring_attn_bench.conformance.features.cache import CACHE
from ring_attn_bench.contract.cache import Appended, Cache, CachedCall
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.cached import Dealt
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.records.direction import Direction

pytestmark = [
    pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning"),
    # of Triton 3.6's interpreter, to which a scalar is an array of one
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]
DIM, HEADS, KEY_HEADS = 16, 4, 2


SINK = torch.tensor([0.5, -1.0, 3.0, 0.0])
EXTREME = torch.tensor([-torch.inf, torch.inf, 3.4e38, -3.4e38])


def numbers(draw, count, low, high):
    drawn = draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
    return torch.tensor(drawn, dtype=torch.int32)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def calls(draw):
    """Of any shapes, with numbers that may be wrong: on a GPU nobody looks at them."""
    batch, size, paged = draw(st.integers(1, 3)), draw(st.integers(1, 24)), draw(st.booleans())
    count = draw(st.integers(1, 6)) if paged else batch
    k, v = (random(count, size, KEY_HEADS, DIM, seed=seed) for seed in (1, 2))
    cache = Cache(k, v)
    if paged:
        pages = draw(st.integers(1, 4))
        table = numbers(draw, batch * pages, -2, count + 1).view(batch, pages)
        cache = cache._replace(table=table)
    elif draw(st.booleans()):
        cache = cache._replace(rows=numbers(draw, batch, -1, count))
    if draw(st.booleans()):
        ranks = draw(st.integers(1, 3))
        blocks = [x for x in range(1, 9) if cache.own_capacity % x == 0]
        dealt = Dealt(draw(st.sampled_from(blocks)), ranks, draw(st.integers(0, ranks - 1)))
        cache = cache._replace(dealt=dealt)
    room = cache.capacity
    if draw(st.booleans()):
        cache = cache._replace(lengths=numbers(draw, batch, -3, room + 5))
    if draw(st.booleans()):
        cache = cache._replace(skipped=numbers(draw, batch, -3, room + 5))
    mask = Mask(
        draw(st.booleans()),
        draw(st.none() | st.integers(0, room)),
        draw(st.none() | st.integers(0, room)),
    )
    slopes = 0.5 ** torch.arange(1.0, HEADS + 1) if draw(st.booleans()) else None
    queries = draw(st.integers(1, 5))
    return CachedCall(
        random(batch, queries, HEADS, DIM), cache, mask,
        Score(DIM**-0.5, draw(st.sampled_from([0.0, 2.0])), slopes),
        splits=draw(st.integers(0, 4)), wide=draw(st.booleans()),
        sink=draw(st.none() | st.just(SINK) | st.just(EXTREME)),
    )  # fmt: skip


def places_once(call, appended):
    """Whether no two new tokens go to one place, where the last one would win."""
    cache, batch = call.cache, len(call.q)
    if cache.rows is not None:
        return len(set(cache.rows.tolist())) == batch
    return cache.table is None or len(set(cache.table.flatten().tolist())) == cache.table.numel()


def both(call):
    """Results and caches, of our kernels and of the reference."""
    for backend in (TritonBackend(), ReferenceBackend()):
        cache = call.cache._replace(k=call.cache.k.clone(), v=call.cache.v.clone())
        out, lse = computed(backend, call._replace(cache=cache, sink=None), call.sink)
        yield out, lse, cache.k, cache.v


@settings(deadline=None, max_examples=25)  # a second each
@given(calls())
def test_whatever_lengths_pages_and_rows_say_results_are_the_references(call):
    for ours, right in zip(*both(call), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=2e-6)


@settings(deadline=None, max_examples=15)
@given(calls(), st.data())
def test_what_is_appended_lands_where_the_reference_puts_it(call, data):
    appended, rotary = data.draw(st.integers(0, 5)), data.draw(st.sampled_from([0, 4, 16]))
    if not places_once(call, appended):
        return
    angles = random(max(1, call.cache.capacity), rotary // 2, seed=5)
    new = Appended(
        random(len(call.q), appended, KEY_HEADS, DIM, seed=3),
        random(len(call.q), appended, KEY_HEADS, DIM, seed=4),
        *((angles.cos(), angles.sin()) if rotary else (None, None)),
        interleaved=data.draw(st.booleans()),
        one_place=data.draw(st.booleans()),
    )
    for ours, right in zip(*both(call._replace(appended=new)), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=4e-6)


def cache_of(room, lengths, page=None):
    """The same tokens in a room of any size, in rows or in pages."""
    batch = len(lengths)
    tokens = [random(batch, 300, KEY_HEADS, DIM, seed=seed) for seed in (1, 2)]
    told = torch.tensor(lengths, dtype=torch.int32)
    if page is None:
        return Cache(*(x[:, :room].contiguous() for x in tokens), told)
    k, v = (x[:, :room].reshape(-1, page, KEY_HEADS, DIM).flip(0).contiguous() for x in tokens)
    table = torch.arange(len(k)).flip(0).view(batch, -1).int()
    return Cache(k, v, told, table)


@pytest.mark.parametrize("splits", [0, 3])
@pytest.mark.parametrize("page", [None, 5, 64])
def test_room_that_nobody_uses_and_pages_change_no_bit(splits, page):
    lengths = 70, 33
    q = random(2, 3, HEADS, DIM)
    call = CachedCall(q, cache_of(80, lengths), Mask(True), Score(0.25), splits=splits)
    room = 300 if page is None else 20 * page if page == 5 else 256

    wider = call._replace(cache=cache_of(room, lengths, page))

    small, large = (TritonBackend().cached_forward(x) for x in (call, wider))
    assert torch.equal(small[0], large[0])
    assert torch.equal(small[1], large[1])


@pytest.mark.parametrize("splits", [1, 3])
def test_a_sink_that_is_no_number_leaves_none_to_its_head_alone(splits):
    q, sink = random(1, 2, HEADS, DIM), torch.tensor([torch.nan, 0.0, 1.0, 2.0])
    call = CachedCall(q, cache_of(80, (70,)), Mask(True), Score(0.25), splits=splits, sink=sink)

    out, lse = TritonBackend().cached_forward(call)

    assert out[:, :, 0].isnan().all()
    assert not out[:, :, 1:].isnan().any()
    assert not lse[:, 1:].isnan().any()


class WithoutSink(TritonBackend):
    """Says that it takes sinks, and does not look at them."""

    def cached_forward(self, call):
        return super().cached_forward(call._replace(sink=None))


(SINKS,) = (feature.cases for feature in CACHE.features if feature.name == "cache_sink")


@pytest.mark.parametrize("case", SINKS, ids=str)
def test_a_sink_that_is_dropped_is_noticed(case):
    case = replace(case, dtype="float32")

    assert faults(TritonBackend(), Asks.RESULTS, case, Direction.FORWARD, "cpu") == []
    assert faults(WithoutSink(), Asks.RESULTS, case, Direction.FORWARD, "cpu")


@pytest.mark.parametrize("splits", [0, 1, 5])
def test_no_query_has_no_result_however_many_programs_share_the_keys(splits):
    q, k = random(2, 0, HEADS, DIM), random(2, 9, KEY_HEADS, DIM)
    out = flash_attn_with_kvcache(q, k, k.clone(), num_splits=splits, backend="triton")
    assert out.shape == q.shape
    starts, ends = (torch.tensor(x, dtype=torch.int32) for x in ([0, 0, 0], [0, 9, 18]))
    table = torch.tensor([[0], [1]], dtype=torch.int32)
    packed = flash_attn_varlen_func(
        q.flatten(0, 1), k, k.clone(), starts, ends, 1, 9, block_table=table, backend="triton"
    )
    assert packed.shape == (0, HEADS, DIM)


def test_packed_queries_see_what_they_see_by_themselves():
    lengths, queries = (70, 33, 0), (5, 0, 3)
    cache = cache_of(80, lengths)
    q = random(sum(queries), HEADS, DIM)
    starts = torch.tensor([0, 5, 5, 8], dtype=torch.int32)
    call = CachedCall(q, cache, Mask(True, 40), Score(0.25), starts=starts, longest=5)

    for splits in (1, 3):
        out, lse = TritonBackend().cached_forward(call._replace(splits=splits))
        for entry, (start, stop) in enumerate(((0, 5), (5, 5), (5, 8))):
            own = cache._replace(
                k=cache.k[entry : entry + 1],
                v=cache.v[entry : entry + 1],
                lengths=cache.lengths[entry : entry + 1],
            )
            alone = CachedCall(q[start:stop][None], own, call.mask, call.score)
            right, right_lse = ReferenceBackend().cached_forward(alone)
            torch.testing.assert_close(out[start:stop], right[0], rtol=1e-5, atol=2e-6)
            torch.testing.assert_close(lse[:, start:stop], right_lse[0], rtol=1e-5, atol=2e-6)


def test_a_table_whose_pages_lie_apart_in_memory_is_read_as_it_says():
    k, v = random(6, 4, KEY_HEADS, DIM), random(6, 4, KEY_HEADS, DIM, seed=1)
    table = torch.tensor([[5, 0, 3], [2, 4, 1]], dtype=torch.int32)
    by_columns, used = table.T.contiguous().T, torch.tensor([9, 7], dtype=torch.int32)
    assert by_columns.stride() == (1, 2)
    starts, ends = (torch.tensor(x, dtype=torch.int32) for x in ([0, 1, 2], [0, 9, 16]))
    q = random(2, 1, HEADS, DIM)
    for pages in (table, by_columns):
        told = {"block_table": pages, "backend": "triton"}
        out = flash_attn_with_kvcache(q, k, v, cache_seqlens=used, **told)
        packed = flash_attn_varlen_func(q[:, 0], k, v, starts, ends, 1, 9, **told)
        if pages is table:
            right = out
        assert out.equal(right)
        torch.testing.assert_close(packed, right[:, 0], rtol=1e-5, atol=2e-6)


LATENT, ROPE = 512, 64
"""Columns of DeepSeek's latent keys that are values too, and others."""


@pytest.fixture
def latent(monkeypatch):
    monkeypatch.setattr(wide, "TABLE", {each.rows: each for each in wide.CANDIDATES})


def latent_call(batch=2, queries=1, heads=8, page=None, room=96):
    q = random(batch, queries, heads, LATENT + ROPE).half()
    shape = (batch, room) if page is None else (batch * room // page, page)
    k = random(*shape, 1, LATENT + ROPE, seed=1).half()
    told = {"cache_seqlens": torch.tensor([room - 7, 33][:batch], dtype=torch.int32)}
    if page is not None:
        told["block_table"] = torch.randperm(len(k)).view(batch, -1).int()
    return q, k, told


@pytest.mark.parametrize("page", [None, 16, 48])
@pytest.mark.parametrize(("queries", "heads"), [(1, 8), (2, 24), (3, 1)])
def test_values_that_are_columns_of_wide_keys_are_attended_over(latent, queries, heads, page):
    q, k, told = latent_call(queries=queries, heads=heads, page=page)
    out, lse = flash_attn_with_kvcache(
        q, k, k[..., :LATENT], **told, causal=True, return_softmax_lse=True, backend="triton"
    )
    expected, expected_lse = flash_attn_with_kvcache(
        q.double(), k.double(), k.double()[..., :LATENT], **told, causal=True,
        return_softmax_lse=True, backend="reference",
    )  # fmt: skip

    torch.testing.assert_close(out.double(), expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(lse.double(), expected_lse, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("splits", [1, 2, 5])
def test_wide_keys_may_be_shared_by_programs(latent, splits):
    q, k, told = latent_call()
    out = flash_attn_with_kvcache(
        q, k, k[..., :LATENT], **told, num_splits=splits, backend="triton"
    )
    alone = flash_attn_with_kvcache(q, k, k[..., :LATENT], **told, backend="reference")

    torch.testing.assert_close(out, alone, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("page", [None, 16])
def test_values_of_keys_that_got_their_dim_of_heads_later_are_their_columns_too(latent, page):
    q, k, told = latent_call(page=page)
    v = k[:, :, 0, :LATENT].unsqueeze(2)
    assert v.stride() != k.stride()
    alone = flash_attn_with_kvcache(q, k, k[..., :LATENT], **told, backend="triton")

    assert flash_attn_with_kvcache(q, k, v, **told, backend="triton").equal(alone)


def test_values_apart_from_wide_keys_are_refused_though_they_look_alike(latent):
    q, k, told = latent_call()
    elsewhere = random(*k.shape, seed=5).half()[..., :LATENT]
    flash_attn_with_kvcache(q, k, k[..., :LATENT], **told, backend="triton")

    assert elsewhere.stride() == k.stride()
    with pytest.raises(Unsupported, match="where v_cache is the first columns of k_cache"):
        flash_attn_with_kvcache(q, k, elsewhere, **told, backend="triton")


def test_values_apart_from_a_parameter_of_wide_keys_are_refused_too(latent):
    q, k, told = latent_call()
    k = torch.nn.Parameter(k, requires_grad=False)
    elsewhere = random(*k.shape, seed=5).half()[..., :LATENT]
    flash_attn_with_kvcache(q, k, k[..., :LATENT], **told, backend="triton")

    with pytest.raises(Unsupported, match="where v_cache is the first columns of k_cache"):
        flash_attn_with_kvcache(q, k, elsewhere, **told, backend="triton")


@pytest.mark.parametrize(
    ("head_dim", "head_dim_v", "dtype"),
    [(640, 640, "float16"), (576, 512, "float32"), (1024, 512, "float16"), (800, 768, "float16")],
)
def test_what_has_no_room_is_refused(latent, head_dim, head_dim_v, dtype):
    k = torch.zeros(1, 8, 1, head_dim, dtype=getattr(torch, dtype))
    with pytest.raises(Unsupported, match=r"head_dim above 256|at most 512 columns"):
        flash_attn_with_kvcache(k, k, k[..., :head_dim_v], backend="triton")


def test_packed_queries_over_pages_of_wide_keys_are_refused_by_what_they_are(latent):
    q, k, told = latent_call(page=16)
    starts = torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([0, 9, 16], dtype=torch.int32)
    with pytest.raises(Unsupported, match="for packed queries over pages"):
        flash_attn_varlen_func(
            q[:, 0], k, k[..., :LATENT], *starts, 1, 9, block_table=told["block_table"],
            backend="triton",
        )  # fmt: skip
