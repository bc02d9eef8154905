"""Calls of one device inside torch.compile(fullgraph=True): the bits of the same call outside."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import ring_attn_bench.ops.one_device  # noqa: F401 - tells torch of the operators
from ring_attn_bench import InvalidArgument, flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.flash_attn import (
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own

STARTS = torch.tensor([0, 3, 8], dtype=torch.int32)
USED = torch.tensor([2, 4], dtype=torch.int32)
SLOPES = torch.tensor([0.1, 0.2])


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()


def leaf(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def dense(count=3):
    return [leaf(2, 8, 2, 16) for _ in range(count)]


def packed():
    return [leaf(8, 2, 16) for _ in range(3)]


def cast(q, k, v):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return flash_attn_func(q, k, v, causal=True, backend="reference")


def of(function, *positional, backend="reference", **named):
    return lambda *tensors: function(*tensors, *positional, backend=backend, **named)


VARLEN = STARTS, STARTS, 5, 5
CALLS = {
    "causal": (of(flash_attn_func, causal=True), dense),
    "aten, lse": (of(flash_attn_func, return_attn_probs=True, backend="aten"), dense),
    "window": (of(flash_attn_func, window_size=(3, 0)), dense),
    "auto": (of(flash_attn_func, softcap=5.0, backend="auto"), dense),
    "sink": (
        lambda q, k, v, sink: flash_attn_func(q, k, v, s_aux=sink, backend="reference"),
        lambda: [*dense(), leaf(2)],
    ),
    "slopes": (of(flash_attn_func, alibi_slopes=SLOPES), dense),
    "scale below 0": (of(flash_attn_func, softmax_scale=-0.4, causal=True), dense),
    "scale of 0": (of(flash_attn_func, softmax_scale=0), dense),
    "dropout": (of(flash_attn_func, 0.3), dense),
    "dropout of a seed": (of(flash_attn_func, 0.3, dropout_seed=5), dense),
    "autocast": (cast, dense),
    "more keys": (
        of(flash_attn_func, causal=True),
        lambda: [leaf(1, 4, 2, 16), leaf(1, 8, 2, 16), leaf(1, 8, 2, 16)],
    ),
    "qkv": (of(flash_attn_qkvpacked_func, causal=True), lambda: [leaf(1, 8, 3, 2, 16)]),
    "kv": (of(flash_attn_kvpacked_func), lambda: [leaf(1, 8, 2, 16), leaf(1, 8, 2, 2, 16)]),
    "documents": (of(flash_attn_varlen_func, *VARLEN, causal=True), packed),
    "documents one by one": (of(flash_attn_varlen_func, *VARLEN, backend="aten"), packed),
    "used keys": (of(flash_attn_varlen_func, *VARLEN, seqused_k=USED, causal=True), packed),
    "documents, qkv": (
        of(flash_attn_varlen_qkvpacked_func, STARTS, 5, causal=True),
        lambda: [leaf(8, 3, 2, 16)],
    ),
    "documents, kv": (
        of(flash_attn_varlen_kvpacked_func, *VARLEN),
        lambda: [leaf(8, 2, 16), leaf(8, 2, 2, 16)],
    ),
}


def both(call, tensors):
    """Results and gradients, of numbers that are not alike."""
    torch.manual_seed(7)
    found = call(*tensors)
    outs = [x for x in (found if isinstance(found, tuple) else (found,)) if x is not None]
    told = [torch.arange(x.numel()).sin().view(x.shape).to(x.dtype) for x in outs]
    return [*outs, *torch.autograd.grad(outs, tensors, told)]


def same(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_call_gives_the_bits_of_the_call(name):
    call, inputs = CALLS[name]
    tensors = inputs()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert same(both(compiled, tensors), both(call, tensors))


@pytest.mark.parametrize("name", ["causal", "documents"])
def test_by_inductor_too(name):
    call, inputs = CALLS[name]
    tensors = inputs()
    assert same(both(torch.compile(call, fullgraph=True), tensors), both(call, tensors))


def test_a_third_length_compiles_nothing():
    counted = CompileCounterWithBackend("aot_eager")

    def call(q, k, v, starts, longest):
        out = flash_attn_func(q, k, v, causal=True, backend="reference")
        q, k, v = (x.flatten(0, 1) for x in (out, k, v))
        return flash_attn_varlen_func(
            q, k, v, starts, starts, longest, longest, backend="reference"
        )

    compiled = torch.compile(call, fullgraph=True, backend=counted)
    for length, seen in ((8, 1), (12, 2), (20, 2), (33, 2)):
        tensors = [leaf(2, length, 2, 16) for _ in range(3)]
        starts = torch.tensor([0, length, 2 * length], dtype=torch.int32)
        more = starts, length
        found = both(lambda *x, more=more: compiled(*x, *more), tensors)
        assert same(found, both(lambda *x, more=more: call(*x, *more), tensors))
        assert counted.frame_count == seen


def dropped(q, k, v):
    return flash_attn_func(q * 1.5, k, v, 0.4, backend="reference")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.full)])
def test_what_a_checkpoint_computes_again_drops_the_same_weights(backend):
    # out is linear in v, so that its gradient tells the pattern of the backward
    def call(q, k, v):
        return checkpoint(dropped, q, k, v, use_reentrant=False)

    q, k, v = (leaf(2, 8, 2, 16, dtype=torch.float64) for _ in range(3))
    out = torch.compile(call, fullgraph=True, backend=backend)(q, k, v)
    dout = torch.randn_like(out)
    (dv,) = torch.autograd.grad(out, v, dout)
    torch.testing.assert_close((dv * v).sum(), (out * dout).sum())


def test_without_gradients_nothing_is_recorded():
    q, k, v = (x.detach() for x in dense())
    call = of(flash_attn_func, causal=True)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            out = compiled(q, k, v)
            assert not out.requires_grad
            assert torch.equal(out, call(q, k, v))


def asked_for_a_pattern(q, k, v):
    return flash_attn_func(q, k, v, 0.3, return_attn_probs=True, backend="reference")


def attend(q, *others):
    return flash_attn_func(q, *(others or (q, q)), backend="reference")


TRANSFORMS = {
    "grad": lambda q: torch.func.grad(lambda x: attend(x).sum())(q),
    "vmap": lambda q: torch.vmap(attend)(q[None]),
    "jvp": lambda q: torch.func.jvp(attend, (q,), (q,)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_a_sentence(name):
    compiled = torch.compile(TRANSFORMS[name], fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"has no rule for torch\.func's transforms"):
        compiled(torch.randn(1, 8, 2, 16))


def test_the_pattern_of_dropout_is_a_sentence():
    compiled = torch.compile(asked_for_a_pattern, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="the pattern of dropout, which is not traced"):
        compiled(*dense())


def test_second_derivatives_are_a_sentence():
    q, k, v = dense()
    out = torch.compile(attend, fullgraph=True, backend="eager")(q, k, v)
    (dq,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(InvalidArgument, match="cannot be differentiated again"):
        dq.sum().backward()


def test_a_mistake_is_told_when_the_graph_runs():
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    with pytest.raises(InvalidArgument, match="q has head dim 16 and k 8"):
        compiled(leaf(1, 8, 2, 16), leaf(1, 8, 2, 8), leaf(1, 8, 2, 16))


def test_the_operator_is_what_torch_asks_of_one():
    tensors = [*(leaf(2, 8, 2, 16) for _ in range(3)), leaf(2), None, None]
    numbers = "reference", 0.0, None, None, True, -1, -1, 0.0, False, True, True
    not_packed = (None,) * 6
    torch.library.opcheck(
        torch.ops.ring_attn_bench.flash_attn.default, (*tensors, *numbers, *not_packed, False)
    )
