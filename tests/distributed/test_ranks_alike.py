"""What ranks must do alike, passes in one order and one seed; a difference is a sentence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ring_attn_bench import zigzag_ring_flash_attn_func
from tests.distributed.pool import Raised, RankPool, Ring
from tests.distributed.truth import Case, attend, faults, positions, shards, truth

CASE = Case(3, "zigzag", 8, heads=4)


def call(ring: Ring, requires_grad: bool = True, **options: object) -> tuple[Tensor, list[Tensor]]:
    *qkv, _ = shards(CASE, ring.rank)
    qkv = [x.requires_grad_(requires_grad) for x in qkv]
    out = zigzag_ring_flash_attn_func(*qkv, group=ring.group, **CASE.options | options)
    return out, qkv


def assert_refused_everywhere(ranks: RankPool, answers: list[object], sentence: str) -> None:
    for answer in answers:
        assert isinstance(answer, Raised)
        assert "InvalidArgument" in answer.kinds, answer.traceback
        assert sentence in answer.text
    assert faults(CASE, ranks.run(attend, CASE, world_size=3)) == []


def backwards(ring: Ring, how: str) -> None:
    first, second = call(ring)[0], call(ring)[0]
    odd = ring.rank == 1
    if how == "order":
        for out in (second, first) if odd else (first, second):
            out.sum().backward()
    elif odd:
        call(ring)
    else:
        first.sum().backward()


@pytest.mark.parametrize(
    ("how", "sentence"),
    [("order", "backward passes in one order"), ("forward", "pass, this rank in a")],
)
def test_backward_passes_in_another_order_are_told_on_every_rank(ranks, how, sentence):
    answers = ranks.outcomes(backwards, how, world_size=3)
    assert_refused_everywhere(ranks, answers, sentence)


def seeded(ring: Ring) -> None:
    call(ring, dropout_p=0.5, dropout_seed=None if ring.rank == 1 else 0)


def test_a_drawn_seed_beside_a_given_one_is_told_on_every_rank(ranks):
    answers = ranks.outcomes(seeded, world_size=3)
    assert_refused_everywhere(ranks, answers, "dropout_seed")


def scaled(ring: Ring, other: float, scale: float) -> None:
    call(ring, softmax_scale=other if ring.rank == 1 else scale)


@pytest.mark.parametrize(("scale", "other"), [(-0.3, 0.3), (0.0, 1.0)])
def test_scales_of_another_sign_are_told_on_every_rank(ranks, scale, other):
    answers = ranks.outcomes(scaled, other, scale, world_size=3)
    assert_refused_everywhere(ranks, answers, "softmax_scale")


def without_gradients(ring: Ring, needing: list[int], backend: str) -> list[Tensor | None]:
    out, qkv = call(ring, requires_grad=ring.rank in needing, backend=backend)
    *_, dout = shards(CASE, ring.rank)
    out.backward(dout)
    return [x.grad for x in qkv]


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("needing", [[0], [1, 2]], ids=str)
def test_a_rank_whose_inputs_need_no_gradient_takes_part_in_the_backward(ranks, needing, backend):
    answers = ranks.run(without_gradients, needing, backend, world_size=3)

    right = truth(CASE)
    for rank, gradients in enumerate(answers):
        if rank not in needing:
            assert gradients == [None] * 3
            continue
        own = positions(CASE.partition, rank, 3, CASE.tokens * 3)
        for name, gradient in zip(("dq", "dk", "dv"), gradients, strict=True):
            torch.testing.assert_close(gradient, right[name][:, own], rtol=0, atol=1e-12)


def under_no_grad(ring: Ring, off: list[int]) -> bool:
    with torch.set_grad_enabled(ring.rank not in off):
        return call(ring)[0].requires_grad


def test_a_rank_that_cannot_take_part_in_the_backward_is_told_on_every_rank(ranks):
    answers = ranks.outcomes(under_no_grad, [2], world_size=3)
    assert_refused_everywhere(ranks, answers, "rank 0 of the ring wants gradients, and rank 2")
    assert ranks.run(under_no_grad, [0, 1, 2], world_size=3) == [False] * 3


def unneeded_beside_no_grad(ring: Ring) -> bool:
    with torch.set_grad_enabled(ring.rank != 0):
        return call(ring, requires_grad=False)[0].requires_grad


def test_where_nobody_wants_gradients_nobody_has_to_be_alike(ranks):
    found = ranks.run(unneeded_beside_no_grad, world_size=3)
    assert found[0] is False
