"""A sink under the names that Hugging Face and flash-attn 4 give it."""

import pytest
import torch

from ring_attn_bench import InvalidArgument, flash_attn_func, flash_attn_varlen_func

X = torch.randn(1, 6, 2, 8, generator=torch.Generator().manual_seed(0))
STARTS = torch.tensor([0, 2, 6], dtype=torch.int32)


def dense(**options):
    return flash_attn_func(X, X, X, causal=True, backend="reference", **options)


def packed(**options):
    where = STARTS, STARTS, 4, 4
    return flash_attn_varlen_func(X[0], X[0], X[0], *where, backend="reference", **options)


@pytest.mark.parametrize("call", [dense, packed])
@pytest.mark.parametrize("name", ["s_aux", "learnable_sink"])
def test_it_is_the_sink_with_its_gradient(call, name):
    sinks = [torch.randn(2, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    outs = [
        call(**{key: sink.requires_grad_()})
        for key, sink in zip(("sink", name), sinks, strict=True)
    ]
    for out in outs:
        out.square().sum().backward()

    assert torch.equal(*outs)
    assert torch.equal(sinks[0].grad, sinks[1].grad)
    assert not torch.equal(outs[0], call())


@pytest.mark.parametrize("call", [dense, packed])
def test_two_names_of_it_at_once_are_a_sentence(call):
    sink = torch.zeros(2)
    with pytest.raises(InvalidArgument, match=r"sink and s_aux are given.*pass sink alone"):
        call(sink=sink, s_aux=sink)
    with pytest.raises(InvalidArgument, match="s_aux and learnable_sink are given"):
        call(learnable_sink=sink, s_aux=sink)
