"""Which rings a machine can run: how many ranks, with a process for each or one for all."""

from __future__ import annotations

from dataclasses import dataclass

from ring_attn_bench.errors import RingAttnBenchError

CPU_RANKS = 2
LOOPBACK_RANKS = 4


class MachineLacks(RingAttnBenchError):
    """The machine has not got what was asked for by name."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One ring: `world_size` ranks in `processes` processes; played: `real` or `loopback`."""

    world_size: int
    processes: int
    played: str

    def __str__(self) -> str:
        if self.played == "loopback":
            return f"{self.world_size} ranks in one process (loopback)"
        return f"{self.world_size} rank{'s' if self.world_size > 1 else ''}, one process each"


def setups(gpus: int, wanted: int | None) -> tuple[Setup, ...]:
    """The rings to run on a machine with that many GPUs; `wanted` ranks if that is not None.

    Several GPUs: a rank each. One: one rank, and 4 by loopback. None: 2 ranks on the CPU.
    Raises MachineLacks if the GPUs are fewer than the ranks wanted.
    """
    if gpus == 0:
        ranks = CPU_RANKS if wanted is None else wanted
        return (Setup(ranks, ranks, "real"),)
    if gpus == 1:
        if wanted is not None:
            return (Setup(wanted, 1, "loopback" if wanted > 1 else "real"),)
        return (Setup(1, 1, "real"), Setup(LOOPBACK_RANKS, 1, "loopback"))
    ranks = gpus if wanted is None else wanted
    if ranks > gpus:
        raise MachineLacks(
            f"{ranks} ranks were asked for, and this machine has {gpus} GPUs; ask for at most "
            f"that many (--ranks {gpus})."
        )
    return (Setup(ranks, ranks, "real"),)
