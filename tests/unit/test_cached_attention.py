"""Attention over a cache is attention over the tokens that it holds; bad input is a sentence."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench import InvalidArgument, Unsupported, flash_attn_func, flash_attn_with_kvcache

DIM = 8


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def inputs(batch=2, queries=1, room=12, heads=4, key_heads=2):
    q = random(batch, queries, heads, DIM)
    return (
        q,
        random(batch, room, key_heads, DIM, seed=1),
        random(batch, room, key_heads, DIM, seed=2),
    )


def called(*tensors, **options):
    return flash_attn_with_kvcache(
        *tensors, backend="reference", return_softmax_lse=True, **options
    )


def assert_same(found, right):
    for x, y in zip(found, right[:2], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


def alone(q, k, v, **options):
    """The same of one entry, without a cache."""
    return flash_attn_func(
        q[None], k[None], v[None], backend="reference", return_attn_probs=True, **options
    )


@settings(deadline=None)
@given(st.data())
def test_every_option_over_a_cache_is_as_without_one(data):
    draw = data.draw
    q, k, v = inputs(queries=draw(st.integers(1, 4)))
    lengths = draw(st.lists(st.integers(0, 12), min_size=2, max_size=2))
    options = {
        "causal": draw(st.booleans()),
        "window_size": draw(st.tuples(st.integers(-1, 5), st.integers(-1, 5))),
        "softcap": draw(st.sampled_from([0.0, 1.5])),
        "softmax_scale": draw(st.sampled_from([None, 0.3, -0.3, 0.0])),
    }
    if draw(st.booleans()):
        options["alibi_slopes"] = 0.5 ** torch.arange(1.0, 5)
    if draw(st.booleans()):
        options["sink"] = torch.tensor([0.5, -math.inf, 3.0, -2.0], dtype=torch.float64)

    out, lse = called(q, k, v, cache_seqlens=int32(*lengths), **options)

    for entry, length in enumerate(lengths):
        right = alone(q[entry], k[entry, :length], v[entry, :length], **options)
        assert_same((out[entry : entry + 1], lse[entry : entry + 1]), right)


def test_one_length_for_all_is_as_one_for_each():
    q, k, v = inputs()

    assert_same(called(q, k, v, cache_seqlens=7), called(q, k, v, cache_seqlens=int32(7, 7)))
    assert_same(called(q, k, v), called(q, k, v, cache_seqlens=12))


def test_lengths_are_read_anew_in_every_call():
    q, k, v = inputs()
    lengths = int32(7, 7)
    first = called(q, k, v, cache_seqlens=lengths)
    lengths.fill_(3)

    assert_same(called(q, k, v, cache_seqlens=lengths), called(q, k, v, cache_seqlens=3))
    assert not torch.equal(first[0], called(q, k, v, cache_seqlens=lengths)[0])
    assert_same(called(q, k, v, cache_seqlens=5), called(q, k, v, cache_seqlens=int32(5, 5)))


def test_decoding_step_by_step_is_causal_attention_at_once():
    q, k, v = inputs(queries=6, room=6)
    whole, lse = called(q, k, v, causal=True)
    k_cache, v_cache = torch.full_like(k, math.nan), torch.full_like(v, math.nan)

    for step in range(6):
        at = slice(step, step + 1)
        found = called(
            q[:, at], k_cache, v_cache, k[:, at], v[:, at], cache_seqlens=step, causal=True
        )
        assert_same(found, (whole[:, at], lse[:, :, at]))
    assert torch.equal(k_cache, k)
    assert torch.equal(v_cache, v)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotated_scores_depend_on_distances_alone(interleaved):
    q, k, v = inputs(queries=3, room=40)
    angles = torch.arange(40.0, dtype=torch.float64)[:, None] * 10.0 ** -torch.arange(4.0)
    options = {
        "rotary_cos": angles.cos(),
        "rotary_sin": angles.sin(),
        "rotary_interleaved": interleaved,
        "causal": True,
    }

    def prefilled(pad):
        caches = torch.zeros_like(k), torch.zeros_like(v)
        return called(
            q, *caches, k[:, :3], v[:, :3], cache_seqlens=pad, cache_leftpad=int32(pad, pad),
            **options,
        )  # fmt: skip

    assert_same(prefilled(0), prefilled(17))


def test_pages_in_any_order_are_a_row():
    q, k, v = inputs(queries=3)
    new = random(2, 2, 2, DIM, seed=4), random(2, 2, 2, DIM, seed=5)
    pages = [x.reshape(8, 3, 2, DIM).flip(0).contiguous() for x in (k, v)]
    table = torch.arange(7, -1, -1).view(2, 4).int()
    lengths = int32(4, 9)

    paged = called(q, *pages, *new, cache_seqlens=lengths, block_table=table)

    assert_same(paged, called(q, k, v, *new, cache_seqlens=lengths))
    assert torch.equal(pages[0].flip(0).reshape(k.shape), k)


def test_entries_may_be_any_rows_of_a_larger_cache():
    q, k, v = inputs()
    large = [torch.cat([torch.full_like(x, math.nan), x.flip(0)]) for x in (k, v)]

    found = called(q, *large, cache_seqlens=int32(5, 9), cache_batch_idx=int32(3, 2))

    assert_same(found, called(q, k, v, cache_seqlens=int32(5, 9)))


def test_a_last_dim_that_is_not_contiguous_is_copied():
    q, k, v = inputs(queries=2)
    new = [random(2, 2, 2, DIM, seed=seed) for seed in (4, 5)]
    told = {"cache_seqlens": 5, "causal": True}
    right = called(q, k.clone(), v.clone(), *new, **told)
    q, *new = (x.transpose(1, 3).contiguous().transpose(1, 3) for x in (q, *new))

    assert q.stride(-1) != 1
    assert_same(called(q, k, v, *new, **told), right)


def test_no_query_has_no_result_and_the_cache_is_appended_to():
    q, k, v = inputs(queries=0)
    new = random(2, 2, 2, DIM, seed=4)

    out, lse = called(q, k, v, new, new, cache_seqlens=5)

    assert out.shape == (2, 0, 4, DIM)
    assert lse.shape == (2, 4, 0)
    assert torch.equal(k[:, 5:7], new)


def test_autocast_changes_nothing():
    q, k, v = inputs()
    with torch.autocast("cpu"):
        assert_same(called(q, k, v, cache_seqlens=7), called(q, k, v, cache_seqlens=7))
        assert called(q, k, v)[0].dtype is torch.float64


def test_a_backend_without_caches_says_so_and_auto_goes_on():
    q, k, v = inputs()
    with pytest.raises(Unsupported, match="it has no attention over a cache"):
        flash_attn_with_kvcache(q, k, v, backend="aten")
    assert_same((flash_attn_with_kvcache(q, k, v),), called(q, k, v)[:1])


Q, K, V = inputs()
NEW = random(2, 1, 2, DIM)
ANGLES = random(12, 4)
TABLE = torch.zeros(2, 3, dtype=torch.int32)
WRONG = {
    "length": ({"cache_seqlens": 13}, "cache_seqlens is 13; allowed are 0 to 12"),
    "length of one entry": (
        {"cache_seqlens": int32(3, -1)}, r"cache_seqlens is \[3, -1\]; allowed are 0 to 12"),
    "length as bool": ({"cache_seqlens": True}, "cache_seqlens is True; it must be an integer"),
    "lengths in int64": (
        {"cache_seqlens": torch.zeros(2, dtype=torch.int64)}, "is int64; it must be int32"),
    "too few lengths": ({"cache_seqlens": int32(3)}, r"\(batch,\) = \(2,\)"),
    "no room": ({"k": NEW, "v": NEW, "cache_seqlens": 12}, "is 12; allowed are 0 to 11"),
    "k alone": ({"k": NEW, "cache_seqlens": 3}, "k is given without v"),
    "no length": ({"k": NEW, "v": NEW}, "without cache_seqlens"),
    "other heads": (
        {"k": NEW[:, :, :1], "v": NEW[:, :, :1], "cache_seqlens": 3}, r"must have \(2, 1, 2, 8\)"),
    "other dtype": (
        {"k": NEW.float(), "v": NEW.float(), "cache_seqlens": 3}, "float32 and k_cache float64"),
    "cos alone": (
        {"rotary_cos": ANGLES, "k": NEW, "v": NEW, "cache_seqlens": 3}, "without rotary_sin"),
    "rotary without k": (
        {"rotary_cos": ANGLES, "rotary_sin": ANGLES}, "are given without k"),
    "few angles": (
        {"rotary_cos": ANGLES[:5], "rotary_sin": ANGLES[:5], "k": NEW, "v": NEW,
         "cache_seqlens": 3}, "has 5 positions"),
    "wide angles": (
        {"rotary_cos": random(12, 5), "rotary_sin": random(12, 5), "k": NEW, "v": NEW,
         "cache_seqlens": 3}, "at most 4"),
    "row": ({"cache_batch_idx": int32(0, 2)}, r"cache_batch_idx is \[0, 2\]; allowed are 0 to 1"),
    "one row twice": (
        {"cache_batch_idx": int32(1, 1), "k": NEW, "v": NEW, "cache_seqlens": 3},
        "two entries append to the same place"),
    "padding": (
        {"cache_leftpad": int32(0, 4), "cache_seqlens": 3}, "cache_leftpad is 4; allowed are 0 to"),
    "page": ({"block_table": TABLE + 2}, r"block_table is \[2, 2, 2\]; allowed are 0 to 1"),
    "one page twice": (
        {"block_table": TABLE, "k": NEW, "v": NEW, "cache_seqlens": 3},
        "two entries append to the same place"),
    "table of one dim": ({"block_table": TABLE[0]}, "must be .batch, pages of an entry."),
    "table and rows": (
        {"block_table": TABLE, "cache_batch_idx": int32(0, 1)}, "pass block_table"),
    "splits": ({"num_splits": -1}, "num_splits is -1"),
    "many splits": ({"num_splits": 129}, "num_splits is 129; .* at most 128"),
    "scale": ({"softmax_scale": math.nan}, "softmax_scale is nan"),
    "slopes": ({"alibi_slopes": torch.ones(3)}, r"alibi_slopes has shape \(3,\)"),
    "sink": ({"sink": torch.ones(3)}, "sink must be"),
    "padding for all": ({"cache_leftpad": 3}, "cache_leftpad must be a tensor of shape"),
    "gradient": ({"sink": torch.ones(4, requires_grad=True)}, "it is forward only"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_right_is_a_sentence(arguments, sentence):
    caches = K.clone(), V.clone()
    with pytest.raises(InvalidArgument, match=sentence):
        flash_attn_with_kvcache(Q, *caches, backend="reference", **arguments)
    assert torch.equal(caches[0], K), "a call that is refused has written into the cache"


def in_inference_mode(x):
    with torch.inference_mode():
        return x.clone()


@pytest.mark.parametrize(
    ("k_cache", "v_cache", "sentence"),
    [
        (in_inference_mode(K), V, "k_cache was made in inference mode"),
        (K, V[:, :1].expand(-1, 12, -1, -1), "v_cache is expanded"),
        (K, K, "are one memory"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_nothing_can_be_put_into_is_a_sentence(k_cache, v_cache, sentence):
    assert flash_attn_with_kvcache(Q, k_cache, v_cache, backend="reference").shape == Q.shape
    with pytest.raises(InvalidArgument, match=sentence):
        flash_attn_with_kvcache(Q, k_cache, v_cache, NEW, NEW, cache_seqlens=3, backend="reference")


@pytest.mark.parametrize(
    ("q", "k_cache", "v_cache", "sentence"),
    [
        (Q[0], K, V, "q has shape"),
        (Q, K[0], V, "k_cache has shape"),
        (Q, K, V[:, :5], "all but their last dims"),
        (Q, K.float(), V, "must have one dtype"),
        (Q[:, :, :3], K, V, "multiple of the key heads"),
        (Q[..., :4], K, V, "head dim 4 and k_cache 8"),
        (Q[:1], K, V, "they must be as many"),
        (Q, K.transpose(1, 3).contiguous().transpose(1, 3), V, "last dim of k_cache"),
        (Q.clone().requires_grad_(), K, V, "q requires a gradient"),
        (None, K, V, "q must be a tensor"),
        (Q, K, V._neg_view(), "v_cache is a negated view"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_tensors_that_do_not_fit_are_a_sentence(q, k_cache, v_cache, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        flash_attn_with_kvcache(q, k_cache, v_cache, backend="reference")
