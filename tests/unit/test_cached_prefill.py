"""Packed queries over pages are attention over the tokens that lie there."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench import InvalidArgument, Unsupported, flash_attn_varlen_func
from tests.unit.test_cached_attention import DIM, int32, random

HEADS, KEY_HEADS, PAGE = 4, 2, 3


def starts(lengths):
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def paged(lengths):
    """Keys of documents in a row, the same scattered over pages, and the table of these."""
    k, v = (random(sum(lengths), KEY_HEADS, DIM, seed=seed) for seed in (1, 2))
    needed = [-(-length // PAGE) for length in lengths]
    table = torch.full((len(lengths), max(*needed, 1)), -1, dtype=torch.int32)
    pages = [x.new_full((sum(needed) + 1, PAGE, KEY_HEADS, DIM), torch.nan) for x in (k, v)]
    free = list(range(1, sum(needed) + 1))
    first = 0
    for document, length in enumerate(lengths):
        for page in range(needed[document]):
            table[document, page] = at = free.pop()
            part = slice(first + page * PAGE, first + min(length, (page + 1) * PAGE))
            for x, to in zip((k, v), pages, strict=True):
                to[at, : part.stop - part.start] = x[part]
        first += length
    return (k, v), pages, table


@settings(deadline=None)
@given(st.data())
def test_every_option_over_pages_is_as_over_documents_in_a_row(data):
    draw = data.draw
    sides = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), min_size=1, max_size=3))
    queries, keys = zip(*sides, strict=True)
    q = random(sum(queries), HEADS, DIM)
    row, pages, table = paged(keys)
    options = {
        "causal": draw(st.booleans()),
        "window_size": draw(st.tuples(st.integers(-1, 5), st.integers(-1, 5))),
        "softcap": draw(st.sampled_from([0.0, 1.5])),
        "softmax_scale": draw(st.sampled_from([None, -0.3])),
        "backend": "reference",
        "return_attn_probs": True,
    }
    if draw(st.booleans()):
        options["alibi_slopes"] = 0.5 ** torch.arange(1.0, 1 + HEADS)
    if draw(st.booleans()):
        options["sink"] = torch.arange(HEADS, dtype=torch.float64)
    longest = max(keys)
    if draw(st.booleans()):
        used = [draw(st.integers(0, length)) for length in keys]
        options["seqused_k"] = torch.tensor(used, dtype=torch.int32)
        longest = draw(st.integers(max(used), longest))  # it counts what is used
    told = starts(queries), starts(keys), max(queries), longest

    out, lse, nothing = flash_attn_varlen_func(q, *pages, *told, block_table=table, **options)

    right, right_lse, _ = flash_attn_varlen_func(q, *row, *told, **options)
    assert nothing is None
    torch.testing.assert_close(out, right, rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, right_lse, rtol=0, atol=1e-12)


Q = random(4, HEADS, DIM)
_, (K, V), TABLE = paged((5, 2))
TOLD = {"cu_seqlens_q": int32(0, 3, 4), "cu_seqlens_k": int32(0, 5, 7), "max_seqlen_q": 3,
        "max_seqlen_k": 5, "block_table": TABLE}  # fmt: skip
WRONG = {
    "queries": ({"cu_seqlens_q": int32(0, 3, 5)}, "must rise from 0 to the 4 tokens"),
    "keys": ({"cu_seqlens_k": int32(0, 5, 3)}, "cu_seqlens_k must rise from 0, got"),
    "longest": ({"max_seqlen_k": 4}, "max_seqlen_k is 4, but a document has 5 tokens"),
    "room": (
        {"cu_seqlens_k": int32(0, 5, 12), "max_seqlen_k": 7}, "allowed are 0 to 6"),
    "page": ({"block_table": TABLE - 5}, "block_table is .*; allowed are 0 to 3"),
    "int64": ({"block_table": TABLE.long()}, "is int64; it must be int32"),
    "documents": ({"cu_seqlens_q": int32(0, 4)}, "they must be as many"),
    "used": ({"seqused_k": int32(6, 0)}, "seqused_k is 6; allowed are 0 to 5"),
    "used, longest": (
        {"seqused_k": int32(4, 2), "max_seqlen_k": 3},
        "max_seqlen_k is 3, but a document has 4",
    ),
    "dropout": ({"dropout_p": 0.5}, "has no dropout"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_right_is_a_sentence(arguments, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        flash_attn_varlen_func(Q, K, V, **TOLD | arguments, backend="reference")


def test_keys_that_are_not_used_may_be_more_than_the_longest_says():
    short = TOLD | {"max_seqlen_k": 2, "seqused_k": int32(2, 1)}

    found = flash_attn_varlen_func(Q, K, V, **short, backend="reference")

    long = TOLD | {"seqused_k": int32(2, 1)}
    assert torch.equal(found, flash_attn_varlen_func(Q, K, V, **long, backend="reference"))


def test_a_backend_without_caches_says_so():
    with pytest.raises(Unsupported, match="it has no attention over a cache"):
        flash_attn_varlen_func(Q, K, V, **TOLD, backend="aten")


@pytest.mark.parametrize("name", ["q", "k", "v", "sink"])
def test_results_are_there_without_no_grad_and_a_gradient_of_them_is_a_sentence(name):
    tensors = {"q": Q, "k": K, "v": V, "sink": torch.ones(HEADS, dtype=torch.float64)}
    plain = flash_attn_varlen_func(**tensors, **TOLD, backend="reference")
    asked = tensors | {name: tensors[name].clone().requires_grad_()}

    out, lse, _ = flash_attn_varlen_func(
        **asked, **TOLD, backend="reference", return_attn_probs=True
    )

    assert torch.equal(out, plain)
    for result in (out, lse):
        with pytest.raises(InvalidArgument, match="it is forward only"):
            result.sum().backward(retain_graph=True)
    with torch.no_grad():
        assert not flash_attn_varlen_func(**asked, **TOLD, backend="reference").requires_grad
