"""Which weights dropout keeps: the rate, and that neighbours of every kind know nothing of one
another. The limits are five standard deviations of what independent draws would give.
"""

import math
from itertools import product

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.contract.dropout import keep, numbers, seed_words, threshold
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Problem, Score

P = 0.2
FAR = 2**31 - 5000


def drops(seed=1, p=P, heads=1, rows=1024, keys=1024, row=0, key=0, step=1):
    """1 - p where dropped and -p where not, (heads, rows, keys): of mean 0, variance p (1 - p)."""
    at = row + step * torch.arange(rows), key + step * torch.arange(keys)
    return 1 - keep(seed, p, 1, heads, *at)[0].double() - p


def deviations(products, p=P, power=2):
    """By how many standard deviations the mean of products of so many draws is not 0."""
    return abs(float(products.mean())) / (p * (1 - p)) ** (power / 2) * math.sqrt(products.numel())


@pytest.mark.parametrize("p", [0.01, 0.1, 1 / 3, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2**62 + 11])
def test_the_share_that_is_dropped_is_p_in_all_in_rows_and_in_columns(seed, p):
    found = drops(seed, p)[0]
    variance = p * (1 - p)

    assert deviations(found, p, power=1) < 5
    for sums in (found.sum(0), found.sum(1)):
        chi_square = float((sums**2).sum()) / (variance * found.shape[1])
        # its variance is a little larger than 2 per draw where p is small
        spread = math.sqrt(sums.numel() * (2 + (1 - 6 * variance) / variance / found.shape[1]))
        assert abs(chi_square - sums.numel()) < 5 * spread


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 8, 16, 31, 32, 64, 128, 512])
@pytest.mark.parametrize(("row", "step"), [(0, 1), (FAR, 1), (12345, 4), (0, 64)])
def test_neighbouring_rows_and_columns_are_independent(lag, row, step):
    x = drops(7, row=row, key=row // 3, step=step)

    assert deviations(x[:, lag:] * x[:, :-lag]) < 5
    assert deviations(x[:, :, lag:] * x[:, :, :-lag]) < 5
    assert deviations(x[:, lag:, lag:] * x[:, :-lag, :-lag]) < 5
    assert deviations(x[:, lag:, :-lag] * x[:, :-lag, lag:]) < 5
    corners = x[:, lag:, lag:] * x[:, :-lag, :-lag] * x[:, lag:, :-lag] * x[:, :-lag, lag:]
    assert deviations(corners, power=4) < 5


def test_any_two_rows_and_any_two_columns_are_independent():
    x = drops(3, p=0.5)[0] * 2  # at a half, sums of products are nearly normal
    for rows in (x, x.T):
        correlations = (rows @ rows.T) / math.sqrt(rows.shape[1])
        pairs = correlations[torch.triu_indices(*correlations.shape, offset=1).unbind()]
        # the largest of half a million: 5.0 on average
        assert float(pairs.abs().max()) < 6.5
        assert abs(float(pairs.var()) - 1) < 5 * math.sqrt(2 / pairs.numel())


def test_heads_batch_entries_and_seeds_are_independent_and_the_pattern_has_no_shifts():
    x = drops(heads=16, rows=256)
    for a, b in product(range(16), repeat=2):
        if a < b:
            assert deviations(x[a] * x[b]) < 5
            assert deviations(x[a, 1:] * x[b, :-1]) < 5
    for other in (0, 2, 3, 2**32, 2**32 + 1, 2**62):
        assert deviations(drops(1) * drops(other)) < 5
    assert not torch.equal(drops(row=1024), drops())
    assert not torch.equal(drops(key=1024), drops())
    transposed = drops()[0].T
    assert deviations((drops()[0] * transposed).triu(1)) < 5


def test_rows_with_nearly_the_same_first_word_are_independent():
    """What 32 bits cannot keep apart, the second word does: two rows whose numbers overlap."""
    rows = torch.arange(2**20)
    first = words_of_rows(rows)
    # row + k columns meets the other row's columns where their first words differ by k columns
    inverse = pow(0x9E3779B1, -1, 2**32)
    order = ((first * inverse) & (2**32 - 1)).sort()
    close = ((order.values[1:] - order.values[:-1]) < 64).nonzero().flatten()[:200]
    assert len(close) == 200
    products = []
    for index in close.tolist():
        gap = int(order.values[index + 1] - order.values[index])
        pair = order.indices[index : index + 2]
        x = 1 - keep(0, P, 1, 1, pair, torch.arange(4096))[0, 0].double() - P
        products.append(x[0, gap:] * x[1, : 4096 - gap])
    assert deviations(torch.cat(products)) < 5


def words_of_rows(rows):
    from ring_attn_bench.contract import dropout

    head = dropout._mixed(torch.tensor(seed_words(0)[0]))
    return dropout._mixed(head + rows)


def test_each_byte_of_the_numbers_is_uniform():
    found = numbers(5, torch.tensor(0), torch.arange(2048), torch.arange(2048))
    for shift in (24, 16, 8):
        counts = torch.bincount(((found >> shift) & 255).flatten(), minlength=256).double()
        expected = found.numel() / 256
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255)


def test_a_mask_depends_on_positions_only_and_not_on_how_they_are_asked_for():
    whole = keep(9, P, 2, 3, torch.arange(40), torch.arange(50))
    rows, keys = torch.tensor([7, 39, 0]), torch.tensor([49, 3, 3, 0])
    assert torch.equal(keep(9, P, 2, 3, rows, keys), whole[:, :, rows][..., keys])
    one = numbers(9, torch.tensor(4), rows, keys) >= threshold(P)
    assert torch.equal(one, whole[1, 1][rows][:, keys])
    far = torch.arange(40) + 2**32
    assert torch.equal(keep(9, P, 2, 3, far, torch.arange(50) - 2**32), whole)


def test_nothing_is_dropped_at_0_and_the_threshold_is_p():
    assert keep(1, 0.0, 1, 1, torch.arange(64), torch.arange(64)).all()
    assert threshold(0.5) == 2**31
    assert threshold(0.9999999999) == 2**32 - 1
    assert len({seed_words(seed) for seed in range(1000)}) == 1000


@pytest.mark.parametrize("p", [0.1, 0.7])
def test_the_references_dropout_is_the_derivative_of_itself_and_leaves_lse_alone(p):
    random = torch.Generator().manual_seed(2)
    shapes = ((2, 9, 4, 5), (2, 11, 2, 5), (2, 11, 2, 3), (2, 9, 4, 3))
    q, k, v, dout = (torch.randn(s, generator=random, dtype=torch.float64) for s in shapes)
    block = Block((Span(3, 9, 2),), (Span(0, 11, 2),), Band(low=-2))
    backend, score = ReferenceBackend(), Score(0.4, dropout_p=p, dropout_seed=2**40)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out, lse = backend.forward(leaves[0], Keys(*leaves[1:]), block, score)
    expected = torch.autograd.grad(out, leaves, dout)
    delta = (dout * out).sum(-1).transpose(1, 2)
    found = backend.backward(
        Rows(q, dout, out, lse, delta), Keys(k, v), block, score, deterministic=True
    )

    for got, right in zip(found, expected, strict=True):
        torch.testing.assert_close(got, right, rtol=0, atol=1e-12)
    assert torch.equal(lse, backend.forward(q, Keys(k, v), block, Score(0.4))[1])
    problem = Problem(2, 11, 4, 2, 5, 3, "float64", "cpu", dropout_p=p)
    assert backend.unsupported(problem) is None
