"""Tokens in no document have nothing, and starts that cannot be right harm nobody.

The public function refuses such starts on a CPU, but not on a GPU, where it cannot know: so what
follows its checks is asked here.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench import InvalidArgument, flash_attn_varlen_func, registry
from ring_attn_bench.calls.attend import Given, attend
from ring_attn_bench.one_device.documents import DocumentsCall
from ring_attn_bench.one_device.one_by_one import OneByOne
from ring_attn_bench.plan.problem import Mask, Score
from tests.packed_truth import expected, poisoned, sound

HEADS, KEY_HEADS, DIM = 4, 2, 8

starts = st.lists(st.tuples(*[st.integers(-5, 24)] * 2), min_size=1, max_size=7)
pairs = st.tuples(*[st.integers(0, 20)] * 2)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """What nobody has written is NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def drawn(rows, keys, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    sizes = ((rows, HEADS), (keys, KEY_HEADS), (keys, KEY_HEADS), (rows, HEADS))
    return [
        torch.randn(*size, DIM, generator=random, dtype=torch.float64).to(dtype) for size in sizes
    ]


def computed(backend, tensors, at, longest, mask, sink=None):
    """out, lse and the gradients, by name."""
    kernel = OneByOne(registry.load(backend))
    q, k, v, dout = tensors
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    call = DocumentsCall(kernel, *longest, mask, Score(DIM**-0.5), False)
    cu_seqlens = [torch.tensor(side, dtype=torch.int32) for side in at]
    out, lse, _ = attend(call, Given(*leaves, sink, None, *cu_seqlens), return_attn_probs=True)
    wanted = leaves if sink is None else [*leaves, sink]
    gradients = torch.autograd.grad(out, wanted, dout)
    names = ("out", "lse", "dq", "dk", "dv", "dsink")
    return dict(zip(names, (out.detach(), lse.detach(), *gradients), strict=False))


@given(starts, pairs, pairs, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(deadline=None)
def test_any_starts_give_sound_documents_and_nothing_outside(
    pair_list, tokens, longest, rising, causal, with_sink, seed
):
    at = [sorted(side) if rising else side for side in zip(*pair_list, strict=True)]
    documents = sound(at, tokens, longest)
    sink = torch.linspace(-1, 1, HEADS, dtype=torch.float64).requires_grad_() if with_sink else None
    tensors = drawn(*tokens, seed)
    right = expected(*tensors, documents, causal=causal, **({"sink": sink} if with_sink else {}))
    given_tensors = poisoned(tensors, documents)
    found = computed("reference", given_tensors, at, longest, Mask(causal), sink)

    for name, x in right.items():
        torch.testing.assert_close(found[name], x, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("backend", ["reference", "aten"])
@pytest.mark.parametrize(
    ("at", "longest"),
    [
        ([0, 50, 200], (150, 150)),
        ([30, 50, 200], (150, 150)),
        ([0, 0, 0], (10, 10)),
        ([0, 200, 100, 250], (200, 200)),
        ([0, 100, 400], (300, 300)),
        ([-7, 100, 300], (200, 200)),
        ([0, 100, 300], (199, 300)),
        ([0, 100, 300], (300, 0)),
        ([0], (5, 5)),
    ],
    ids=str,
)
def test_by_a_call_for_each_document(backend, at, longest):
    tensors = drawn(300, 300, dtype=torch.float32)
    documents = sound([at, at], (300, 300), longest)
    right = expected(*tensors, documents, causal=True)
    found = computed(backend, poisoned(tensors, documents), [at, at], longest, Mask(causal=True))

    for name, x in right.items():
        torch.testing.assert_close(found[name].double(), x, rtol=1e-4, atol=1e-5, msg=name)


def test_the_gradient_of_lse_knows_nothing_of_what_is_outside():
    at, longest = [[3, 9, 15]] * 2, (6, 6)
    tensors = drawn(20, 20)
    given_tensors = poisoned(tensors, sound(at, (20, 20), longest))
    leaves = [x.clone().requires_grad_() for x in given_tensors[:3]]
    cu_seqlens = [torch.tensor(side, dtype=torch.int32) for side in at]
    call = DocumentsCall(
        OneByOne(registry.load("reference")), *longest, Mask(), Score(DIM**-0.5), False
    )
    out, lse, _ = attend(call, Given(*leaves, None, None, *cu_seqlens), return_attn_probs=True)
    dlse = torch.full_like(lse, float("nan"))
    dlse[:, 3:15] = 1.0
    gradients = torch.autograd.grad((out, lse), leaves, (given_tensors[3], dlse))

    alone = [x[3:15].clone().requires_grad_() for x in tensors[:3]]
    begin = torch.tensor([0, 6, 12], dtype=torch.int32)
    own = flash_attn_varlen_func(
        *alone, begin, begin, 6, 6, backend="reference", return_attn_probs=True
    )
    right = torch.autograd.grad(own[:2], alone, (tensors[3][3:15], torch.ones(HEADS, 12).double()))
    for a, b in zip(gradients, right, strict=True):
        assert torch.equal(a[3:15], b)
        assert not a[:3].any()
        assert not a[15:].any()


@pytest.mark.parametrize("check", [False, True])
def test_on_a_cpu_starts_are_checked_whatever_is_asked(check):
    x, at = drawn(9, 9)[1], torch.tensor([0, 4, 8], dtype=torch.int32)
    with pytest.raises(InvalidArgument, match="must rise from 0 to the 9 tokens"):
        flash_attn_varlen_func(x, x, x, at, at, 9, 9, backend="reference", check_cu_seqlens=check)


def test_the_switch_is_a_flag():
    x, at = drawn(8, 8)[1], torch.tensor([0, 4, 8], dtype=torch.int32)
    with pytest.raises(InvalidArgument, match="check_cu_seqlens is 'no'"):
        flash_attn_varlen_func(x, x, x, at, at, 9, 9, check_cu_seqlens="no")
