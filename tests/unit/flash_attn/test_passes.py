"""flash-attn's calls below autograd: a pair of them is what autograd gives, and halves merge."""

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import InvalidArgument, Unsupported, flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.flash_attn import (
    _flash_attn_backward,
    _flash_attn_forward,
    _flash_attn_varlen_backward,
    _flash_attn_varlen_forward,
)
from tests.halves import half_passes_faults

STARTS = torch.tensor([0, 3, 3, 9], dtype=torch.int32)
KEYS = torch.tensor([0, 5, 7, 8], dtype=torch.int32)
DOCUMENTS = STARTS, KEYS, 6, 5
OPTIONS = [
    {},
    {"causal": True, "softmax_scale": -0.3},
    {"causal": True, "softmax_scale": 0.0},
    {"window_size": (3, 1)},
    {"softcap": 2.0, "alibi_slopes": torch.tensor([0.5, 0.1, 0.3, 0.7])},
    {"dropout_p": 0.4, "causal": True},
]
BY_BACKEND = pytest.mark.parametrize(
    ("backend", "given"),
    [
        *(("reference", given) for given in OPTIONS),
        *((backend, given) for backend in ("aten", "flex") for given in OPTIONS[:3]),
    ],
    ids=str,
)


def tensors(rows=9, keys=8, batch=(2,), dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    shapes = (
        (*batch, rows, 4, 16),
        (*batch, keys, 2, 16),
        (*batch, keys, 2, 16),
        (*batch, rows, 4, 16),
    )
    return [torch.randn(shape, generator=random).to(dtype) for shape in shapes]


def below(given):
    """The options as the calls below autograd take them, in order."""
    left, right = given.get("window_size", (-1, -1))
    return (
        given.get("dropout_p", 0.0), given.get("softmax_scale"), given.get("causal", False),
        left, right, given.get("softcap", 0.0), given.get("alibi_slopes"),
    )  # fmt: skip


def as_autograd(backend, given, tensors, forward, backward, function):
    """The pair's out, lse, dq, dk and dv, and those of the function with gradients."""
    *inputs, dout = tensors
    *how, slopes = below(given)
    out, lse, _, state = forward(*inputs, *how, slopes, backend)
    gradients = [torch.full_like(x, float("nan")) for x in inputs]
    backward(dout, *inputs, out, lse, *gradients, *how, slopes, state, backend)
    leaves = [x.clone().requires_grad_() for x in inputs]
    seeded = given | {"dropout_seed": int(state[0])}
    right = function(*leaves, **seeded, return_attn_probs=True, backend=backend)[:2]
    return (out, lse, *gradients), (*right, *torch.autograd.grad(right[0], leaves, dout))


def dense_forward(q, k, v, *how_slopes_backend):
    *how, slopes, backend = how_slopes_backend
    return _flash_attn_forward(q, k, v, *how, slopes, False, backend=backend)


def dense_backward(*arguments):
    *before, state, backend = arguments
    assert _flash_attn_backward(*before, False, state, backend=backend).shape == (2, 4, 9)


def packed_forward(q, k, v, *how_slopes_backend):
    *how, backend = how_slopes_backend
    return _flash_attn_varlen_forward(q, k, v, *DOCUMENTS, *how, backend=backend)


def packed_backward(dout, q, k, v, out, lse, dq, dk, dv, *rest):
    *how, state, backend = rest
    found = _flash_attn_varlen_backward(
        dout, q, k, v, out, lse, dq, dk, dv, *DOCUMENTS, *how, False, state, backend=backend
    )
    assert found.shape == (4, 9)


def packed(q, k, v, **given):
    return flash_attn_varlen_func(q, k, v, *DOCUMENTS, **given)


@BY_BACKEND
def test_a_forward_and_its_backward_are_what_autograd_gives(backend, given):
    calls = dense_forward, dense_backward, flash_attn_func
    found, right = as_autograd(backend, given, tensors(), *calls)
    assert all(map(torch.equal, found, right))


@BY_BACKEND
def test_of_documents_too(backend, given):
    calls = packed_forward, packed_backward, packed
    found, right = as_autograd(backend, given, tensors(batch=()), *calls)
    assert all(map(torch.equal, found, right))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["reference", "aten"])
