"""Packed documents whose starts are not all tokens', or not right, interpreted on a CPU.

The truth is float64, each document by itself; all that nobody has written is NaN, and so is
everything that is given in tokens of no document.
"""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_bench.calls.attend import Given, attend
from ring_attn_bench.contract.backend import packed_into
from ring_attn_bench.one_device import documents as documents_of_a_call
from ring_attn_bench.one_device import outside, outside_triton
from ring_attn_bench.one_device.documents import DocumentsCall
from ring_attn_bench.plan.problem import Mask, Score
from tests.packed_truth import NAMES, expected, poisoned, sound
from tests.triton_interpreted.checking import BACKEND

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]

HEADS, KEY_HEADS, DIM = 2, 1, 16


@pytest.fixture(autouse=True)
def poisoned_memory():
    """What nobody has written is NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_right(at, tokens, longest, dtype=torch.float16, sink=None, **options):
    random = torch.Generator().manual_seed(5)
    sides = ((tokens[0], HEADS), (tokens[1], KEY_HEADS), (tokens[1], KEY_HEADS), (tokens[0], HEADS))
    tensors = [torch.randn(*side, DIM, generator=random).to(dtype) for side in sides]
    documents = sound(at, tokens, longest)
    more = {} if sink is None else {"sink": sink}
    right = expected(*tensors, documents, **options, **more)
    q, k, v, dout = poisoned(tensors, documents)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    score = Score(DIM**-0.5, options.get("softcap", 0.0))
    call = DocumentsCall(BACKEND, *longest, Mask(options.get("causal", False)), score, False)
    starts = [torch.tensor(side, dtype=torch.int32) for side in at]
    out, lse, _ = attend(call, Given(*leaves, sink, None, *starts), return_attn_probs=True)
    wanted = leaves if sink is None else [*leaves, sink]
    found = (out.detach(), lse.detach(), *torch.autograd.grad(out, wanted, dout))
    for name, x in zip((*NAMES, "dsink"), found, strict=False):
        torch.testing.assert_close(x.double(), right[name], rtol=4e-3, atol=8e-3, msg=name)
    outside = right["lse"].isneginf().all(0)
    assert not found[0][outside].any()
    assert not found[2][outside].any()


def test_it_writes_where_it_is_told():
    assert packed_into(BACKEND) is BACKEND


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"softcap": 2.0}], ids=str)
@pytest.mark.parametrize(
    ("at", "longest"),
    [
        ([0, 70, 200], (130, 130)),  # a tail
        ([40, 70, 200], (130, 130)),  # and a head
        ([0, 150, 60, 190], (150, 150)),  # a start that falls
        ([-9, 100, 400], (200, 200)),  # before the first token and beyond the last
        ([0, 60, 200, 230], (139, 200)),  # a document that is too long
        ([0, 0, 0], (64, 64)),
        ([0], (64, 64)),
    ],
    ids=str,
)
def test_tokens_in_no_document_have_nothing(at, longest, options):
    assert_right([at, at], (230, 230), longest, **options)


@pytest.fixture
def by_kernel(monkeypatch):
    """What is outside is found and filled in as on a GPU, by a kernel, and not by torch."""

    def settled(starts, tokens, longest, results=outside.NOTHING, seen=None):
        sound_starts = torch.empty_like(starts[0]), torch.empty_like(starts[1])
        outside_triton.settle(starts, sound_starts, tokens, longest, results, seen)
        return sound_starts

    monkeypatch.setattr(documents_of_a_call, "settled", settled)
    monkeypatch.setattr(documents_of_a_call, "fill", outside_triton.fill)
    monkeypatch.setattr(outside_triton, "PROGRAMS", 1)


@pytest.mark.parametrize("with_sink", [False, True])
def test_the_kernel_that_a_gpu_gets_does_the_same(with_sink, by_kernel):
    sink = torch.tensor([0.5, -1.0], requires_grad=True) if with_sink else None
    for at in ([20, 70, 50, 99], [0, 40, 110]):
        assert_right([at, [0, *at[1:]]], (110, 120), (70, 90), torch.float32, sink=sink)


def test_tokens_in_no_document_have_no_sink():
    sink = torch.tensor([0.5, -1.0], requires_grad=True)
    assert_right([[3, 40, 60], [0, 30, 64]], (70, 70), (40, 40), torch.float32, sink=sink)


@given(
    starts=st.lists(st.tuples(*[st.integers(-9, 110)] * 2), min_size=1, max_size=5),
    tokens=st.tuples(*[st.integers(0, 100)] * 2),
    longest=st.one_of(st.just((100, 100)), st.tuples(*[st.integers(0, 90)] * 2)),
    rising=st.booleans(),
    causal=st.booleans(),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_starts(starts, tokens, longest, rising, causal):
    at = [sorted(side) if rising else side for side in zip(*starts, strict=True)]
    assert_right(at, tokens, longest, causal=causal)
