"""What a machine makes of plain work: the speeds of light that a ring's times are held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from ring_attn_bench.records.values import Count, DType, Frozen, Text

Rate = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]


class Gauged(Frozen):
    """What one process measured, all of them at once; None is what it has not got."""

    matmul_tflops: dict[DType, Rate] = Field(default_factory=dict)
    copy_gbs: Rate | None = None
    read_gbs: Rate | None = None
    messages_gbs: Rate | None = None
    pulls_gbs: Rate | None = None
    square: Count = 0
    copied_bytes: Count = 0
    sent_bytes: Count = 0
    unmeasured: Text = ""
    """Why something is not here that should be."""


class Ceilings(Frozen):
    """Measured once for each ring of a run, before its first contestant; rates are by process.

    Medians, timed as a ring's calls are: all processes start together, each from a cold cache.
    """

    dtype: DType
    matmul_tflops: tuple[Rate, ...] = ()
    """TFLOP/s of a product of two square matrices in that dtype, as torch is set."""
    copy_gbs: tuple[Rate, ...] = ()
    """GB/s, read and written together, of a copy inside the device."""
    read_gbs: tuple[Rate, ...] = ()
    """GB/s of reading alone: a maximum over a large tensor. () where nobody asked."""
    messages_gbs: tuple[Rate, ...] = ()
    """GB/s that each sends its neighbour, and gets from the other, by torch.distributed."""
    pulls_gbs: tuple[Rate, ...] = ()
    """GB/s that each copies out of its neighbour's memory, where GPUs reach each other."""
    square: Count = 0
    """Rows of the matrices."""
    copied_bytes: Count = 0
    sent_bytes: Count = 0
    measured_at: Text = ""
    unmeasured: Text = ""
    """Why something is not here that should be."""

    @classmethod
    def of(cls, dtype: str, gauged: Sequence[Gauged], measured_at: str) -> Ceilings:
        """By process, what they measured; of that dtype."""
        first = gauged[0]
        return cls(
            dtype=dtype,
            matmul_tflops=_all(one.matmul_tflops.get(dtype) for one in gauged),
            copy_gbs=_all(one.copy_gbs for one in gauged),
            read_gbs=_all(one.read_gbs for one in gauged),
            messages_gbs=_all(one.messages_gbs for one in gauged),
            pulls_gbs=_all(one.pulls_gbs for one in gauged),
            square=first.square,
            copied_bytes=first.copied_bytes,
            sent_bytes=first.sent_bytes,
            measured_at=measured_at,
            unmeasured=next((one.unmeasured for one in gauged if one.unmeasured), ""),
        )

    @property
    def matmul(self) -> float | None:
        """TFLOP/s of the slowest process, for which a ring of even work waits; None if unknown."""
        return min(self.matmul_tflops, default=None)

    @property
    def copy_rate(self) -> float | None:
        """GB/s of the slowest process."""
        return min(self.copy_gbs, default=None)

    @property
    def read_rate(self) -> float | None:
        """GB/s of the slowest process."""
        return min(self.read_gbs, default=None)

    @property
    def link(self) -> float | None:
        """GB/s of one direction, of the slowest process, by whichever way is faster."""
        ways = (self.messages_gbs, self.pulls_gbs)
        return max((min(rates) for rates in ways if rates), default=None)


def _all(rates: Iterable[float | None]) -> tuple[float, ...]:
    """Every process's, or none where one has none."""
    known = tuple(rates)
    return tuple(x for x in known if x is not None) if None not in known else ()
