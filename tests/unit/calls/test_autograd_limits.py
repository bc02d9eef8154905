"""What torch can ask of a call and no kernel can do: a sentence each, and never a wrong number."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.functional import hessian, jacobian
from torch.fx.experimental.proxy_tensor import make_fx

from ring_attn_bench import InvalidArgument, flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.flash_attn.passes import _flash_attn_forward

BACKENDS = ["reference", "aten", "flex"]
Q, K, V = (torch.randn(1, 8, 2, 16) for _ in range(3))


def attend(q, backend="reference"):
    return flash_attn_func(q, K, V, causal=True, backend=backend)


def documents(q, backend="reference"):
    starts = torch.tensor([0, 3, 8], dtype=torch.int32)
    return flash_attn_varlen_func(q[0], K[0], V[0], starts, starts, 5, 5, backend=backend)


class Layer(torch.nn.Module):
    def __init__(self, backend):
        super().__init__()
        self.backend = backend

    def forward(self, q):
        return attend(q, self.backend)


class BelowAutograd(Layer):
    """flash-attn's call that is no operator."""

    def forward(self, q):
        numbers = 0.0, 0.25, True, -1, -1, 0.0, None, False
        return _flash_attn_forward(q, K, V, *numbers, backend=self.backend)[0]


def batched(function):
    q = Q.clone().requires_grad_()
    out = function(q)
    return torch.autograd.grad(out, q, torch.randn(3, *out.shape), is_grads_batched=True)


def batched_lse(function):
    q = Q.clone().requires_grad_()
    _, lse, _ = flash_attn_func(q, K, V, return_attn_probs=True, backend="reference")
    return torch.autograd.grad(lse, q, torch.randn(3, *lse.shape), is_grads_batched=True)


def mapped(function):
    q = Q.clone().requires_grad_()
    out = function(q)
    return torch.vmap(lambda g: torch.autograd.grad(out, q, g, retain_graph=True))(
        torch.randn(3, *out.shape)
    )


def penalty(function):
    q = Q.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(q).sum(), q, create_graph=True)
    return gradient.square().sum().backward()


MANY = "takes one gradient at a time, and got a batch"
TWICE = "cannot be differentiated again"
ASKED = [
    (batched, MANY),
    (batched_lse, MANY),
    (mapped, MANY),
    (lambda function: jacobian(function, Q, vectorize=True), MANY),
    (penalty, TWICE),
    (lambda function: hessian(lambda q: function(q).sum(), Q), TWICE),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", [attend, documents])
@pytest.mark.parametrize(("asked", "sentence"), ASKED)
def test_gradients_that_no_kernel_makes_are_a_sentence(asked, sentence, function, backend):
    with pytest.raises(InvalidArgument, match=sentence):
        asked(lambda q: function(q, backend))


def test_first_derivatives_under_create_graph_are_right():
    q = Q.clone().requires_grad_()
    dout = torch.randn_like(Q)
    (wanted,) = torch.autograd.grad(attend(q), q, dout)
    (found,) = torch.autograd.grad(attend(q), q, dout, create_graph=True)
    assert torch.equal(found, wanted)
    assert found.requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore")  # torch's own, of what its forward mode loads
def test_forward_mode_is_a_sentence(backend):
    with pytest.raises(InvalidArgument, match="nor for forward-mode gradients"):
        jacobian(lambda q: attend(q, backend), Q, vectorize=True, strategy="forward-mode")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore")  # jit.trace is deprecated
def test_traces_that_cannot_see_kernels_are_a_sentence(backend):
    with pytest.raises(InvalidArgument, match=r"torch\.export cannot see"):
        torch.export.export(BelowAutograd(backend), (Q,), strict=False)
    with pytest.raises(InvalidArgument, match=r"recorded by torch\.jit\.trace"):
        torch.jit.trace(Layer(backend), (Q,))
    with pytest.raises(InvalidArgument, match="sizes that are no numbers yet"):
        make_fx(Layer(backend), tracing_mode="symbolic")(Q)


@pytest.mark.filterwarnings("ignore")  # Dynamo's, of caches that it looks through
def test_a_layer_with_a_call_can_be_compiled():
    compiled = torch.compile(Layer("reference"), backend="eager")
    assert torch.equal(compiled(Q), attend(Q))
