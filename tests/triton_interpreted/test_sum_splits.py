"""Shares of dk and dv are added up where documents are, and nothing is written elsewhere."""

import torch
from ring_attn_backends.triton.hopper.launch import sum_launch


def test_shares_of_tokens_in_no_document_are_left_out():
    splits, tokens, heads, dim = 3, 40, 2, 64
    shares = [torch.randn(splits, 1, tokens, heads, dim) for _ in range(2)]
    starts = torch.tensor([5, 12, 12, 31], dtype=torch.int32)
    for share in shares:  # nobody has computed these
        share[:, :, :5] = float("nan")
        share[:, :, 31:] = float("nan")
    sums = [torch.full((1, tokens, heads, dim), 7.0) for _ in range(2)]
    launch = sum_launch(*shares, *sums, False, starts)
    launch.kernel[launch.grid](**launch.arguments)
    for share, found in zip(shares, sums, strict=True):
        torch.testing.assert_close(found[:, 5:31], share.sum(0)[:, 5:31])
        assert (found[:, :5] == 7).all()
        assert (found[:, 31:] == 7).all()


def test_without_documents_all_shares_are_added_up():
    shares = [torch.randn(2, 2, 9, 2, 64) for _ in range(2)]
    sums = [torch.full((2, 9, 2, 64), float("nan")) for _ in range(2)]
    launch = sum_launch(*shares, *sums, False)
    launch.kernel[launch.grid](**launch.arguments)
    for share, found in zip(shares, sums, strict=True):
        torch.testing.assert_close(found, share.sum(0))
