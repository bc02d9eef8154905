"""Attention on one device is attention, whatever its lengths, and documents do not see each other.

The truth is dense, in float64, and differentiated by autograd.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ring_attn_bench
from ring_attn_bench import InvalidArgument, Unsupported, flash_attn_func, flash_attn_varlen_func
from tests.dense_truth import truth

DIM = 8


def leaves(batch, rows, keys, heads, key_heads, seed=0):
    random = torch.Generator().manual_seed(seed)
    shapes = ((batch, rows, heads), (batch, keys, key_heads), (batch, keys, key_heads))
    q, k, v = (
        torch.randn(*shape, DIM, generator=random, dtype=torch.float64).requires_grad_()
        for shape in shapes
    )
    return q, k, v, torch.randn(batch, rows, heads, DIM, generator=random, dtype=torch.float64)


def assert_same(found, right, inputs, dout):
    out, lse, nothing = found
    assert nothing is None
    torch.testing.assert_close(lse, right[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(out, right[0], rtol=0, atol=1e-12)
    gradients = torch.autograd.grad(out, inputs, dout)
    expected = torch.autograd.grad(right[0], inputs, dout, allow_unused=True)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(st.data())
def test_every_option_at_any_lengths(data):
    draw = data.draw
    batch, key_heads = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    heads = key_heads * draw(st.integers(1, 2))
    q, k, v, dout = leaves(
        batch, draw(st.integers(0, 9)), draw(st.integers(0, 9)), heads, key_heads
    )
    options = {
        "causal": draw(st.booleans()),
        "window_size": draw(st.tuples(st.integers(-1, 5), st.integers(-1, 5))),
        "softcap": draw(st.sampled_from([0.0, 1.5])),
    }
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(heads,), (batch, heads)]))
        options["alibi_slopes"] = 0.5 ** torch.arange(1.0, 1 + torch.Size(shape).numel()).view(
            shape
        )
    inputs = [q, k, v]
    if draw(st.booleans()):
        options["sink"] = torch.arange(heads, dtype=torch.float64).requires_grad_()
        inputs.append(options["sink"])

    found = flash_attn_func(q, k, v, return_attn_probs=True, backend="reference", **options)

    assert_same(found, truth(q, k, v, **options), inputs, dout)


@pytest.mark.parametrize("lengths", [(5, 5), (3, 9), (9, 3), (1, 6), (6, 1)], ids=str)
@pytest.mark.parametrize("right", [None, 0, 2])
def test_a_kernel_without_windows_climbs_the_stairs_of_a_causal_block(lengths, right):
    """aten has full and causal blocks only."""
    q, k, v, dout = leaves(2, *lengths, 4, 2)
    options = {"causal": right is None, "window_size": (-1, -1 if right is None else right)}

    found = flash_attn_func(q, k, v, return_attn_probs=True, backend="aten", **options)

    assert_same(found, truth(q, k, v, **options), [q, k, v], dout)


LENGTHS = [([3, 5, 1], [3, 5, 1]), ([4, 0, 2, 6], [7, 3, 1, 0]), ([5], [2])]


@pytest.mark.parametrize("backend", ["reference", "aten", "auto"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_documents_do_not_see_each_other(backend, lengths, causal):
    rows, keys = lengths
    q, k, v, dout = (x[0].detach() for x in leaves(1, sum(rows), sum(keys), 4, 2))
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    sink = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    starts = [torch.tensor([0, *side]).cumsum(0).int() for side in lengths]
    options = {"causal": causal, "sink": sink}

    found = flash_attn_varlen_func(
        q, k, v, *starts, max(rows), max(keys), return_attn_probs=True, backend=backend, **options
    )

    parts = zip(q.split(rows), k.split(keys), v.split(keys), strict=True)
    each = [truth(*(x[None] for x in part), **options) for part in parts]
    right = torch.cat([out[0] for out, _ in each]), torch.cat([lse[0] for _, lse in each], 1)
    assert_same(found, right, [q, k, v, sink], dout)


def test_slopes_may_differ_between_documents():
    lengths = [4, 3]
    q, k, v, dout = (x[0].detach() for x in leaves(1, 7, 7, 2, 2))
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    starts = torch.tensor([0, 4, 7], dtype=torch.int32)
    slopes = torch.tensor([[0.5, 0.1], [0.9, 0.2]])

    found = flash_attn_varlen_func(
        q, k, v, starts, starts, 4, 4, causal=True, alibi_slopes=slopes, return_attn_probs=True,
        backend="reference",
    )  # fmt: skip

    parts = zip(q.split(lengths), k.split(lengths), v.split(lengths), slopes, strict=True)
    each = [truth(a[None], b[None], c[None], True, alibi_slopes=s) for a, b, c, s in parts]
    right = torch.cat([out[0] for out, _ in each]), torch.cat([lse[0] for _, lse in each], 1)
    assert_same(found, right, [q, k, v], dout)


def starts(*values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((starts(0, 4, 7), starts(0, 7), 4, 7), "2 documents.*1"),
        ((starts(0, 4, 6), starts(0, 4, 7), 4, 4), r"cu_seqlens_q.*from 0 to the 7 tokens"),
        ((starts(0, 8, 7), starts(0, 4, 7), 8, 4), r"cu_seqlens_q.*rise"),
        ((starts(0, 4, 7), starts(0, 4, 7), 3, 4), "max_seqlen_q is 3, but a document has 4"),
        ((starts(0, 4, 7, dtype=torch.int64), starts(0, 4, 7), 4, 4), "int64; it must be int32"),
        ((starts(0, 4, 7), [0, 4, 7], 4, 4), "cu_seqlens_k.*tensor.*list"),
        ((starts(0, 4, 7), starts(0, 4, 7), 4.0, 4), "max_seqlen_q is 4.0"),
    ],
)
def test_documents_that_do_not_fit_the_tokens_are_refused(arguments, sentence):
    q, k, v, _ = (x[0] for x in leaves(1, 7, 7, 2, 2))
    with pytest.raises(InvalidArgument, match=sentence):
        flash_attn_varlen_func(q, k, v, *arguments, backend="reference")


def test_what_no_backend_can_do_is_refused_with_every_reason():
    q, k, v, _ = leaves(1, 4, 4, 2, 2)
    with pytest.raises(Unsupported, match=r"aten.*softcap"):  # windows it has beside a GPU
        flash_attn_func(q, k, v, softcap=2.0, backend="aten")


@pytest.mark.parametrize("form", ["q", "k", "v"])
def test_tensors_that_do_not_fit_are_refused_with_a_sentence(form):
    tensors = dict(zip("qkv", leaves(1, 4, 4, 2, 2), strict=False))
    tensors[form] = tensors[form][:, :, :, :4]
    if form == "v":
        flash_attn_func(**tensors, backend="reference")  # v may be narrower
        return
    with pytest.raises(InvalidArgument, match="head dim"):
        flash_attn_func(**tensors)


def test_the_public_functions_need_no_process_group():
    assert not torch.distributed.is_initialized()
    q, k, v, _ = leaves(1, 4, 4, 2, 2)
    assert ring_attn_bench.flash_attn_func(q, k, v).shape == q.shape


def test_one_seed_drops_the_same_weights_each_time():
    q, k, v, _ = leaves(1, 16, 16, 2, 2)

    def dropped(**options):
        return flash_attn_func(q, k, v, 0.5, backend="reference", **options)

    torch.testing.assert_close(dropped(dropout_seed=3), dropped(dropout_seed=3), rtol=0, atol=0)
    assert not torch.equal(dropped(dropout_seed=3), dropped(dropout_seed=4))
    torch.manual_seed(1)
    first = dropped()
    torch.manual_seed(1)
    assert torch.equal(first, dropped())
    assert not torch.equal(first, dropped())
