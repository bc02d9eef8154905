"""The contract's tensors in groups: what a part of them is."""

import pytest
import torch

from ring_attn_bench.contract.tensors import Keys, Rows, Running, Sums
from ring_attn_bench.plan.positions import Range

ROWS, KEYS = Range(2, 5), Range(1, 7)


@pytest.fixture(params=[(2,), ()], ids=["a block", "documents"])
def batch(request):
    return request.param


def tokens(batch, count, heads=4, dim=3):
    return torch.randn(*batch, count, heads, dim)


def test_a_part_is_a_view_of_its_tokens_in_every_tensor(batch):
    rows, keys = tokens(batch, 8), tokens(batch, 9, 2)
    lse = torch.randn(*batch, 4, 8)
    cut = [
        *Rows(rows, rows, rows, lse, lse).part(ROWS), *Keys(keys, keys).part(KEYS),
        *Running(rows, lse, rows).part(ROWS), *Sums(rows, keys, keys).part(ROWS, KEYS),
    ]  # fmt: skip
    row, line, key = rows[..., 2:5, :, :], lse[..., 2:5], keys[..., 1:7, :, :]
    expected = [row, row, row, line, line, key, key, row, line, row, row, key, key]

    for got, right in zip(cut, expected, strict=True):
        assert torch.equal(got, right)
        assert got.data_ptr() == right.data_ptr()
        assert got.stride() == right.stride()


def test_what_is_not_given_has_no_part(batch):
    rows, lse = tokens(batch, 8), torch.randn(*batch, 4, 8)

    assert Rows(rows, rows, rows, lse).part(ROWS).delta is None
    assert Running(rows, lse).part(ROWS).target is None


def test_a_part_that_is_all_of_a_tensor_is_that_tensor(batch):
    keys = Keys(tokens(batch, 9, 2), tokens(batch, 9, 2))

    assert all(part is x for part, x in zip(keys.part(Range(0, 9)), keys, strict=True))
    assert keys.part(Range(3, 3)).k.shape == (*batch, 0, 2, 3)


def test_the_merged_out_goes_to_the_target_if_there_is_one():
    out, lse, target = (torch.empty(1) for _ in range(3))

    assert Running(out, lse).result is out
    assert Running(out, lse, target).result is target
