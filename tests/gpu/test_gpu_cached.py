"""On a GPU: attention over a cache, called again, captured, with any lengths, far into memory."""

from __future__ import annotations

import pytest
import torch

from ring_attn_bench import InvalidArgument, flash_attn_varlen_func, flash_attn_with_kvcache
from tests.gpu.over_cache import called, int32, random, right

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280)]
BATCH, ROOM, HEADS, KEY_HEADS, DIM = 3, 2048, 8, 2, 128


def inputs(queries=1, room=ROOM):
    caches = [random(BATCH, room, KEY_HEADS, DIM, seed=seed) for seed in (1, 2)]
    return random(BATCH, queries, HEADS, DIM), *caches


def assert_near(found, truth, lse_atol=2e-3):
    out, lse = found
    torch.testing.assert_close(out.double(), truth[0], rtol=0, atol=2e-2)
    torch.testing.assert_close(lse.double(), truth[1], rtol=0, atol=lse_atol)


def options_of(way):
    """What a step is asked besides q and a cache, with tensors of its own, by what it is called."""
    lengths = {"cache_seqlens": int32(1900, 777, 0), "causal": True}
    new = {"k": random(BATCH, 1, KEY_HEADS, DIM, seed=3),
           "v": random(BATCH, 1, KEY_HEADS, DIM, seed=4)}  # fmt: skip
    angles = random(ROOM, 32, seed=5)
    ways = {
        "rows": {},
        "append": new,
        "rotary": new | {"rotary_cos": angles.cos(), "rotary_sin": angles.sin()},
        "sink and slopes": {
            "sink": random(HEADS, dtype=torch.float32),
            "alibi_slopes": random(HEADS, seed=6, dtype=torch.float32).abs(),
        },
        "left padding": {"cache_leftpad": int32(100, 0, 0), "softcap": 20.0},
        "other rows": {"cache_batch_idx": int32(2, 0, 1)},
        "one share": {"num_splits": 1},
    }
    return lengths | ways[way]


WAYS = ("rows", "append", "rotary", "sink and slopes", "left padding", "other rows", "one share")


@pytest.mark.parametrize("way", WAYS)
def test_a_step_made_again_has_the_bits_of_the_first_with_its_lse_or_without(way):
    tensors, told = inputs(), options_of(way)
    poison = [torch.full((1 << 18,), float("nan"), device="cuda") for _ in range(8)]
    first = called(*tensors, **told)
    # what is rotated is rounded to bfloat16, as flash-attn's is: in 128 products of numbers of size
    # 1 a score is off by 1.1e-3, and the bound is five times that
    lse_atol = 6e-3 if way == "rotary" else 2e-3
    assert_near(first, right(*tensors, **told), lse_atol)
    del poison  # what is not written shows
    others = [random(BATCH, 1, HEADS, DIM, seed=seed) for seed in range(9)]
    alone = [flash_attn_with_kvcache(q, *tensors[1:], backend="triton", **told) for q in others]
    for _ in range(3):
        again = called(*tensors, **told)
        assert all(map(torch.equal, again, first))
    for q, out in zip(others, alone, strict=True):
        assert torch.equal(out, called(q, *tensors[1:], **told)[0])
        assert_near(called(q, *tensors[1:], **told), right(q, *tensors[1:], **told), lse_atol)


def test_a_step_whose_queries_lie_elsewhere_is_not_taken_for_one_that_lay_aligned():
    tensors, told = inputs(), options_of("rows")
    truth = right(*tensors, **told)
    room = random(BATCH * HEADS * DIM + 8)
    for shift in (0, 0, 1, 8, 3, 0):
        q = room[shift : shift + BATCH * HEADS * DIM].view(BATCH, 1, HEADS, DIM).copy_(tensors[0])
        assert_near(called(q, *tensors[1:], **told), truth)


def test_tensors_that_are_one_are_not_taken_for_two():
    q, k_cache, v_cache = inputs()
    for _ in range(2):
        called(q, k_cache, k_cache, **options_of("rows"))
    told = options_of("rows")
    assert_near(called(q, k_cache, v_cache, **told), right(q, k_cache, v_cache, **told))
    assert_near(called(q, k_cache, k_cache, **told), right(q, k_cache, k_cache, **told))


@pytest.mark.parametrize("queries", [1, 5, 128])
@pytest.mark.parametrize("splits", [0, 1, 7])
def test_results_are_those_of_float64(queries, splits):
    tensors, told = inputs(queries), {"cache_seqlens": int32(2048, 777, 0), "causal": True}

    assert_near(called(*tensors, **told, num_splits=splits), right(*tensors, **told))


