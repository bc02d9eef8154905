"""On a GPU: tokens in no document, and starts that cannot be right, by every backend that is there.

Nobody reads the starts on the host: so NaN is in all tokens of no document, and in the memory that
results are put into.
"""

from __future__ import annotations

import pytest
import torch

from ring_attn_bench import InvalidArgument, flash_attn_varlen_func, registry
from ring_attn_bench.errors import BackendUnavailable, Unsupported
from ring_attn_bench.one_device import outside, outside_triton
from ring_attn_bench.one_device.outside import Results
from tests.packed_truth import NAMES, expected, poisoned, sound

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280), pytest.mark.filterwarnings("default")]

BACKENDS = (
    "triton", "flash_attn_4", "flash_attn_3", "flash_attn_2", "aten", "cudnn", "flag_gems",
    "reference",
)  # fmt: skip
HEADS, KEY_HEADS = 6, 2
TOKENS = 300, 330
SHAPES = {
    "a tail": (((0, 90, 200), (0, 100, 200)), (200, 200)),
    "a head and a tail": (((37, 90, 90, 200), (5, 40, 60, 290)), (200, 300)),
    "complete": (((0, 130, 300), (0, 200, 330)), (200, 200)),
    "all is tail": (((0, 0, 0), (0, 0, 0)), (64, 64)),
    "falling": (((0, 200, 100, 280), (0, 180, 90, 300)), (250, 250)),
    "beyond the last token": (((0, 100, 2**30), (-(2**30), 100, 400)), (300, 330)),
    "the longest is too short": (((0, 60, 280, 300), (0, 60, 280, 300)), (64, 300)),
    "the longest by keys too": (((0, 60, 280, 300), (0, 60, 300, 310)), (300, 128)),
}
"""Starts of queries and of keys, and max_seqlen of both."""


@pytest.fixture(autouse=True)
def poisoned_memory():
    """What nobody has written is NaN, in all of the allocator's blocks of these sizes."""
    blocks = [torch.full((1 << 18,), float("nan"), device="cuda") for _ in range(24)]
    blocks += [torch.full((1 << 12,), float("nan"), device="cuda") for _ in range(64)]
    del blocks


def drawn(dim=64):
    torch.manual_seed(7)
    sides = ((TOKENS[0], HEADS), (TOKENS[1], KEY_HEADS), (TOKENS[1], KEY_HEADS), (TOKENS[0], HEADS))
    return [torch.randn(*side, dim, device="cuda", dtype=torch.bfloat16) for side in sides]


def on_gpu(at):
    return [torch.tensor(side, dtype=torch.int32, device="cuda") for side in at]


def computed(backend, tensors, at, longest, sink=None, **options):
    """By name: out, lse and gradients; skipped where the backend is not there, or cannot."""
    *leaves, dout = tensors
    leaves = [x.clone().requires_grad_() for x in leaves]
    try:
        registry.load(backend)
        out, lse, _ = flash_attn_varlen_func(
            *leaves, *on_gpu(at), *longest, backend=backend, return_attn_probs=True, sink=sink,
            **options,
        )  # fmt: skip
    except (BackendUnavailable, Unsupported) as error:
        pytest.skip(str(error))
    wanted = leaves if sink is None else [*leaves, sink]
    gradients = torch.autograd.grad(out, wanted, dout)
    names = (*NAMES, "dsink")
    return dict(zip(names, (out.detach(), lse.detach(), *gradients), strict=False))


def assert_right(found, right):
    for name, x in right.items():
        torch.testing.assert_close(found[name].double().cpu(), x, rtol=2e-2, atol=4e-2, msg=name)


@pytest.mark.parametrize("options", [{}, {"causal": True}], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_in_no_document_have_nothing_and_give_nothing(backend, shape, options):
    at, longest = SHAPES[shape]
    tensors, documents = drawn(), sound(at, TOKENS, longest)
    right = expected(*tensors, documents, **options)
    found = computed(backend, poisoned(tensors, documents), at, longest, **options)

    assert_right(found, right)
    inside = torch.zeros(TOKENS[0], dtype=torch.bool, device="cuda")
    inside_keys = torch.zeros(TOKENS[1], dtype=torch.bool, device="cuda")
    for rows, keys in documents:
        inside[rows], inside_keys[keys] = True, True
    assert not found["out"][~inside].any()
    assert found["lse"][:, ~inside].isneginf().all()
    assert not found["dq"][~inside].any()
    assert not found["dk"][~inside_keys].any()
    assert not found["dv"][~inside_keys].any()


@pytest.mark.parametrize("dim", [40, 128, 256])
@pytest.mark.parametrize("shape", ["a head and a tail", "falling"])
@pytest.mark.parametrize("backend", ["triton", "flash_attn_4"])
def test_by_every_kernel_of_a_head_dim(backend, shape, dim):
    at, longest = SHAPES[shape]
    tensors, documents = drawn(dim), sound(at, TOKENS, longest)
    right = expected(*tensors, documents, causal=True)
    assert_right(computed(backend, poisoned(tensors, documents), at, longest, causal=True), right)


@pytest.mark.parametrize("backend", ["triton", "flash_attn_4", "aten"])
def test_tokens_in_no_document_have_no_sink(backend):
    at, longest = SHAPES["a head and a tail"]
    tensors, documents = drawn(), sound(at, TOKENS, longest)
    sink = torch.linspace(-1, 1, HEADS, device="cuda").requires_grad_()
    right = expected(*tensors, documents, sink=sink)
    dsink = right.pop("dsink")
    found = computed(backend, poisoned(tensors, documents), at, longest, sink=sink)

    assert_right(found, right)
    torch.testing.assert_close(found["dsink"].double().cpu(), dsink, rtol=2e-2, atol=1.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_switch_reads_the_starts_and_refuses_what_cannot_be_right(shape):
    at, longest = SHAPES[shape]
    q, k, v, _ = drawn()

    def attend():
        return flash_attn_varlen_func(
            q, k, v, *on_gpu(at), *longest, backend="triton", check_cu_seqlens=True
        )

    for _ in range(2):  # the second is a call that is remembered
        if shape == "complete":
            attend()
            continue
        with pytest.raises(InvalidArgument, match=r"cu_seqlens_. must rise|a document has"):
            attend()


@pytest.mark.parametrize("documents", [1, 127, 128, 3000])
def test_the_kernel_does_what_torch_does_when_made_and_when_made_again(documents):
    generator = torch.Generator().manual_seed(documents)
    starts = torch.randint(0, 3, (2, documents + 1), generator=generator).cumsum(1)
    starts[:, documents // 2] -= 20
    starts = tuple(starts.int())
    tokens, longest = (2 * documents, 3 * documents), (40, 50)

    def results(device):
        rows, keys = tokens
        lse = torch.full((3, rows), 7.0, device=device)
        return Results(
            torch.full((rows, 3, 40), 7.0, device=device, dtype=torch.bfloat16), lse,
            torch.full((keys, 2, 40), 7.0, device=device, dtype=torch.bfloat16),
            torch.full((keys, 2, 24), 7.0, device=device),
        )  # fmt: skip

    right = results("cpu")
    sound_starts = outside.settled(starts, tokens, longest, right)
    outside_triton._kept.clear()
    for _ in range(3):
        found = results("cuda")
        given = tuple(x.cuda() for x in starts)
        sound_there = outside.settled(given, tokens, longest, found)
        for a, b in zip((*sound_starts, *right), (*sound_there, *found), strict=True):
            assert torch.equal(a, b.cpu())
    assert any(kept is not None for kept in outside_triton._kept.values())
