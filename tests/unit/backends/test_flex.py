"""FlexAttention's adapter: tables of tiles, and what is compiled; numbers are the suite's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_attn_backends.flex import FlexBackend, calls, modifications
from ring_attn_backends.reference import ReferenceBackend
from torch._dynamo.testing import CompileCounter

from ring_attn_bench.conformance.cases import LOCAL
from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span, count
from ring_attn_bench.plan.problem import Score

CPU = torch.device("cpu")
spans = st.lists(
    st.builds(Span, st.integers(0, 300), st.integers(1, 90), st.integers(1, 4)),
    min_size=1, max_size=3,
).map(tuple)  # fmt: skip
sides = st.none() | st.integers(-40, 250)


def allowed(block: Block) -> torch.Tensor:
    rows, keys = (
        torch.tensor([at for span in side for at in span.positions()])
        for side in (block.rows, block.keys)
    )
    distance = rows[:, None] - keys
    low = -(2**40) if block.band.low is None else block.band.low
    high = 2**40 if block.band.high is None else block.band.high
    return (distance >= low) & (distance <= high)


def tables(mask):
    """Which tiles are computed with the mask, and which without, as (row tiles, key tiles)."""

    def dense(counts, order):
        first = torch.arange(order.shape[-1]) < counts[0, 0][:, None]
        return torch.zeros_like(order[0, 0], dtype=torch.bool).scatter(
            -1, order[0, 0].long(), first
        )

    rows, keys = (-(-length // 128) for length in mask.seq_lengths)
    found = (
        dense(mask.kv_num_blocks, mask.kv_indices),
        dense(mask.full_kv_num_blocks, mask.full_kv_indices),
    )
    assert not any(table[rows:].any() or table[:, keys:].any() for table in found)
    return tuple(table[:rows, :keys] for table in found)


@settings(max_examples=60)
@given(rows=spans, keys=spans, low=sides, high=sides)
def test_tiles_without_a_mask_need_none_and_no_tile_is_missing(rows, keys, low, high):
    block = Block(rows, keys, Band(low, high))
    mask = modifications.where(block, CPU).mask
    partial, full = tables(mask)
    seen = allowed(block)
    shape = (-(-seen.shape[0] // 128), -(-seen.shape[1] // 128))
    assert partial.shape == full.shape == shape
    assert not (partial & full).any()
    for i in range(shape[0]):
        for j in range(shape[1]):
            tile = seen[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)]
            assert tile.shape == (128, 128) or not full[i, j], "lengths are checked in it"
            assert tile.all() or not full[i, j]
            assert partial[i, j] or full[i, j] or not tile.any()
    assert mask.seq_lengths == (count(rows), count(keys))


@pytest.mark.parametrize(
    ("block", "partial", "full"),
    [
        (Block((Span(0, 512),), (Span(0, 512),), Band(0)), 4, 6),
        (Block((Span(512, 512),), (Span(0, 512),), Band(0)), 0, 16),
        (Block((Span(0, 512),), (Span(0, 512),), Band(0, 128)), 4 + 3, 0),
        (Block((Span(0, 512, 2),), (Span(1, 512, 2),), Band(0)), 4, 6),
        (Block((Span(0, 128), Span(896, 128)), (Span(0, 512),), Band(0)), 1, 4),
        (Block((Span(0, 512),), (Span(600, 512),), Band(0)), 0, 0),
    ],
)  # fmt: skip
def test_tiles_that_can_be_skipped_are(block, partial, full):
    found = tables(modifications.where(block, CPU).mask)
    assert [int(table.sum()) for table in found] == [partial, full]


def test_tables_of_long_blocks_stay_small():
    long = Block((Span(0, 2**20),), (Span(0, 2**20),), Band(0))
    rows = torch.arange(2**20)
    assert modifications._tile(2**20) == 1024
    first, last, whole = modifications._tiles(rows, 1024)
    assert len(first) == 1024
    assert whole.all()
    assert (last - first == 1023).all()
    assert long.area  # that is all there is to see without a GPU's memory


def test_blocks_are_made_once():
    block = Block((Span(0, 40),), (Span(0, 40),), Band(0))
    again = Block((Span(0, 40),), (Span(0, 40),), Band(0))
    assert modifications.where(block, CPU) is modifications.where(again, CPU)


# what is compiled, with a compiler that counts and then runs what it is given

SLOPES = 0.5 ** torch.arange(1.0, 9)
MASKS = [Band(0), Band(), Band(None, 40), Band(3, 70)]


def run(attend, block, score):
    # no size of 2 or 3, which tables of tiles have: torch takes equal sizes for the same
    q, k = torch.randn(5, 8, block.row_count, 16), torch.randn(5, 4, block.key_count, 16)
    here = modifications.where(block, CPU)
    modified = modifications.score_modification(q.transpose(1, 2), here, score)
    with torch.no_grad():
        out, lse = attend(q, k, k, modified, here.mask, score.softmax_scale)
    expected = ReferenceBackend().forward(
        q.transpose(1, 2), Keys(*(x.transpose(1, 2) for x in (k, k))), block, score
    )  # fmt: skip
    torch.testing.assert_close(out.transpose(1, 2), expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lse, expected[1], rtol=1e-5, atol=1e-5)


def squares(length):
    return [Block((Span(at, length),), (Span(50, length),), band)
            for band in MASKS for at in (50, 50 + length)]  # fmt: skip


@pytest.fixture
def compiler(monkeypatch):
    torch._dynamo.reset()
    counter, original = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: original(f, backend=counter, **how))
    yield counter
    torch._dynamo.reset()


def test_all_blocks_of_a_shape_share_one_kernel(compiler):
    attend = calls.compiled_for_these()
    for block in squares(128):
        run(attend, block, Score(0.3))
    assert compiler.frame_count == 1
    for cap, block in enumerate(squares(128), start=1):
        run(attend, block, Score(0.3, cap, SLOPES))
    assert compiler.frame_count == 2, "neither a softcap nor slopes are compiled in"


def test_all_other_lengths_share_one_kernel(compiler):
    attend = calls.compiled_for_any_length()
    score = Score(0.3, 2.0, SLOPES)
    for rows, keys in ((77, 129), (96, 40), (300, 150)):
        run(attend, Block((Span(40, rows),), (Span(0, keys),), Band(0, 99)), score)
    assert compiler.frame_count <= 2, "once more where there were as many row tiles as key tiles"
    before = compiler.frame_count
    for rows, keys in ((33, 260), (130, 131), (2, 500)):
        run(attend, Block((Span(40, rows),), (Span(0, keys),), Band(0)), score)
    assert compiler.frame_count == before


def test_more_shapes_than_torch_allows_are_compiled_all_the_same(compiler):
    attend = calls.compiled_for_these()
    for length in range(8, 8 + torch._dynamo.config.recompile_limit + 2):
        run(attend, Block((Span(0, length),), (Span(0, length),), Band(0)), Score(0.3))
    assert compiler.frame_count > torch._dynamo.config.recompile_limit


def test_the_two_kinds_of_kernel_are_kept_apart(compiler):
    block = Block((Span(0, 128),), (Span(0, 128),), Band(0))
    run(calls.compiled_for_any_length(), block, Score(0.3))
    before = compiler.frame_count
    run(calls.compiled_for_these(), block, Score(0.3))
    assert compiler.frame_count == before + 1


# what it says of itself


def test_it_says_what_runs():
    assert FlexBackend().version() == f"torch {torch.__version__} (compiled on CUDA, eager on CPU)"


@pytest.mark.parametrize(
    "change",
    [
        {}, {"dtype": "float64"}, {"head_dim": 8}, {"head_dim_v": 512},
        {"dropout_p": 0.1}, {"packed": True},
    ],
    ids=str,
)  # fmt: skip
def test_what_its_kernels_lack_is_refused_on_cuda(monkeypatch, change):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    problem = replace(LOCAL.problem("cuda"), **change)
    assert bool(FlexBackend().unsupported(problem)) == bool(change)