def test_a_call_made_again_gives_the_same_bits_and_reads_lengths_anew():
    tensors = inputs()
    lengths = int32(2048, 777, 1)
    first, *others = (called(*tensors, cache_seqlens=lengths) for _ in range(20))
    for other in others:
        assert torch.equal(first[0], other[0])
        assert torch.equal(first[1], other[1])

    lengths.copy_(int32(5, 2048, 300))

    assert_near(called(*tensors, cache_seqlens=lengths), right(*tensors, cache_seqlens=lengths))


def test_room_that_nobody_uses_changes_no_bit():
    q, k, v = inputs()
    told = {"cache_seqlens": int32(600, 17, 1)}
    small = [x[:, :640].contiguous() for x in (k, v)]
    large = [torch.cat([x, torch.full_like(x, torch.nan)], 1) for x in (k, v)]

    found, wider = called(q, *small, **told), called(q, *large, **told)

    assert torch.equal(found[0], wider[0])
    assert torch.equal(found[1], wider[1])


def test_a_captured_step_appends_rotates_and_serves_other_lengths():
    q, *caches = inputs()
    new = [random(BATCH, 1, KEY_HEADS, DIM, seed=seed) for seed in (3, 4)]
    angles = torch.arange(ROOM, device="cuda")[:, None] / 100.0 ** torch.arange(0, 1, 1 / 16).cuda()
    told = {
        "cache_seqlens": int32(7, 9, 11), "causal": True,
        "rotary_cos": angles.cos().bfloat16(), "rotary_sin": angles.sin().bfloat16(),
    }  # fmt: skip
    called(q, *caches, *new, **told)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = called(q, *caches, *new, **told)

    for lengths in ((100, 2000, 3), (2047, 0, 1024)):
        fresh = [random(BATCH, ROOM, KEY_HEADS, DIM, seed=sum(lengths) + i) for i in range(2)]
        for cache, values in zip(caches, fresh, strict=True):
            cache.copy_(values)
        told["cache_seqlens"].copy_(int32(*lengths))
        graph.replay()
        eager = [x.clone() for x in fresh]
        again = called(q, *eager, *new, **told)
        assert torch.equal(out, again[0])
        assert torch.equal(lse, again[1])
        assert all(torch.equal(x, y) for x, y in zip(caches, eager, strict=True))
        assert_near(again, right(q, *[x.clone() for x in fresh], *new, **told))


def test_lengths_that_change_compile_nothing():
    import triton

    q, k, v = inputs()
    compiled = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(told)
    try:
        for length in (1, 16, 17, 512, 2048):
            called(q, k, v, cache_seqlens=length)
            called(q, k[:, :length], v[:, :length])
        found = len(compiled)
        for length in (3, 32, 1000):
            called(q, k, v, cache_seqlens=length)
            called(q, k[:, :length], v[:, :length])
    finally:
        triton.knobs.runtime.jit_post_compile_hook = None

    assert len(compiled) == found


@pytest.mark.parametrize("page", [16, 64, 80, 256])
def test_pages_anywhere_are_a_row(page):
    q, k, v = inputs(5)
    room = ROOM // page * page
    pages = [x[:, :room].reshape(-1, page, KEY_HEADS, DIM) for x in (k, v)]
    order = torch.randperm(len(pages[0]), device="cuda")
    scattered = [torch.empty_like(x).index_copy_(0, order, x) for x in pages]
    told = {"cache_seqlens": int32(room, 777, 1), "causal": True}

    found = called(q, *scattered, **told, block_table=order.view(BATCH, -1).int())

    row = called(q, k[:, :room], v[:, :room], **told)
    torch.testing.assert_close(found[0], row[0], rtol=0, atol=0)
    torch.testing.assert_close(found[1], row[1], rtol=0, atol=0)


def test_numbers_that_cannot_be_right_read_and_write_nothing_else():
    q, k, v = inputs()
    new = [random(BATCH, 2, KEY_HEADS, DIM, seed=seed) for seed in (3, 4)]
    wild = int32(-(2**31), 2**31 - 1, 10**6)
    told = {"cache_seqlens": wild, "cache_leftpad": wild}
    before = k.clone()
    out, lse = called(q, k, v, *new, **told, cache_batch_idx=wild)
    torch.cuda.synchronize()
    assert torch.equal(k, before)
    assert not out.any()
    assert lse.isneginf().all()

    pages = [x.view(-1, 16, KEY_HEADS, DIM) for x in (k, v)]
    table = wild[:, None].expand(-1, 128).contiguous()
    out, lse = called(q, *pages, *new, cache_seqlens=int32(5, 2000, 0), block_table=table)
    torch.cuda.synchronize()
    assert torch.equal(k, before)
    assert not out.any()
    assert lse.isneginf().all()


