"""Tensors without numbers that a kernel could read, wherever they come in: a sentence each."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ring_attn_bench import (
    InvalidArgument,
    flash_attn_func,
    flash_attn_varlen_func,
    shard,
    zigzag_ring_flash_attn_func,
    zigzag_ring_flash_attn_kvpacked_func,
    zigzag_ring_flash_attn_qkvpacked_func,
)

X = torch.randn(1, 8, 2, 16)
STARTS = torch.tensor([0, 3, 8], dtype=torch.int32)
LAZY = UninitializedParameter()

USES = {
    "q": lambda: flash_attn_func(LAZY, X, X),
    "k": lambda: flash_attn_func(X, UninitializedBuffer(), X),
    "v": lambda: flash_attn_func(X, X, LAZY),
    "sink": lambda: flash_attn_func(X, X, X, sink=LAZY),
    "alibi_slopes": lambda: flash_attn_func(X, X, X, alibi_slopes=LAZY),
    "cu_seqlens_q": lambda: flash_attn_varlen_func(X[0], X[0], X[0], LAZY, STARTS, 5, 5),
    "x": lambda: shard(LAZY, 0, 2, "zigzag"),
}


@pytest.mark.parametrize("name", USES)
def test_a_parameter_of_a_lazy_module_is_a_sentence(name):
    with pytest.raises(
        InvalidArgument, match=rf"{name} is an Uninitialized\w+, which has no shape"
    ):
        USES[name]()


@pytest.mark.parametrize("probs", [True, False])
def test_a_sparse_gradient_is_a_sentence(probs):
    x = X.clone().requires_grad_()
    found = flash_attn_func(x, x, x, return_attn_probs=probs)
    out, lse = found[:2] if probs else (found, None)
    with pytest.raises(InvalidArgument, match="the gradient of out must be a dense tensor, got a "
                       r"torch.sparse_coo one; pass its to_dense\(\)"):  # fmt: skip
        out.backward(X.to_sparse(), retain_graph=True)
    if lse is not None:
        with pytest.raises(InvalidArgument, match="the gradient of lse must be a dense tensor"):
            lse.backward(torch.ones_like(lse).to_sparse())


@pytest.mark.parametrize("longest", [(2**70, 5), (5, 2**70), (5, 2**63), (-1, 5)])
def test_a_longest_document_that_cannot_be_is_a_sentence(longest):
    with pytest.raises(InvalidArgument, match="of 0 or more and of at most 64 bits"):
        flash_attn_varlen_func(X[0], X[0], X[0], STARTS, STARTS, *longest)


POSITIONS = (0.0, None, False, (-1, -1), None, False, False, None)
"""Of what ring functions take after their tensors."""


@pytest.mark.parametrize(
    ("function", "tensors", "sentence"),
    [
        (zigzag_ring_flash_attn_func, 3, "takes from 3 to 11 positional arguments but 12 were"),
        (zigzag_ring_flash_attn_kvpacked_func, 2, "takes from 2 to 10 positional arguments but 11"),
        (zigzag_ring_flash_attn_qkvpacked_func, 1, "takes from 1 to 9 positional arguments but 10"),
    ],
)
def test_too_many_arguments_are_counted_with_the_tensors(function, tensors, sentence):
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\) {sentence}"):
        function(*[X] * tensors, *POSITIONS, 1)


def packed(q, starts):
    return flash_attn_varlen_func(q, q, q, starts, starts, 5, 5)


def in_fake_mode():
    with FakeTensorMode() as mode:
        packed(mode.from_tensor(X)[0], mode.from_tensor(STARTS))


NUMBERLESS = {
    "vmap": lambda: torch.vmap(packed, in_dims=(None, 0))(X[0], STARTS[None]),
    "vmap of both": lambda: torch.vmap(packed)(X, STARTS[None]),
    "meta": lambda: packed(X[0].to("meta"), STARTS.to("meta")),
    "FakeTensorMode": in_fake_mode,
    "make_fx": lambda: make_fx(packed, tracing_mode="fake")(X[0], STARTS),
    "make_fx, symbolic": lambda: make_fx(packed, tracing_mode="symbolic")(X[0], STARTS),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", NUMBERLESS)
def test_starts_that_hold_no_numbers_are_a_sentence(how):
    with pytest.raises(InvalidArgument, match=r"hold no numbers|sizes that are no numbers"):
        NUMBERLESS[how]()


class Layer(torch.nn.Module):
    def forward(self, q):
        return flash_attn_func(q, q, q, backend="reference")


@pytest.mark.filterwarnings("ignore")  # of what export loads
def test_a_call_is_exported_after_one_in_fake_tensor_mode_too():
    with FakeTensorMode() as mode:
        q = mode.from_tensor(X)
        flash_attn_func(q, q, q)
    with pytest.raises(InvalidArgument, match="no FakeTensorMode is active"):
        flash_attn_func(q, q, q)
    assert torch.equal(torch.export.export(Layer(), (X,)).module()(X), Layer()(X))
