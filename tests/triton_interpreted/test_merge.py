"""The ring's fused merge, interpreted on a CPU, against the same sum in float64."""

import math
import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_bench.ring.merge_triton import merge

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")

INF = math.inf


def parts(shape=(2, 37, 3, 64), dtype=torch.float32, seed=0):
    """out_acc, lse_acc, block_out, block_lse; some rows have seen nothing on one side, or both."""
    random = torch.Generator().manual_seed(seed)
    batch, tokens, heads, _ = shape
    outs = [torch.randn(shape, generator=random) for _ in range(2)]
    lses = [5 * torch.randn(batch, heads, tokens, generator=random) for _ in range(2)]
    lses[0][..., : tokens // 3] = -INF
    lses[1][..., tokens // 6 : tokens // 2] = -INF
    outs = [
        out * lse.isfinite().transpose(1, 2)[..., None] for out, lse in zip(outs, lses, strict=True)
    ]
    return outs[0], lses[0], outs[1].to(dtype), lses[1]


def merged(out_acc, lse_acc, block_out, block_lse):
    """What it should be, in float64."""
    out_acc, lse_acc, block_out, block_lse = (
        x.double() for x in (out_acc, lse_acc, block_out, block_lse)
    )
    lse = torch.logaddexp(lse_acc, block_lse)
    old, new = (torch.exp(x - lse).nan_to_num(0.0) for x in (lse_acc, block_lse))
    out = out_acc * old.transpose(1, 2)[..., None] + block_out * new.transpose(1, 2)[..., None]
    return out, lse


def assert_float32_exact(got, true):
    torch.testing.assert_close(got.double(), true, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("head_dim", [1, 16, 59, 96, 128, 256])
def test_a_merge_is_the_weighted_sum_and_rows_without_keys_stay_empty(head_dim, dtype):
    out_acc, lse_acc, block_out, block_lse = parts((2, 37, 3, head_dim), dtype)
    true_out, true_lse = merged(out_acc, lse_acc, block_out, block_lse)
    merge(out_acc, lse_acc, block_out, block_lse, None)
    empty = true_lse.isneginf()

    assert empty.any()
    assert_float32_exact(out_acc, true_out)
    assert_float32_exact(lse_acc, true_lse)
    assert not out_acc.transpose(1, 2)[empty].any()


def test_with_a_target_the_merged_out_goes_there_and_the_accumulator_is_left():
    out_acc, lse_acc, block_out, block_lse = parts(dtype=torch.float16)
    true_out, true_lse = merged(out_acc, lse_acc, block_out, block_lse)
    target = torch.full_like(block_out, math.nan)
    before = out_acc.clone()
    merge(out_acc, lse_acc, block_out, block_lse, target)

    torch.testing.assert_close(target.double(), true_out, atol=1e-3, rtol=1e-3)
    assert torch.equal(out_acc, before)
    assert_float32_exact(lse_acc, true_lse)


def test_strided_views_are_merged_in_place_and_nothing_beside_them_is_touched():
    out_acc, lse_acc, block_out, block_lse = parts()
    true_out, true_lse = merged(out_acc, lse_acc, block_out, block_lse)
    batch, tokens, heads, dim = out_acc.shape
    out_buffer = torch.full((tokens + 5, batch, heads, dim + 3), 7.0)
    lse_buffer = torch.full((batch, heads, tokens + 11), 7.0)
    out_view = out_buffer[2:-3, ..., :dim].transpose(0, 1).copy_(out_acc)
    lse_view = lse_buffer[..., 5:-6].copy_(lse_acc)
    merge(
        out_view, lse_view, block_out.transpose(1, 2).contiguous().transpose(1, 2), block_lse, None
    )

    assert_float32_exact(out_view, true_out)
    assert_float32_exact(lse_view, true_lse)
    assert (out_buffer == 7.0).sum() >= out_buffer.numel() - out_view.numel()
    assert (lse_buffer == 7.0).sum() == lse_buffer.numel() - lse_view.numel()


def test_merging_blocks_one_by_one_is_the_attention_over_all_of_them():
    random = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, n, 1, 32, generator=random).double() for n in (20, 90, 90))

    def attend(keys):
        s = torch.einsum("bmhd,bnhd->bhmn", q, k[:, keys])
        out = torch.einsum("bhmn,bnhd->bmhd", s.softmax(-1), v[:, keys])
        return out, s.logsumexp(-1)

    out_acc, lse_acc = torch.zeros(1, 20, 1, 32), torch.full((1, 1, 20), -INF)
    for start in range(0, 90, 30):
        out, lse = attend(slice(start, start + 30))
        merge(out_acc, lse_acc, out.float(), lse.float(), None)

    assert_float32_exact(out_acc, attend(slice(None))[0])
    assert_float32_exact(lse_acc, attend(slice(None))[1])


@pytest.mark.parametrize(
    ("old", "new", "out", "lse"),
    [
        (1e4, -1e4, 1.0, 1e4),
        (-1e4, 1e4, 2.0, 1e4),
        (3e38, 3e38, 1.5, 3e38),
        (-INF, -INF, 0.0, -INF),
        (INF, 0.0, math.nan, INF),
        (0.0, INF, math.nan, INF),
        (math.nan, 0.0, math.nan, math.nan),
        (0.0, math.nan, math.nan, math.nan),
    ],
)
def test_huge_weights_do_not_overflow_and_what_is_not_finite_is_handed_on(old, new, out, lse):
    out_acc, block_out = torch.full((1, 1, 1, 16), 1.0), torch.full((1, 1, 1, 16), 2.0)
    lse_acc, block_lse = torch.full((1, 1, 1), old), torch.full((1, 1, 1), new)
    merge(out_acc, lse_acc, block_out, block_lse, None)

    torch.testing.assert_close(out_acc, torch.full_like(out_acc, out), equal_nan=True)
    torch.testing.assert_close(lse_acc, torch.full_like(lse_acc, lse), equal_nan=True)


def test_nothing_to_merge_is_no_launch():
    merge(
        *(torch.zeros(shape) for shape in ((1, 0, 2, 8), (1, 2, 0), (1, 0, 2, 8), (1, 2, 0))), None
    )