def test_a_cache_beyond_2_to_the_31_elements():
    q = random(2, 1, HEADS, DIM)
    k = torch.empty(2, 2**31 // (KEY_HEADS * DIM) + 1024, KEY_HEADS, DIM, dtype=torch.bfloat16,
                    device="cuda")  # fmt: skip
    room = k.shape[1]
    for entry in range(2):
        k[entry, :300] = random(300, KEY_HEADS, DIM, seed=entry)
    small = k[:, :300].clone()
    told = {"cache_seqlens": int32(300, 200)}

    found = called(q, k, k, **told)

    assert_near(found, right(q, small, small, **told))
    last = k.view(-1, 64, KEY_HEADS, DIM)  # pages, the last of which lie as far away
    table = torch.tensor([[0, len(last) - 1]] * 2, dtype=torch.int32, device="cuda")
    last[-1].copy_(random(64, KEY_HEADS, DIM, seed=7))
    rows = torch.cat([last[0], last[-1]])[None].expand(2, -1, -1, -1)
    told = {"cache_seqlens": int32(128, 100)}
    assert room > 2**23
    assert_near(called(q, last, last, **told, block_table=table), right(q, rows, rows, **told))


def test_a_length_that_is_a_number_and_what_it_may_be():
    q, k, v = inputs()

    assert_near(called(q, k, v, cache_seqlens=33), right(q, k, v, cache_seqlens=int32(33, 33, 33)))
    with pytest.raises(InvalidArgument, match="allowed are 0 to 2048"):
        called(q, k, v, cache_seqlens=2049)


@pytest.mark.parametrize("page", [16, 256])
def test_packed_queries_over_pages_are_those_over_a_row(page):
    queries, keys = (300, 1, 0, 77), (300, 1000, 16, 80)
    q = random(sum(queries), HEADS, DIM)
    pages = [random(64 * 256 // page, page, KEY_HEADS, DIM, seed=seed) for seed in (1, 2)]
    table = torch.randperm(len(pages[0]))[: 4 * (1024 // page)].view(4, -1).int().cuda()
    starts = [
        torch.tensor([0, *torch.tensor(x).cumsum(0).tolist()], dtype=torch.int32, device="cuda")
        for x in (queries, keys)
    ]
    told = *starts, max(queries), max(keys)
    options = {"causal": True, "backend": "triton", "return_attn_probs": True}

    out, lse, _ = flash_attn_varlen_func(q, *pages, *told, block_table=table, **options)

    rows = [
        torch.cat([x[table[d].long()].flatten(0, 1)[:length] for d, length in enumerate(keys)])
        for x in pages
    ]
    wanted, wanted_lse, _ = flash_attn_varlen_func(q, *rows, *told, **options)
    torch.testing.assert_close(out.float(), wanted.float(), rtol=0, atol=2e-2)
    torch.testing.assert_close(lse, wanted_lse, rtol=0, atol=2e-3)


PREFILL_WRONG = {
    "table": ({"block_table": [[0, 9]]}, "block_table is .*; allowed are 0 to 2"),
    "starts": ({"cu_seqlens_k": [1, 20]}, "cu_seqlens_k must rise from 0"),
    "longest": ({"max_seqlen_k": 19}, "max_seqlen_k is 19, but a document has 20 tokens"),
    "used": ({"seqused_k": [21]}, "seqused_k is 21; allowed are 0 to 20"),
}


@pytest.mark.parametrize(("wrong", "sentence"), PREFILL_WRONG.values(), ids=PREFILL_WRONG)
def test_the_switch_reads_what_is_told_of_pages_too(wrong, sentence):
    told = {
        "cu_seqlens_q": [0, 4], "cu_seqlens_k": [0, 20], "block_table": [[0, 2]],
        "max_seqlen_q": 4, "max_seqlen_k": 20,
    } | wrong  # fmt: skip
    told = {name: x if isinstance(x, int) else int32(*x) for name, x in told.items()}
    q, *pages = random(4, HEADS, DIM), *(random(3, 16, KEY_HEADS, DIM, seed=n) for n in (1, 2))

    with pytest.raises(InvalidArgument, match=sentence):
        flash_attn_varlen_func(q, *pages, **told, check_cu_seqlens=True, backend="triton")


def test_documents_whose_used_keys_fit_the_longest_are_not_dropped():
    q, *pages = random(4, HEADS, DIM), *(random(3, 16, KEY_HEADS, DIM, seed=n) for n in (1, 2))
    starts, table = (int32(0, 4), int32(0, 20)), int32([0, 2])
    more = {"block_table": table, "seqused_k": int32(7), "backend": "triton"}

    found = flash_attn_varlen_func(q, *pages, *starts, 4, 7, **more)

    assert torch.equal(found, flash_attn_varlen_func(q, *pages, *starts, 4, 20, **more))