def test_two_halves_of_the_keys_merge_into_the_whole_with_its_gradients(backend, dtype, causal):
    assert half_passes_faults(backend, dtype, causal) == []


PLAIN = (0.0, None, True, -1, -1, 0.0, None)


def forward(q, k, v, **given):
    return _flash_attn_forward(q, k, v, *PLAIN, False, backend="reference", **given)


def backward(dout, q, k, v, out, lse, *buffers, how=PLAIN, state=None):
    return _flash_attn_backward(
        dout, q, k, v, out, lse, *buffers, *how, False, state, backend="reference"
    )


def test_what_is_not_asked_for_is_empty_and_the_state_is_two_integers_on_the_cpu():
    q, k, v, _ = tensors()
    out, lse, mask, state = forward(q, k, v)

    assert (out.dtype, lse.dtype, mask.dtype, mask.shape) == (q.dtype, torch.float32, q.dtype, (0,))
    assert (state.dtype, state.shape, state.device.type) == (torch.int64, (2,), "cpu")


def test_gradients_go_where_they_are_told_whatever_is_around():
    q, k, v, dout = tensors()
    out, lse, _, _ = forward(q, k, v)
    right = [torch.empty_like(x) for x in (q, k, v)]
    backward(dout, q, k, v, out, lse, *right)
    around = [x.new_zeros(*x.shape[:3], 18, dtype=torch.bfloat16) for x in (q, k, v)]
    dq, dk, dv = (x[..., 1:17] for x in around)

    backward(dout, q, k, v, out, lse, dq, None, dv)

    assert torch.equal(dq, right[0].bfloat16())
    assert torch.equal(dv, right[2].bfloat16())
    assert not any(x[..., edge].any() for x in around for edge in (0, 17))
    assert not dk.any()


def test_strides_of_what_a_peer_hands_over_are_any():
    """ring-flash-attn's lse has its heads last, and autograd may expand a gradient."""
    q, k, v, dout = tensors()
    dout = dout[..., :1].expand_as(dout)
    out, lse, _, _ = forward(q, k, v)
    right, found = ([torch.empty_like(x) for x in (q, k, v)] for _ in range(2))
    backward(dout.contiguous(), q, k, v, out, lse, *right)

    moved = [x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k, v, out, lse)]
    backward(dout, *moved, *found)

    assert all(map(torch.equal, found, right))


def test_neither_gradients_nor_autocast_are_felt():
    q, k, v, _ = tensors()
    right = forward(q, k, v)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = forward(q.requires_grad_(), k, v)[0]

    assert torch.equal(found, right)
    assert not found.requires_grad


def test_the_pattern_is_the_third_result_and_the_backward_wants_the_state():
    q, k, v, dout = tensors()
    how = (0.4, *PLAIN[1:])
    out, lse, pattern, state = _flash_attn_forward(q, k, v, *how, True, backend="reference")
    buffers = [torch.empty_like(x) for x in (q, k, v)]

    assert pattern.shape == (2, 4, 9, 8)
    assert pattern.unique().tolist() == [-1.0, 1.0]
    for wrong in (None, state.int(), state[:1], -state - 1):
        with pytest.raises(InvalidArgument, match=r"rng_state must be what the forward returned"):
            backward(dout, q, k, v, out, lse, *buffers, how=how, state=wrong)


def test_two_forwards_drop_other_weights_and_torch_s_seed_decides_which():
    q, k, v, _ = tensors()
    patterns = []
    for seed in (1, None, 1):
        if seed is not None:
            torch.manual_seed(seed)
        patterns.append(_flash_attn_forward(q, k, v, 0.4, *PLAIN[1:], True, backend="reference")[2])

    assert torch.equal(patterns[0], patterns[2])
    assert not torch.equal(patterns[0], patterns[1])


