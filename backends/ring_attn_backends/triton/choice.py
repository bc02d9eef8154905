"""The families of kernels, a folder each: what a folder has, and which of them gets a call.

A new one is a folder whose files have these names and meet these protocols, and a line in FAMILIES.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ring_attn_backends.triton.hopper import launch as hopper_launch
from ring_attn_backends.triton.hopper import serves as hopper_serves
from ring_attn_backends.triton.hopper import table as hopper_table
from ring_attn_backends.triton.hopper.gathered import launch as hopper_gathered
from ring_attn_backends.triton.plain import launch as plain_launch
from ring_attn_backends.triton.plain import serves as plain_serves
from ring_attn_backends.triton.plain import table as plain_table
from ring_attn_backends.triton.plain.gathered import launch as plain_gathered

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.triton.launching import Kernel, TritonLaunch
    from ring_attn_bench.contract.tensors import Gathering, Keys, Rows, Running, Sums
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.problem import Documents, Score


class Serves(Protocol):
    """serves.py."""

    def serves(self, tensors: tuple[Tensor, ...], where: Block | Documents, score: Score) -> bool:
        """Whether the family computes it, on this GPU; tensors: q, k, v, and dout if given."""

    def serves_gathered(self, tensors: tuple[Tensor, ...], keys: Gathering, score: Score) -> bool:
        """Whether it does for gathered keys; tensors: q, and dout if given."""

    def refusal(
        self, capability: tuple[int, int] | None, triton: str, interpreted: bool
    ) -> str | None:
        """Why it serves nothing on such a GPU, None for none, by that Triton; or None."""


class FamilyTable(Protocol):
    """table.py."""

    def rows(self) -> Iterator[tuple[Kernel, int, int, Any, tuple[Any, ...]]]:
        """Kernel, bytes of an element, head dim, what serves them, and what a tuning run tries."""


class Launches(Protocol):
    """launch.py; config: of the table, if not the one that it chooses."""

    def forward_launch(
        self, q: Tensor, keys: Keys, running: Running, where: Block | Documents, score: Score,
        *, first: bool, config: Any = None,  # noqa: ANN401 - each family has its own
    ) -> TritonLaunch:  # fmt: skip
        """Writes the running result, any float dtype, and lse.

        first: for these keys alone. Else the running out and lse hold what other keys gave, and the
        result and lse will hold what all of them give.
        """

    def backward_dq_launch(
        self, rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
        *, add: bool, config: Any = None,  # noqa: ANN401
    ) -> TritonLaunch:  # fmt: skip
        """Writes the sums' dq, any float dtype, or adds to it."""

    def backward_dkdv_launch(
        self, rows: Rows, keys: Keys, sums: Sums, where: Block | Documents, score: Score,
        *, add: bool, config: Any = None,  # noqa: ANN401
    ) -> TritonLaunch:  # fmt: skip
        """Writes the sums' dk and dv, any float dtype, or adds to them."""


class GatheredLaunches(Protocol):
    """gathered/launch.py."""

    def forward_launch(
        self, q: Tensor, keys: Gathering, out: Tensor, lse: Tensor, where: Gathered, score: Score
    ) -> TritonLaunch:
        """Writes out (B, M, H, E) and lse (B, H, M)."""

    def dq_launch(
        self, rows: Rows, keys: Gathering, dq: Tensor, where: Gathered, score: Score
    ) -> TritonLaunch:
        """Writes dq (B, M, H, D)."""

    def dkdv_launch(
        self, rows: Rows, keys: Gathering, own: Keys, landed: Keys, where: Gathered, score: Score,
        *, own_first: bool,
    ) -> TritonLaunch:  # fmt: skip
        """Writes dk and dv into `own` and `landed`."""


@dataclass(frozen=True, slots=True)
class Family:
    """A folder of kernels."""

    name: str
    serves: Serves
    table: FamilyTable
    launch: Launches
    gathered: GatheredLaunches


PLAIN = Family("plain", plain_serves, plain_table, plain_launch, plain_gathered)
HOPPER = Family("hopper", hopper_serves, hopper_table, hopper_launch, hopper_gathered)
FAMILIES = (PLAIN, HOPPER)
"""The first serves everything everywhere; of those that serve a call, the last gets it."""


def family_for(tensors: tuple[Tensor, ...], where: Block | Documents, score: Score) -> Family:
    """The one that computes a block or documents; tensors: q, k, v, and dout if given."""
    return next(x for x in reversed(FAMILIES) if x.serves.serves(tensors, where, score))


def gathered_family_for(tensors: tuple[Tensor, ...], keys: Gathering, score: Score) -> Family:
    """The one that computes a gathered launch; tensors: q, and dout if given."""
    return next(x for x in reversed(FAMILIES) if x.serves.serves_gathered(tensors, keys, score))
