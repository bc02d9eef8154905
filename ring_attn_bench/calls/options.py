"""What an attention function was called with, besides q, k and v."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ring_attn_bench.calls.plain import flag, integer, number, pair, text
from ring_attn_bench.calls.remembered import key_of
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.plan.problem import Mask, Score

Window = Sequence[int] | Tensor
"""Keys before and keys after a query that it sees: two integers, -1 for all."""


class Options(NamedTuple):
    """The arguments as the caller gave them; `plain` makes them what they are said to be.

    A tuple, because a frozen dataclass takes the host three times as long to make.
    partition: of the sequence that is dealt to ranks; None on one device.
    """

    backend: str = "auto"
    dropout_p: float = 0.0
    dropout_seed: int | None = None
    softmax_scale: float | None = None
    causal: bool = False
    window_size: Window = (-1, -1)
    softcap: float = 0.0
    alibi_slopes: Tensor | None = None
    deterministic: bool = False
    sink: Tensor | None = None
    partition: str | None = None

    def plain(self) -> Options:
        """The same, every number of Python's own type; raises InvalidArgument."""
        return self if self.is_plain() else self._converted()

    def key(self, *tensors: Tensor | None, more: tuple[object, ...] = ()) -> Hashable:
        """All that checks and choice look at, of plain options; None is nothing to remember by.

        The seed is not in it, nor any content of a tensor.
        """
        return key_of(
            (*tensors, self.alibi_slopes, self.sink), self.backend, self.dropout_p,
            self.softmax_scale, self.causal, self.window_size, self.softcap, self.deterministic,
            self.partition, *more,
        )  # fmt: skip

    @property
    def mask(self) -> Mask:
        """Causality and the window, of plain options."""
        return Mask.from_window_size(self.causal, cast(tuple[int, int], self.window_size))

    @property
    def draws_seed(self) -> bool:
        """Whether what is dropped follows from a seed that nobody gave."""
        return self.dropout_p > 0 and self.dropout_seed is None

    def scale(self, head_dim: int) -> float:
        """The factor of q.k."""
        return head_dim**-0.5 if self.softmax_scale is None else self.softmax_scale

    def score(self, head_dim: int) -> Score:
        """The score without the slopes, which are a tensor, and of seed 0 if that is drawn.

        Its scale is positive, and the factor of a q that was folded.
        """
        scale = abs(self.scale(head_dim)) or 1.0
        return Score(scale, self.softcap, None, self.dropout_p, self.dropout_seed or 0)

    def folded(self, q: Tensor) -> Tensor:
        """q with the sign of the scale, or with a scale of 0: exact, and autograd folds it into dq.

        Most kernels take the largest product of a row for its largest score, and give NaN.
        """
        return -q if self.softmax_scale else q * 0

    def is_plain(self) -> bool:
        """Whether every number is of Python's own type."""
        # 0.4 us; converting what is plain already takes ten times as long
        (
            backend,
            dropout_p,
            seed,
            scale,
            causal,
            window,
            softcap,
            _,
            deterministic,
            _,
            partition,
        ) = self
        return (
            type(backend) is str
            and type(dropout_p) is type(softcap) is float
            and type(causal) is type(deterministic) is bool
            and type(window) is tuple
            and len(window) == 2
            and type(window[0]) is type(window[1]) is int
            and (scale is None or type(scale) is float)
            and (seed is None or (type(seed) is int and 0 <= seed < 2**63))
            and (partition is None or type(partition) is str)
        )

    def _converted(self) -> Options:
        scale, seed, partition = self.softmax_scale, self.dropout_seed, self.partition
        return self._replace(
            backend=text("backend", self.backend, "auto"),
            dropout_p=number("dropout_p", self.dropout_p),
            dropout_seed=None if seed is None else _seed(seed),
            softmax_scale=None if scale is None else number("softmax_scale", scale),
            causal=flag("causal", self.causal),
            window_size=pair("window_size", self.window_size, "keys before and keys after a query"),
            softcap=number("softcap", self.softcap),
            deterministic=flag("deterministic", self.deterministic),
            partition=None if partition is None else text("partition", partition, "zigzag"),
        )


def _seed(value: object) -> int:
    seed = integer("dropout_seed", value)
    if not 0 <= seed < 2**63:
        raise InvalidArgument(
            f"dropout_seed is {seed}; it must be an integer of 0 to 2**63 - 1, the same on every "
            "rank, or None for one drawn from torch's generator."
        )
    return seed


def drawn_seed() -> int:
    """A seed from torch's default CPU generator.

    That one, because activation checkpointing puts it back before it runs a pass again.
    """
    return int(torch.randint(2**63 - 1, (), device="cpu").item())
