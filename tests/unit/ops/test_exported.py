"""torch.export of calls of one device: programs that are saved, loaded, and run at any length."""

from __future__ import annotations

import io

import pytest
import torch

from ring_attn_bench import InvalidArgument, flash_attn_func, flash_attn_varlen_func

pytestmark = pytest.mark.filterwarnings("ignore")  # of what torch loads for it

STARTS = torch.tensor([0, 3, 8], dtype=torch.int32)


class Layer(torch.nn.Module):
    def forward(self, q):
        return flash_attn_func(q * 1.5, q, q, causal=True, backend="reference")


class Documents(torch.nn.Module):
    def forward(self, q, starts):
        return flash_attn_varlen_func(q, q, q, starts, starts, 5, 5, backend="reference")


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_call_is_saved_loaded_and_right_at_other_lengths(strict):
    shapes = {"q": {1: torch.export.Dim("tokens", min=2, max=512)}}
    q = torch.randn(2, 8, 2, 16)
    program = torch.export.export(Layer(), (q,), strict=strict, dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for length in (8, 13):
        x = torch.randn(2, length, 2, 16)
        assert torch.equal(loaded(x), Layer()(x))


def test_documents_are_exported_with_their_starts_as_an_input():
    q = torch.randn(8, 2, 16)
    program = torch.export.export(Documents(), (q, STARTS)).run_decompositions()
    other = torch.tensor([0, 4, 8], dtype=torch.int32)
    assert torch.equal(program.module()(q, other), Documents()(q, other))


@pytest.mark.parametrize("asked", [True, False])
def test_a_program_has_gradients_if_it_was_traced_with_them(asked):
    q = torch.randn(2, 8, 2, 16)
    program = torch.export.export(Layer(), (q.requires_grad_(asked),)).module()
    x = torch.randn(2, 8, 2, 16).requires_grad_()
    out = program(x).sum()
    if asked:
        (wanted,) = torch.autograd.grad(Layer()(x).sum(), x)
        assert torch.equal(torch.autograd.grad(out, x)[0], wanted)
        return
    with pytest.raises(InvalidArgument, match="was traced without gradients"):
        out.backward()
