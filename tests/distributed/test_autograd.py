"""The ring under autograd: whatever a model does around it, gradients are those of one device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ring_attn_bench import unshard, zigzag_ring_flash_attn_func
from tests.distributed.pool import Raised, Ring
from tests.distributed.truth import Case, attend, faults, joined, positions, shards, truth

CASE = Case(3, "zigzag", 8, heads=4, batch=2)
NAMES = ("q", "k", "v")


def ring_of(ring: Ring, case: Case, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return zigzag_ring_flash_attn_func(q, k, v, group=ring.group, **case.options)


def leaves(ring: Ring, case: Case) -> tuple[list[Tensor], Tensor]:
    *qkv, dout = shards(case, ring.rank)
    return [x.requires_grad_() for x in qkv], dout


def results(out: Tensor, qkv: list[Tensor]) -> dict[str, Tensor]:
    grads = {f"d{name}": x.grad for name, x in zip(NAMES, qkv, strict=True)}
    return {"out": out.detach()} | {n: g for n, g in grads.items() if g is not None}


def close(case: Case, answers: list[dict[str, Tensor]], factor: float = 1.0) -> bool:
    """Whether out and the gradients there are, these `factor` times, are the float64 truth."""
    right = truth(case)
    return all(
        torch.allclose(x, right[name] * (factor if name != "out" else 1), rtol=0, atol=1e-12)
        for name, x in joined(case, answers).items()
    )


def without_gradient(ring: Ring, case: Case, how: str) -> dict[str, Tensor]:
    q, k, v, _ = shards(case, ring.rank)
    if how == "inputs":
        out = ring_of(ring, case, q, k, v)
    else:
        q.requires_grad_()
        with torch.no_grad() if how == "no_grad" else torch.inference_mode():
            out = ring_of(ring, case, q, k, v)
    assert not out.requires_grad
    return {"out": out}


@pytest.mark.parametrize("how", ["inputs", "no_grad", "inference_mode"])
def test_without_gradients_out_is_the_same(ranks, how):
    assert close(CASE, ranks.run(without_gradient, CASE, how, world_size=3))


def some_leaves(ring: Ring, case: Case, needed: list[str]) -> tuple[list[bool], list[bool]]:
    q, k, v, dout = shards(case, ring.rank)
    whole = truth(case)
    own = positions(case.partition, ring.rank, case.world_size, case.tokens * case.world_size)
    wanted = [name in needed[ring.rank] for name in NAMES]
    for x, need in zip((q, k, v), wanted, strict=True):
        x.requires_grad_(need)
    ring_of(ring, case, q, k, v).backward(dout)
    right = [whole[f"d{name}"][:, own] for name in NAMES]
    has = [x.grad is not None for x in (q, k, v)]
    good = [
        x.grad is None or torch.allclose(x.grad, g, rtol=0, atol=1e-12)
        for x, g in zip((q, k, v), right, strict=True)
    ]
    return [a == b for a, b in zip(has, wanted, strict=True)], good


@pytest.mark.parametrize(
    "needed", [["q"] * 3, ["k"] * 3, ["v"] * 3, ["qv"] * 3, ["q", "k", "v"], ["qkv", "v", "qk"]]
)
def test_only_the_inputs_that_need_a_gradient_get_one(ranks, needed):
    for has, good in ranks.run(some_leaves, CASE, needed, world_size=3):
        assert all(has)
        assert all(good)


def under_autocast(ring: Ring, case: Case) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
    qkv, dout = leaves(ring, case)
    with torch.autocast("cpu", torch.bfloat16):
        out = ring_of(ring, case, *qkv)
        kind = functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in qkv)).dtype
    assert out.dtype is kind
    out.backward(dout.to(out.dtype))
    assert all(x.grad.dtype is x.dtype for x in qkv)
    by_hand = [x.detach().to(torch.bfloat16).requires_grad_() for x in qkv]
    same = ring_of(ring, case, *by_hand)
    same.backward(dout.to(out.dtype))
    assert all(torch.equal(x.grad, y.grad.float()) for x, y in zip(qkv, by_hand, strict=True))
    return torch.equal(out, same)


@pytest.mark.parametrize("backend", ["reference", "aten"])
def test_autocast_casts_as_torchs_own_attention_and_gradients_come_back_wide(ranks, backend):
    case = Case(2, "zigzag", 8, dtype=torch.float32, backend=backend)
    assert ranks.run(under_autocast, case, world_size=2) == [True, True]


def summed(ring: Ring, case: Case) -> bool:
    qkv, dout = leaves(ring, case)
    ring_of(ring, case, *qkv).sum().backward()
    twin, _ = leaves(ring, case)
    ring_of(ring, case, *twin).backward(torch.ones_like(dout))
    return all(torch.equal(x.grad, y.grad) for x, y in zip(qkv, twin, strict=True))


@pytest.mark.parametrize("backend", ["reference", "aten"])
def test_an_expanded_gradient_is_one_of_ones(ranks, backend):
    case = Case(3, "zigzag", 8, heads=4, backend=backend)
    assert ranks.run(summed, case, world_size=3) == [True] * 3


def accumulated(ring: Ring, case: Case) -> dict[str, Tensor]:
    qkv, dout = leaves(ring, case)
    for _ in range(2):
        out = ring_of(ring, case, *qkv)
        out.backward(dout)
    return results(out, qkv)


def retained(ring: Ring, case: Case) -> dict[str, Tensor]:
    qkv, dout = leaves(ring, case)
    out = ring_of(ring, case, *qkv)
    for _ in range(2):
        out.backward(dout, retain_graph=True)
    return results(out, qkv)


@pytest.mark.parametrize("function", [accumulated, retained])
def test_two_backwards_add_up(ranks, function):
    assert close(CASE, ranks.run(function, CASE, world_size=3), factor=2.0)


class Swallow(torch.autograd.Function):
    """Passes a value on and no gradient back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


