"""On a GPU: many queries over rows of a cache, by the kernel that serves whole sequences."""

from __future__ import annotations

import pytest
import torch
from ring_attn_backends.triton import kept
from ring_attn_backends.triton.cached import chunks

from ring_attn_bench.cached import again
from ring_attn_bench.calls.remembered import Remembered
from tests.gpu.over_cache import called, int32, random, right

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(280),
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
        reason="these kernels are for H100 and H200",
    ),
]
BATCH, ROOM, QUERIES, HEADS, KEY_HEADS = 4, 700, 333, 16, 4
LENGTHS = (700, 612, 400, 0)


def inputs(dims=(128, 128), rows=BATCH, dtype=torch.bfloat16):
    caches = [random(rows, ROOM, KEY_HEADS, dim, seed=i, dtype=dtype) for i, dim in enumerate(dims)]
    return random(BATCH, QUERIES, HEADS, dims[0], seed=5, dtype=dtype), *caches


@pytest.fixture(params=[None, 2, 7], ids=["alone", "2 shares", "7 shares"], autouse=True)
def shares(request, monkeypatch):
    """By how many programs keys are shared; what was launched with another number is forgotten."""
    if request.param is not None:
        monkeypatch.setattr(chunks, "splits_for", lambda call: request.param)
    monkeypatch.setattr(kept, "_kept", {})
    monkeypatch.setattr(again, "_made", Remembered())


def assert_right(tensors, lse_atol=2e-3, **options):
    """Also when the call is made again, and by the kernel that is meant; the kernels' names."""
    expected = right(*tensors, **options)
    kept.used()
    q, *caches = tensors
    laid = [x.clone() for x in caches]
    for _ in range(2):
        for x, cache in zip(laid, caches, strict=True):
            x.copy_(cache)
        out, lse = called(q, *laid, **options)
        torch.testing.assert_close(out.double(), expected[0], rtol=0, atol=2e-2)
        torch.testing.assert_close(lse.double(), expected[1], rtol=0, atol=lse_atol)
    names = {kernel.name for kernel in kept.used()}
    assert "extents" in names
    assert "attend" not in names
    return names


def chunk(seed=7, tokens=QUERIES, dims=(128, 128)):
    return {
        "k": random(BATCH, tokens, KEY_HEADS, dims[0], seed=seed),
        "v": random(BATCH, tokens, KEY_HEADS, dims[1], seed=seed + 1),
    }


@pytest.mark.parametrize("dims", [(128, 128), (64, 64), (256, 256), (192, 128), (96, 96)], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_results_are_those_of_float64(dims, causal):
    assert_right(inputs(dims), cache_seqlens=int32(*LENGTHS), causal=causal)


@pytest.mark.parametrize(
    "options",
    [
        {"window_size": (100, 0)},
        {"window_size": (64, 200)},
        {"causal": True, "window_size": (333, -1), "softcap": 15.0},
        {"causal": True, "cache_leftpad": (0, 100, 399, 5)},
        {"causal": True, "cache_batch_idx": (5, 0, 2, 1)},
        {"cache_leftpad": (7, 700, 1000, 0), "cache_batch_idx": (4, 9, 2, 1)},
        {"causal": True, "cache_seqlens": (-3, 900, 1, 333)},
    ],
    ids=str,
)  # fmt: skip
def test_masks_padding_and_rows_by_number_are_too(options):
    tensors = inputs(rows=6 if "cache_batch_idx" in options else BATCH)
    named = {name: int32(*x) for name, x in options.items() if name.startswith("cache")}

    assert_right(tensors, **{"cache_seqlens": int32(*LENGTHS)} | options | named)


@pytest.mark.parametrize("lengths", [(0, 100, 367, 300), (600, 690, 700, 800)], ids=str)
@pytest.mark.parametrize("rotary", [False, True])
def test_a_chunk_is_appended_and_attends_over_what_has_room(lengths, rotary):
    options = chunk()
    if rotary:
        angles = random(2 * ROOM, 32, seed=9)
        options |= {"rotary_cos": angles.cos(), "rotary_sin": angles.sin()}

    # what is rotated is rounded to bfloat16, q as well as k
    atol = 2e-2 if rotary else 2e-3
    assert_right(inputs(), atol, cache_seqlens=int32(*lengths), causal=True, **options)


def test_other_lengths_are_read_anew_by_a_call_and_by_a_graph():
    tensors, lengths = inputs(), int32(*LENGTHS)
    ask = {"cache_seqlens": lengths, "causal": True}
    called(*tensors, **ask)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = called(*tensors, **ask)

    lengths.copy_(int32(350, 700, 33, 512))
    graph.replay()

    for out, lse in (captured, called(*tensors, **ask)):
        expected = right(*tensors, **ask)
        torch.testing.assert_close(out.double(), expected[0], rtol=0, atol=2e-2)
        torch.testing.assert_close(lse.double(), expected[1], rtol=0, atol=2e-3)


def test_room_that_nobody_uses_changes_no_bit():
    q, k, v = inputs()
    ask = {"cache_seqlens": int32(500, 612, 400, 0), "causal": True}
    found = called(q, k, v, **ask)
    wide = [torch.cat([x, torch.full_like(x, float("nan"))], dim=1) for x in (k, v)]

    for one, other in zip(found, called(q, *wide, **ask), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shares", [None], ids=["by the GPU"], indirect=True)
@pytest.mark.parametrize("queries", [64, 100, 128])
def test_one_sequence_has_its_keys_shared_by_as_many_programs_as_there_is_room_for(queries):
    q, k, v = (random(1, n, h, 128, seed=n) for n, h in ((queries, 16), (5000, 4), (5001, 4)))
    names = assert_right((q, k, v[:, :5000].contiguous()), cache_seqlens=int32(4999), causal=True)

    assert "merge" in names
