"""seqused_k: keys of a document beyond those that are used count as not there."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench import InvalidArgument, flash_attn_varlen_func
from ring_attn_bench.one_device.used_keys import _used_first
from tests.packed_truth import expected

NAN = float("nan")


def starts_of(lengths):
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def ranges(lengths):
    ends = starts_of(lengths).tolist()
    return [slice(start, stop) for start, stop in pairwise(ends)]


documents_drawn = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=4
)


@settings(deadline=None)
@given(documents_drawn, st.booleans(), st.sampled_from([(-1, -1), (2, 1)]), st.integers(0, 9))
def test_documents_are_as_if_cut_and_nothing_of_the_rest_is_felt(drawn, causal, window, seed):
    rows, keys, used = zip(*((m, n, min(n, u)) for m, n, u in drawn), strict=True)
    random = torch.Generator().manual_seed(seed)
    q, k, v, dout = (
        torch.randn(sum(lengths), heads, 8, generator=random, dtype=torch.float64)
        for lengths, heads in ((rows, 4), (keys, 2), (keys, 2), (rows, 4))
    )
    seen = [slice(x.start, x.start + n) for x, n in zip(ranges(keys), used, strict=True)]
    unused = torch.ones(len(k), dtype=torch.bool)
    for part in seen:
        unused[part] = False
    options = {"causal": causal, "window_size": window}
    right = expected(q, k, v, dout, list(zip(ranges(rows), seen, strict=True)), **options)
    k[unused] = v[unused] = NAN
    leaves = [x.requires_grad_() for x in (q, k, v)]

    out, lse, _ = flash_attn_varlen_func(
        *leaves, starts_of(rows), starts_of(keys), max(rows), max(used),
        seqused_k=torch.tensor(used, dtype=torch.int32), return_attn_probs=True,
        backend="reference", **options,
    )  # fmt: skip
    found = {"out": out, "lse": lse} | dict(
        zip(("dq", "dk", "dv"), torch.autograd.grad(out, leaves, dout), strict=True)
    )

    for name, x in right.items():
        torch.testing.assert_close(found[name].detach(), x, rtol=0, atol=1e-12)


def test_used_keys_come_first_in_their_order_and_each_token_once():
    order = _used_first(
        *(torch.tensor(x, dtype=torch.int32) for x in ([1, 4, 4, 9], [2, 0, 3])), 11
    )
    assert order.tolist() == [1, 2, 4, 5, 6, 0, 3, 7, 8, 9, 10]


def asked(used, longest=4, keys=(4, 3), **options):
    k = torch.randn(sum(keys), 2, 8)
    starts = starts_of(keys)
    return flash_attn_varlen_func(
        k, k, k, starts, starts, 4, longest, seqused_k=used, backend="reference", **options
    )


def counts(*numbers, dtype=torch.int32):
    return torch.tensor(numbers, dtype=dtype)


@pytest.mark.parametrize(
    ("used", "sentence"),
    [
        (counts(4), r"seqused_k must be a tensor of shape \(documents,\) = \(2,\), got \(1,\)"),
        (counts(4, 3, dtype=torch.int64), "seqused_k is int64; it must be int32"),
        (counts(5, 3), "document 0 uses 5 keys, but it has 4"),
        (counts(4, -1), "document 1 uses -1 keys, but it has 3"),
        ([4, 3], "seqused_k must be a tensor of shape .*got list"),
        (counts(4, 3).to("meta"), "seqused_k is on meta, but the tokens are on cpu"),
    ],
)
def test_what_cannot_be_how_many_are_used_is_a_sentence(used, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        asked(used)


def test_the_longest_document_is_the_one_with_most_used_keys():
    assert asked(counts(2, 1), longest=2).shape == (7, 2, 8)
    with pytest.raises(InvalidArgument, match="max_seqlen_k is 2, but a document has 3 tokens"):
        asked(counts(3, 1), longest=2)
