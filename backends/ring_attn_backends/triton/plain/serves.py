"""Whether these kernels compute what is asked for: they do, on every GPU that Triton knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.contract.tensors import Gathering
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.problem import Documents, Score


def serves(tensors: tuple[Tensor, ...], where: Block | Documents, score: Score) -> bool:
    """All that `TritonBackend.unsupported` lets pass."""
    return True


def serves_gathered(tensors: tuple[Tensor, ...], keys: Gathering, score: Score) -> bool:
    """Whether gathered keys are served: wherever the rest is."""
    return True


def refusal(capability: tuple[int, int] | None, triton: str, interpreted: bool) -> str | None:
    """None: they run everywhere."""
    return None