def test_under_dropout_both_passes_ask_for_the_same_kernel(monkeypatch):
    """Or another might be chosen for the backward, whose pattern is another."""
    asked = []
    monkeypatch.setattr(ReferenceBackend, "unsupported", lambda _, problem: asked.append(problem))
    q, k, v, dout = tensors(rows=11)
    how = (0.4, *PLAIN[1:])
    out, lse, _, state = _flash_attn_forward(q, k, v, *how, False, backend="reference")
    backward(dout, q, k, v, out, lse, None, None, None, how=how, state=state)
    assert [x.backward for x in asked] == [True]  # the second call is remembered
    _flash_attn_backward(
        dout, q, k, v, out, lse, None, None, None, *how, True, state, backend="reference"
    )

    assert asked[0] == asked[1]


def test_packed_forwards_know_how_many_keys_are_used():
    q, k, v, _ = tensors(batch=())
    used = torch.tensor([2, 2, 0], dtype=torch.int32)
    found = _flash_attn_varlen_forward(
        q, k, v, *DOCUMENTS, *PLAIN, seqused_k=used, backend="reference"
    )
    right = flash_attn_varlen_func(
        q, k, v, *DOCUMENTS, causal=True, seqused_k=used, return_attn_probs=True,
        backend="reference",
    )  # fmt: skip
    assert all(map(torch.equal, found[:2], right[:2]))


def with_a_change(**change):
    def call():
        q, k, v, dout = tensors()
        out, lse, _, _ = forward(q, k, v)
        given = {"dout": dout, "q": q, "k": k, "v": v, "out": out, "lse": lse}
        given |= {"dq": torch.empty_like(q), "dk": torch.empty_like(k), "dv": torch.empty_like(v)}
        backward(*(given | {name: of(given) for name, of in change.items()}).values())

    return call


def of_inference(x):
    with torch.inference_mode():
        return x.clone()


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (with_a_change(dout=lambda x: x["dout"][:1]), InvalidArgument, r"dout has shape \(1, 9"),
        (
            with_a_change(out=lambda x: x["out"].half()),
            InvalidArgument,
            "out is float16; it must be",
        ),
        (
            with_a_change(lse=lambda x: x["lse"][..., :4]),
            InvalidArgument,
            r"softmax_lse has shape \(2, 4, 4\); it must have \(2, 4, 9\)",
        ),
        (
            with_a_change(lse=lambda x: x["lse"].bfloat16()),
            InvalidArgument,
            "softmax_lse is bfloat16; it must be float32",
        ),
        (with_a_change(dk=lambda x: x["dq"]), InvalidArgument, r"dk has shape \(2, 9, 4, 16\)"),
        (
            with_a_change(dv=lambda x: x["dv"].int()),
            InvalidArgument,
            "dv is int32; it must be a floating dtype",
        ),
        (
            with_a_change(dv=lambda x: x["dv"][:, :1].expand(x["dv"].shape)),
            InvalidArgument,
            "dv is expanded: several of its elements are one in memory",
        ),
        (
            with_a_change(dk=lambda x: of_inference(x["dk"])),
            InvalidArgument,
            "dk was made in inference mode, and nothing can be written into it",
        ),
        (with_a_change(dq=lambda x: 3), InvalidArgument, "dq must be a tensor, got int"),
        (
            lambda: _flash_attn_forward(*tensors()[:3], *PLAIN, True),
            InvalidArgument,
            "return_softmax asks for the pattern of dropout, and dropout_p is 0",
        ),
        (
            lambda: _flash_attn_varlen_forward(
                *tensors(batch=())[:3], *DOCUMENTS, *PLAIN, block_table=STARTS
            ),
            Unsupported,
            "no block_table in packed calls",
        ),
        (
            lambda: _flash_attn_varlen_forward(
                *tensors(batch=())[:3], *DOCUMENTS, *PLAIN, leftpad_k=STARTS
            ),
            Unsupported,
            "no leftpad_k in packed calls",
        ),
    ],
)
def test_what_does_not_fit_is_a_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
