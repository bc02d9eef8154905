"""The ring's merge on a CPU against one softmax over all keys, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ring_attn_bench.ring.merge import merge

INF = math.inf
B, M, H, N, D, E = 2, 7, 3, 24, 8, 5


def inputs(spread=1.0):
    """Scores (B, H, M, N), `spread` times as far apart as normal ones, and v (B, N, H, E)."""
    random = torch.Generator().manual_seed(11)
    scores = torch.randn(B, H, M, N, generator=random, dtype=torch.float64)
    return spread * scores, torch.randn(B, N, H, E, generator=random, dtype=torch.float64)


def attend(scores, v):
    """out and lse, row by row; a row without keys is out 0, lse -inf."""
    lse = scores.logsumexp(-1)
    p = torch.where(lse.isneginf()[..., None], 0.0, scores.softmax(-1))
    return torch.einsum("bhmn,bnhe->bmhe", p, v), lse


def chain(scores, v, cuts, dtype=torch.float64):
    """The parts between the cuts, merged one after the other into empty accumulators."""
    out = torch.zeros(B, M, H, E, dtype=dtype)
    lse = torch.full((B, H, M), -INF, dtype=dtype)
    for start, stop in zip([0, *cuts], [*cuts, N], strict=True):
        block_out, block_lse = attend(scores[..., start:stop], v[:, start:stop])
        merge(out, lse, block_out.to(dtype), block_lse.to(dtype), None)
    return out, lse


@settings(deadline=None)
@given(st.lists(st.integers(0, N), max_size=6).map(sorted))
def test_parts_merge_to_the_whole_wherever_the_keys_are_cut(cuts):
    scores, v = inputs()
    out, lse = chain(scores, v, cuts)
    true_out, true_lse = attend(scores, v)
    assert (out - true_out).abs().max() < 1e-14
    assert (lse - true_lse).abs().max() < 1e-14


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str
)
@pytest.mark.parametrize("spread", [0.0, 30.0, 3e3])
def test_scores_far_apart_neither_overflow_nor_lose_what_counts(spread, dtype, error):
    scores, v = inputs(spread)
    out, lse = chain(scores.to(dtype).double(), v, [5, 6, 17], dtype)
    true_out, true_lse = attend(scores.to(dtype).double(), v)
    # weights are as exact as the parts' own lse, which are rounded in proportion to their size
    assert (out - true_out).abs().max() < error * max(1.0, spread)
    assert (lse - true_lse).abs().max() < error * max(1.0, spread)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_huge_lse_weighs_parts_by_their_difference_alone(sign):
    scores, v = inputs()
    shifted = scores + sign * 1e4
    out, lse = chain(shifted, v, [9, 15])
    assert (out - attend(scores, v)[0]).abs().max() < 1e-11
    assert (lse - sign * 1e4 - attend(scores, v)[1]).abs().max() < 1e-11


@pytest.mark.parametrize(
    ("old", "new", "out", "lse"),
    [
        (1e4, -1e4, 1.0, 1e4),
        (-1e4, 1e4, 2.0, 1e4),
        (1e4, 1e4, 1.5, 1e4 + math.log(2)),
        (-INF, -INF, 0.0, -INF),
        (-INF, 7.0, 2.0, 7.0),
        (7.0, -INF, 1.0, 7.0),
        (INF, 0.0, math.nan, INF),
        (0.0, INF, math.nan, INF),
        (math.nan, 0.0, math.nan, math.nan),
        (0.0, math.nan, math.nan, math.nan),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_side_may_outweigh_the_other_be_empty_or_hand_on_what_is_not_finite(
    old, new, out, lse, dtype
):
    shape = (1, 1, 1, 4)
    out_acc = torch.full(shape, 0.0 if old == -INF else 1.0, dtype=dtype)
    block_out = torch.full(shape, 0.0 if new == -INF else 2.0, dtype=dtype)
    lse_acc, block_lse = (torch.full((1, 1, 1), x, dtype=dtype) for x in (old, new))
    merge(out_acc, lse_acc, block_out, block_lse, None)

    torch.testing.assert_close(out_acc, torch.full_like(out_acc, out), equal_nan=True)
    torch.testing.assert_close(lse_acc, torch.full_like(lse_acc, lse), equal_nan=True)


def test_rows_without_keys_on_either_side_are_the_other_side_bit_for_bit():
    scores, v = inputs()
    empty = torch.full_like(scores, -INF)
    whole = attend(scores, v)
    for sides in ((attend(scores, v), attend(empty, v)), (attend(empty, v), attend(scores, v))):
        (out, lse), block = sides
        merge(out, lse, *block, None)
        assert torch.equal(out, whole[0])
        assert torch.equal(lse, whole[1])


def test_a_row_that_never_sees_a_key_stays_empty():
    scores, v = inputs()
    scores[:, :, 2] = -INF
    out, lse = chain(scores, v, [4, 11])
    others = [m for m in range(M) if m != 2]
    assert not out[:, 2].any()
    assert lse[:, :, 2].isneginf().all()
    assert (out[:, others] - attend(scores, v)[0][:, others]).abs().max() < 1e-14


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_with_a_target_the_merged_out_goes_there_and_the_accumulator_is_left(dtype):
    scores, v = inputs()
    (out, lse), block = attend(scores[..., :10], v[:, :10]), attend(scores[..., 10:], v[:, 10:])
    out, lse, block_lse = out.float(), lse.float(), block[1].float()
    block_out, before = block[0].to(dtype), out.clone()
    target = torch.full((B, M, H, E), math.nan, dtype=dtype)
    merge(out, lse, block_out, block_lse, target)

    assert torch.equal(out, before)
    true_out, true_lse = attend(scores, v)
    assert (target.double() - true_out).abs().max() < 4 * torch.finfo(dtype).eps
    assert (lse.double() - true_lse).abs().max() < 1e-6


def test_views_are_merged_in_place_and_what_is_beside_them_and_the_block_is_left():
    scores, v = inputs()
    (out, lse), (block_out, block_lse) = (
        attend(scores[..., :10], v[:, :10]), attend(scores[..., 10:], v[:, 10:])
    )  # fmt: skip
    out_buffer = torch.full((M + 5, B, H, E), 7.0, dtype=torch.float64)
    lse_buffer = torch.full((B, H, M + 4), 7.0, dtype=torch.float64)
    out_view = out_buffer[2:-3].transpose(0, 1).copy_(out)
    lse_view = lse_buffer[..., 3:-1].copy_(lse)
    given = block_out.clone(), block_lse.clone()
    merge(out_view, lse_view, block_out, block_lse, None)

    true_out, true_lse = attend(scores, v)
    assert (out_view - true_out).abs().max() < 1e-14
    assert (lse_view - true_lse).abs().max() < 1e-14
    assert (out_buffer[:2] == 7.0).all()
    assert (out_buffer[-3:] == 7.0).all()
    assert (lse_buffer[..., :3] == 7.0).all()
    assert (lse_buffer[..., -1:] == 7.0).all()
    assert torch.equal(block_out, given[0])
    assert torch.equal(block_lse, given[1])
