"""On a GPU: a call made again gives, bit for bit, what it gives when it is made first.

Triton's kernels are deterministic, so nothing has to be allowed for.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
import torch

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func, registry
from ring_attn_bench.calls import kernel
from ring_attn_bench.contract.tensors import Keys, Running
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Score
from ring_attn_bench.relaunch.calls import DriverCalls

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280)]


@dataclass(frozen=True)
class Form:
    """A public call."""

    dim: int = 128
    dim_v: int | None = None
    tokens: int = 640
    dtype: torch.dtype = torch.bfloat16
    causal: bool = True
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    alibi: bool = False
    documents: bool = False

    def tensors(self, seed):
        """q, k, v, dout; addresses differ from seed to seed."""
        torch.manual_seed(seed)
        self_and_others = torch.empty(1000 * seed + 1, device="cuda")
        width = self.dim_v or self.dim
        shapes = [(2, self.tokens, heads, dim) for heads, dim in self._heads_and_dims(width)]
        found = [torch.randn(shape, device="cuda").to(self.dtype) for shape in shapes]
        del self_and_others
        return found

    def _heads_and_dims(self, width):
        return (6, self.dim), (2, self.dim), (2, width), (6, width)

    def attend(self, q, k, v):
        """out and lse."""
        slopes = torch.full((6,), 0.05, device="cuda") if self.alibi else None
        options = {
            "causal": self.causal, "window_size": self.window, "softcap": self.softcap,
            "alibi_slopes": slopes, "backend": "triton", "return_attn_probs": True,
        }  # fmt: skip
        if not self.documents:
            return flash_attn_func(q, k, v, **options)[:2]
        starts = torch.tensor([0, 100, 2 * self.tokens], dtype=torch.int32, device="cuda")
        longest = 2 * self.tokens - 100
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        return flash_attn_varlen_func(q, k, v, starts, starts, longest, longest, **options)[:2]

    def results(self, seed):
        """out, lse, dq, dk, dv."""
        q, k, v, dout = self.tensors(seed)
        leaves = [x.requires_grad_() for x in (q, k, v)]
        out, lse = self.attend(*leaves)
        gradients = torch.autograd.grad(out, leaves, dout.view(out.shape))
        return [x.detach().clone() for x in (out, lse, *gradients)]


FORMS = {
    "128": Form(),
    "64": Form(dim=64),
    "256": Form(dim=256),
    "192 and 128": Form(dim=192, dim_v=128, causal=False),
    "odd length": Form(tokens=333),
    "a window": Form(window=(100, 0)),
    "softcap": Form(softcap=5.0, dtype=torch.float16),
    "ALiBi": Form(alibi=True),
    "float32": Form(dtype=torch.float32, dim=64, tokens=200),
    "documents": Form(documents=True),
    "documents, odd length": Form(documents=True, tokens=333),
    "documents, 64, window": Form(documents=True, dim=64, window=(100, 0)),
    "documents, ALiBi": Form(documents=True, alibi=True, dim=64),
    "head dim 24": Form(dim=24),
}


def forget():
    from ring_attn_backends.triton import kept

    from ring_attn_bench.calls import delta_triton

    kept._kept.clear()
    delta_triton._kept.clear()
    return kept._kept


def same(one, other):
    return [torch.equal(a, b) for a, b in zip(one, other, strict=True)]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_what_is_launched_again_is_what_was_launched_first(form):
    expected = []
    for seed in (1, 2, 3):
        forget()
        expected.append(form.results(seed))
    kept = forget()
    form.results(7)
    launches = len(kept)
    found = [form.results(seed) for seed in (1, 2, 3)]

    assert [same(*pair) for pair in zip(found, expected, strict=True)] == [[True] * 5] * 3
    assert len(kept) == launches > 0
    again = [call for one in kept.values() for call in one.again._calls]
    assert again
    assert all(isinstance(call, DriverCalls) for call in again)


def test_another_stream_and_another_thread_get_it_too():
    form = FORMS["128"]
    expected = form.results(1)
    found = {}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        found["stream"] = form.results(1)
    torch.cuda.current_stream().wait_stream(side)

    def run():
        found["thread"] = form.results(1)
        torch.cuda.synchronize()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert {name: same(results, expected) for name, results in found.items()} == {
        "stream": [True] * 5, "thread": [True] * 5,
    }  # fmt: skip


def test_it_can_be_captured_in_a_graph():
    form = FORMS["128"]
    first, second = form.tensors(1)[:3], form.tensors(2)[:3]
    with torch.no_grad():
        expected = [x.clone() for x in form.attend(*second)]
        form.attend(*first)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = form.attend(*first)
        for x, y in zip(first, second, strict=True):
            x.copy_(y)
        graph.replay()

    assert same(captured, expected) == [True, True]


@pytest.mark.parametrize("dim", [64, 128, 256])
def test_a_step_that_goes_on_from_sums_is_the_same_again(dim):
    backend = registry.load("triton")
    block = Block((Span(512, 512),), (Span(0, 512),), Band())

    def carried(seed):
        torch.manual_seed(seed)
        q, k, v, out = (torch.randn(1, 512, h, dim, device="cuda") for h in (4, 2, 2, 4))
        lse = torch.randn(1, 4, 512, device="cuda")
        q, *keys = (x.bfloat16() for x in (q, k, v))
        running, score = Running(out, lse), Score(dim**-0.5)
        kernel.forward_into(backend, q, Keys(*keys), running, block, score, first=False)
        return out, lse

    forget()
    expected = carried(2)
    forget()
    carried(1)

    assert same(carried(2), expected) == [True, True]
