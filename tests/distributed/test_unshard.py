"""unshard as a collective: ranks that do not fit each other are told, all of them, and no hang."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench import InvalidArgument, RingBroken, shard, unshard
from tests.distributed.pool import Raised, RankPool, Ring

WHOLE = torch.arange(2 * 12 * 12 * 3, dtype=torch.float64).view(2, 12, 12, 3)


def own(ring: Ring) -> Tensor:
    return shard(WHOLE, ring.rank, ring.world_size, "zigzag")


def gathered(ring: Ring) -> bool:
    return torch.equal(unshard(own(ring), "zigzag", ring.group), WHOLE)


ODD: dict[str, Callable[[Ring], object]] = {
    "dtype": lambda ring: unshard(own(ring).long(), "zigzag", ring.group),
    "size of dim 0": lambda ring: unshard(own(ring)[:1], "zigzag", ring.group),
    "size of dim 1": lambda ring: unshard(own(ring)[:, :2], "zigzag", ring.group),
    "number of dims": lambda ring: unshard(own(ring)[..., 0], "zigzag", ring.group),
    "shape": lambda ring: unshard(own(ring).transpose(2, 3), "zigzag", ring.group),
    "dim": lambda ring: unshard(own(ring), "zigzag", ring.group, dim=2),
    "partition": lambda ring: unshard(own(ring), "striped", ring.group),
}
REFUSED: dict[str, Callable[[Ring], object]] = {
    "unknown partition": lambda ring: unshard(own(ring), "zigzac", ring.group),
    "x must be a tensor, got NoneType": lambda ring: unshard(None, "zigzag", ring.group),
    "dim is 9": lambda ring: unshard(own(ring), "zigzag", ring.group, dim=9),
    "dim is 'tokens'": lambda ring: unshard(own(ring), "zigzag", ring.group, dim="tokens"),
    "a tensor of shape () has no dim": lambda r: unshard(torch.ones(()), "zigzag", r.group),
    "handshake is 'yes'": lambda r: unshard(own(r), "zigzag", r.group, handshake="yes"),
    "x is on meta": lambda ring: unshard(own(ring).to("meta"), "zigzag", ring.group),
    "tokens": lambda ring: unshard(own(ring)[:, :1], "zigzag", ring.group),
}


def odd(ring: Ring, table: dict[str, Callable[[Ring], object]], name: str) -> object:
    if ring.rank == 1:
        return table[name](ring)
    return unshard(own(ring), "zigzag", ring.group)


def differs(ring: Ring, name: str) -> object:
    return odd(ring, ODD, name)


def refuses(ring: Ring, name: str) -> object:
    return odd(ring, REFUSED, name)


def refused(ranks: RankPool, answers: list[object]) -> list[str]:
    """Their sentences; and what comes after them is right."""
    texts = []
    for answer in answers:
        assert isinstance(answer, Raised)
        assert "InvalidArgument" in answer.kinds or "UnknownName" in answer.kinds, answer.traceback
        texts.append(answer.text)
    assert ranks.run(gathered, world_size=3) == [True] * 3
    return texts


@pytest.mark.parametrize("name", ODD)
def test_a_shard_unlike_the_others_is_told_on_every_rank(ranks, name):
    for text in refused(ranks, ranks.outcomes(differs, name, world_size=3)):
        assert "of the ring was called with" in text
        assert name in text or name == "shape"


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_rank_that_refuses_its_own_shard_tells_the_others(ranks, sentence):
    one, mine, other = refused(ranks, ranks.outcomes(refuses, sentence, world_size=3))
    assert sentence in mine
    assert "rank 1 of the ring refused its arguments" in one
    assert "rank 1 of the ring refused its arguments" in other


def backwards(ring: Ring, how: str) -> None:
    x = own(ring).requires_grad_()
    first, second = (unshard(x, "zigzag", ring.group) for _ in range(2))
    is_odd = ring.rank == 1
    if how == "order":
        for whole in (second, first) if is_odd else (first, second):
            whole.sum().backward()
    elif is_odd:
        unshard(x, "zigzag", ring.group)
    else:
        first.sum().backward()


@pytest.mark.parametrize("how", ["order", "forward"])
def test_another_order_of_backward_passes_is_told_on_every_rank(ranks, how):
    for text in refused(ranks, ranks.outcomes(backwards, how, world_size=3)):
        assert "every rank must" in text
        assert "in one order" in text


def without_gradients(ring: Ring) -> Tensor | None:
    x = own(ring).requires_grad_(ring.rank == 2)
    (unshard(x, "zigzag", ring.group) * WHOLE).sum().backward()
    return x.grad


def test_a_rank_that_needs_no_gradient_takes_part_in_the_backward(ranks):
    first, second, third = ranks.run(without_gradients, world_size=3)
    assert first is second is None
    assert torch.equal(third, 3 * shard(WHOLE, 2, 3, "zigzag"))


def under_no_grad(ring: Ring) -> None:
    with torch.set_grad_enabled(ring.rank != 1):
        unshard(own(ring).requires_grad_(), "zigzag", ring.group)


def test_a_rank_that_cannot_take_part_in_the_backward_is_told_of_on_every_rank(ranks):
    for text in refused(ranks, ranks.outcomes(under_no_grad, world_size=3)):
        assert "wants gradients, and rank 1 runs under torch.no_grad" in text


def unasked(ring: Ring) -> bool:
    """With handshake=False nothing is asked: no more than one collective is made."""
    made, real = [], dist.all_gather
    dist.all_gather = lambda *given, **named: (made.append(1), real(*given, **named))[1]
    try:
        whole = unshard(own(ring), "zigzag", ring.group, handshake=False)
    finally:
        dist.all_gather = real
    return torch.equal(whole, WHOLE) and len(made) == 1


def test_without_a_handshake_nothing_is_asked(ranks):
    assert ranks.run(unasked, world_size=3) == [True] * 3


def alone(ring: Ring) -> str:
    """Rank 1 stays away from the backward; the others are of no account."""
    group = dist.new_group([0, 1], timeout=timedelta(seconds=1))  # all ranks count it
    if ring.rank == 1:
        unshard(torch.ones(1, 4, requires_grad=True), "zigzag", group, handshake=False)
    if ring.rank:
        dist.barrier()
        return ""
    x = torch.ones(1, 4, requires_grad=True)
    whole = unshard(x, "zigzag", group, handshake=False)
    try:
        whole.sum().backward()
    except RingBroken as error:
        return str(error)
    finally:
        dist.barrier()
    return "nothing"


def test_a_rank_that_does_not_come_is_a_sentence(ranks):
    text, *_ = ranks.run(alone)
    assert "waited for the gradients of the others in vain" in text


def asked_of_torch(ring: Ring, what: str) -> str:
    x = own(ring).requires_grad_()
    try:
        if what == "transform":
            torch.func.grad(lambda x: unshard(x, "zigzag", ring.group).sum())(own(ring))
        whole = unshard(x, "zigzag", ring.group)
        if what == "batch":
            many = torch.ones(2, *whole.shape, dtype=x.dtype)
            torch.autograd.grad(whole, x, many, is_grads_batched=True)
        (gradient,) = torch.autograd.grad(whole, x, whole * 2, create_graph=True)
        gradient.sum().backward()
    except InvalidArgument as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("transform", "unshard has no rule for torch.func's transforms"),
        ("batch", "takes one gradient at a time"),
        ("twice", "cannot be differentiated again"),
    ],
)
def test_what_torch_can_ask_and_unshard_cannot_is_a_sentence(ranks, what, sentence):
    for text in ranks.run(asked_of_torch, what, world_size=3):
        assert sentence in text