def unused(ring: Ring, case: Case, how: str) -> dict[str, Tensor]:
    qkv, dout = leaves(ring, case)
    out = ring_of(ring, case, *qkv)
    if ring.rank != 1:
        out.backward(dout)
    elif how == "no gradient":
        Swallow.apply(out).sum().backward()
    else:
        (out * 0).sum().backward()
    return {"dk": qkv[1].grad, "dv": qkv[2].grad}


@pytest.mark.parametrize("how", ["no gradient", "times zero"])
def test_a_rank_that_does_not_use_its_output_passes_the_others_gradients(ranks, how):
    answers = ranks.run(unused, CASE, how, world_size=3)
    q, k, v, dout = _whole_with_zero_gradient_at(1)
    out = functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
    )
    dk, dv = torch.autograd.grad(out.transpose(1, 2), (k, v), dout)
    found = joined(CASE, answers)
    assert torch.allclose(found["dk"], dk, rtol=0, atol=1e-12)
    assert torch.allclose(found["dv"], dv, rtol=0, atol=1e-12)


def _whole_with_zero_gradient_at(rank: int) -> list[Tensor]:
    parts = [shards(CASE, r) for r in range(3)]
    parts[rank][3].zero_()
    named = [{str(i): x for i, x in enumerate(part)} for part in parts]
    return [x.requires_grad_(name != "3") for name, x in joined(CASE, named).items()]


def checkpointed(ring: Ring, case: Case, reentrant: bool) -> dict[str, Tensor]:
    qkv, dout = leaves(ring, case)
    out = checkpoint(lambda *x: ring_of(ring, case, *x), *qkv, use_reentrant=reentrant)
    out.backward(dout)
    return results(out, qkv)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_ring_is_recomputed_right(ranks, reentrant):
    assert close(CASE, ranks.run(checkpointed, CASE, reentrant, world_size=3))


def twice(ring: Ring, case: Case) -> None:
    qkv, dout = leaves(ring, case)
    out = ring_of(ring, case, *qkv)
    (dq,) = torch.autograd.grad(out, qkv[:1], dout.requires_grad_(), create_graph=True)
    dq.sum().backward()


def test_a_second_derivative_is_refused(ranks):
    for answer in ranks.outcomes(twice, CASE, world_size=3):
        assert isinstance(answer, Raised)
        assert "InvalidArgument" in answer.kinds
        assert "cannot be differentiated again" in answer.text
    assert faults(CASE, ranks.run(attend, CASE, world_size=3)) == []


def views(ring: Ring, case: Case) -> dict[str, Tensor]:
    """q, k and v as cuts out of one heads-first projection."""
    *qkv, dout = shards(case, ring.rank)
    wide = torch.cat([x.transpose(1, 2) for x in qkv], 1).requires_grad_()
    parts = wide.transpose(1, 2).split([x.shape[2] for x in qkv], 2)
    assert not any(part.is_contiguous() for part in parts)
    out = ring_of(ring, case, *parts)
    out.transpose(1, 2).backward(dout.transpose(1, 2))
    grads = wide.grad.transpose(1, 2).split([x.shape[2] for x in qkv], 2)
    return {"out": out.detach()} | dict(zip(("dq", "dk", "dv"), grads, strict=True))


@pytest.mark.parametrize("backend", ["reference", "aten"])
def test_views_with_a_contiguous_last_dim_are_enough(ranks, backend):
    case = Case(3, "zigzag", 8, heads=4, batch=3, backend=backend)
    assert close(case, ranks.run(views, case, world_size=3))


def gathered(ring: Ring, case: Case) -> dict[str, Tensor]:
    qkv, _ = leaves(ring, case)
    out = ring_of(ring, case, *qkv)
    whole = unshard(out, case.partition, ring.group)
    weight = torch.linspace(-1, 1, whole.numel(), dtype=whole.dtype).view_as(whole)
    (whole * weight).sum().div(case.world_size).backward()
    return results(out, qkv) | {"weight": weight}


def test_gradients_pass_through_unshard(ranks):
    answers = ranks.run(gathered, CASE, world_size=3)
    weight = answers[0].pop("weight")
    q, k, v, _ = _whole_with_zero_gradient_at(0)
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    out = functional.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)
    right = torch.autograd.grad(out.transpose(1, 2), (q, k, v), weight)
    found = joined(CASE, [{n: a[n] for n in ("dq", "dk", "dv")} for a in answers])
    for name, gradient in zip(("dq", "dk", "dv"), right, strict=True):
        assert torch.allclose(found[name], gradient, rtol=0, atol=1e-12)
