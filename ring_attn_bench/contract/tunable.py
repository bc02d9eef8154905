"""The contract of a backend whose configurations can be tuned: `ring-attn-bench tune`.

A backend meets it beside `backend.Backend`. It says which configurations there are to try, and
makes a launch of one; whether they are right and which is fastest is found out by others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.plan.problem import DtypeName

if TYPE_CHECKING:
    from ring_attn_bench.contract.tensors import Keys, Rows, Sums
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.problem import Score

Kernel = Literal["forward", "backward_dq", "backward_dkdv"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A configuration that may stand in a row of a backend's table.

    kernel: what is computed. table: which of the backend's tables it would stand in.
    head_dim: of q, k and v. dtypes: those that the row serves here, first the one to tune in.
    config: the configuration in words, as no other trial of the row has it.
    shipped: whether it is the one that stands there.
    """

    kernel: Kernel
    table: str
    head_dim: int
    dtypes: tuple[DtypeName, ...]
    config: str
    shipped: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """What a backend has to be tuned on this machine.

    trials: row by row. left_out: in sentences, which tables have no trials here, and why.
    untimed: why a speed would mean nothing here (an interpreter), or None.
    """

    trials: tuple[Trial, ...]
    left_out: tuple[str, ...] = ()
    untimed: str | None = None


@dataclass(frozen=True, slots=True)
class TrialTensors:
    """What a trial's kernel reads and writes; shapes and names as in `backend`.

    forward reads q, k, v and writes the rows' out, in q's dtype or float32, and lse. The other two
    read dout, q, k, v, lse, delta and write dq, or dk and dv, in float32.
    """

    rows: Rows
    keys: Keys
    sums: Sums


@runtime_checkable
class Tunable(Protocol):
    """What a class has that can be tuned."""

    def offer(self) -> Offer:
        """What there is to try on this machine's device, or its CPU."""
        ...

    def trial_launch(
        self, trial: Trial, tensors: TrialTensors, block: Block, score: Score, *, add: bool
    ) -> Callable[[], None]:
        """The trial's kernel over these tensors, to be called as often as one likes.

        Each call reads what they hold then: they are given other values between calls.
        add: it goes on from what out (float32) and lse hold, or adds to dq, or to dk and dv.
        Neither making it nor calling it waits for the device.
        """
        ...


class TunableBackend(Tunable, Backend, Protocol):
    """A backend that can be tuned."""
