"""On a GPU: what is under flash-attn's names beyond its two functions of q, k and v."""

from __future__ import annotations

import pytest
import torch

from ring_attn_bench import InvalidArgument, flash_attn_func, flash_attn_varlen_func, registry
from ring_attn_bench.errors import BackendUnavailable
from tests.dropped_truth import LENGTHS, dense_faults, documents_faults
from tests.halves import half_passes_faults
from tests.packed_truth import NAMES, expected

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280), pytest.mark.filterwarnings("default")]

NAN = float("nan")


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["triton", "flash_attn_4", "flash_attn_2", "aten", "cudnn"])
def test_two_halves_of_the_keys_merge_into_the_whole_with_its_gradients(
    backend, dtype, causal, dim
):
    try:
        registry.load(backend)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    assert half_passes_faults(backend, dtype, causal, rows=200, dim=dim, device="cuda") == []


@pytest.mark.parametrize("lengths", [(200, 200), (70, 300), (300, 70)], ids=str)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_of_a_sequence_the_pattern_is_what_was_dropped(backend, lengths):
    assert dense_faults(backend, lengths, torch.bfloat16, 0.4, "cuda", causal=True) == []


@pytest.mark.parametrize("lengths", [*LENGTHS, [(200, 300), (3, 0), (40, 20)]], ids=str)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_of_documents_the_pattern_is_what_was_dropped_in_each(backend, lengths):
    assert documents_faults(backend, lengths, torch.bfloat16, 0.4, "cuda", causal=True) == []


def test_of_a_kernel_with_a_pattern_of_its_own_there_is_none():
    x = torch.randn(1, 64, 2, 64, device="cuda", dtype=torch.bfloat16)
    found = flash_attn_func(x, x, x, 0.3, backend="aten", return_attn_probs=True)
    assert found[2] is None


@pytest.mark.parametrize("backend", ["triton", "aten", "reference"])
def test_what_is_behind_the_used_keys_is_not_felt_and_nobody_reads_how_many_there_are(backend):
    """Where too many are said to be used, or fewer than none, all count, or none."""
    torch.manual_seed(3)
    shapes = (250, 6, 64), (300, 2, 64), (300, 2, 64), (250, 6, 64)
    q, k, v, dout = (torch.randn(x, device="cuda", dtype=torch.bfloat16) for x in shapes)
    starts = [
        torch.tensor(x, dtype=torch.int32, device="cuda")
        for x in ([0, 90, 90, 240], [5, 100, 150, 290])
    ]
    used = torch.tensor([40, -3, 500], dtype=torch.int32, device="cuda")
    documents = [
        (slice(0, 90), slice(5, 45)), (slice(90, 90), slice(100, 100)),
        (slice(90, 240), slice(150, 290)),
    ]  # fmt: skip
    right = expected(q, k, v, dout, documents, causal=True)
    unused = torch.ones(300, dtype=torch.bool, device="cuda")
    for _, keys in documents:
        unused[keys] = False
    k[unused] = v[unused] = NAN
    leaves = [x.requires_grad_() for x in (q, k, v)]
    torch.cuda.set_sync_debug_mode("error" if backend == "triton" else "default")
    try:
        out, lse, _ = flash_attn_varlen_func(
            *leaves, *starts, 150, 140, causal=True, seqused_k=used, return_attn_probs=True,
            backend=backend,
        )  # fmt: skip
        gradients = torch.autograd.grad(out, leaves, dout)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = dict(zip(NAMES, (out.detach(), lse.detach(), *gradients), strict=True))
    for name, x in right.items():
        torch.testing.assert_close(found[name].double().cpu(), x, rtol=2e-2, atol=4e-2, msg=name)


@pytest.mark.parametrize(
    ("starts", "used", "sentence"),
    [
        ((0, 90, 60, 240), (40, 0, 9), "cu_seqlens_q must rise from 0"),
        ((0, 90, 90, 240), (40, 1, 9), "document 1 uses 1 keys, but it has 0"),
        ((0, 90, 90, 240), (40, 0, 151), "document 2 uses 151 keys, but it has 150"),
    ],
)
def test_lengths_are_looked_at_where_that_is_asked_for(starts, used, sentence):
    x = torch.randn(240, 2, 64, device="cuda", dtype=torch.bfloat16)
    starts, used = (torch.tensor(n, dtype=torch.int32, device="cuda") for n in (starts, used))
    with pytest.raises(InvalidArgument, match=sentence):
        flash_attn_varlen_func(
            x, x, x, starts, starts, 240, 240, seqused_k=used, check_cu_seqlens=True,
            backend="triton",
        )  # fmt: skip
