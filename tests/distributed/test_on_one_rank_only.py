"""What one rank alone is called with is told to the others before they wait for its messages."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from ring_attn_bench import InvalidArgument, RingContext, unshard, zigzag_ring_flash_attn_func
from tests.distributed.pool import Ring

X = torch.randn(1, 4, 2, 8)
quiet = partial(warnings.catch_warnings, action="ignore", category=DeprecationWarning)
"""What torch warns of where forward mode is begun: that it uses torch.jit.script."""
Function = Callable[[torch.Tensor], torch.Tensor]


def dual(function: Function) -> object:
    with quiet(), forward_ad.dual_level():
        return function(forward_ad.make_dual(X, X))


def jvp(function: Function) -> object:
    with quiet():
        return torch.func.jvp(function, (X,), (X,))


class Raises(torch.Tensor):
    """At every look at it."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError("planted: do not look")


def faked(function: Function) -> object:
    with quiet(), FakeTensorMode() as mode:
        return function(mode.from_tensor(X))


TRANSFORMS: dict[str, Callable[[Function], object]] = {
    "vmap": lambda f: torch.func.vmap(f)(X[None]),
    "grad": lambda f: torch.func.grad(lambda x: f(x).sum())(X),
    "jvp": jvp,
    "make_dual": dual,
    "FakeTensorMode": faked,
    "a subclass that raises": lambda f: f(X.as_subclass(Raises)),
}


def on_rank_0(ring: Ring, how: str, what: str) -> tuple[str, str, float, list[float]]:
    context = RingContext(ring.group)

    def ringed(x: torch.Tensor) -> torch.Tensor:
        return zigzag_ring_flash_attn_func(x, x, x, context=context)

    def whole(x: torch.Tensor) -> torch.Tensor:
        return unshard(x, "zigzag", ring.group)

    function = ringed if what == "ring" else whole
    began, kind, text = time.monotonic(), "nothing", ""
    try:
        TRANSFORMS[how](function) if ring.rank == 0 else function(X)
    except Exception as error:
        kind, text = type(error).__name__, str(error)
    seconds = time.monotonic() - began
    return kind, text, seconds, ringed(torch.ones_like(X)).unique().tolist()


@pytest.mark.parametrize("what", ["ring", "unshard"])
@pytest.mark.parametrize("how", TRANSFORMS)
def test_what_one_rank_alone_cannot_do_is_told_to_the_others_at_once(ranks, how, what):
    first, second = ranks.run(on_rank_0, how, what, world_size=2)
    if how == "a subclass that raises":
        assert "planted" in first[1]
    elif how == "FakeTensorMode":
        assert first[0] == InvalidArgument.__name__, first
        assert "is a FakeTensor" in first[1]
    else:
        assert first[0] == InvalidArgument.__name__, first
        assert "has no rule for torch.func's transforms" in first[1]
    assert second[0] == InvalidArgument.__name__, second
    assert "rank 0 of the ring refused its arguments" in second[1]
    assert all(seconds < 10 for _, _, seconds, _ in (first, second))
    assert first[3] == second[3] == [1.0]


def plain_in_a_dual_level(ring: Ring) -> list[float]:
    with quiet(), forward_ad.dual_level():
        x = torch.ones_like(X)
        out = zigzag_ring_flash_attn_func(x, x, x, group=ring.group)
        return unshard(out, "zigzag", ring.group).unique().tolist()


def test_tensors_without_tangents_are_served_where_others_have_some(ranks):
    assert ranks.run(plain_in_a_dual_level, world_size=2) == [[1.0]] * 2
