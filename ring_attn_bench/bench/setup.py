"""Which rings a machine can run: how many processes, how many ranks, over which transport."""

from __future__ import annotations

from dataclasses import dataclass

from ring_attn_bench.errors import RingAttnBenchError

CPU_RANKS = 2
LOOPBACK_RANKS = 4


class MachineLacks(RingAttnBenchError):
    """The machine has not got what was asked for by name."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One ring: `world_size` ranks, played by `processes` processes."""

    world_size: int
    processes: int
    transport: str

    def __str__(self) -> str:
        if self.transport == "loopback":
            return f"{self.world_size} ranks in one process (loopback)"
        return f"{self.world_size} rank{'s' if self.world_size > 1 else ''}, one process each"


def setups(gpus: int, wanted: int | None) -> tuple[Setup, ...]:
    """The rings to run on a machine with that many GPUs; `wanted` ranks if that is not None.

    Several GPUs: a rank each. One: one rank, and 4 by loopback. None: 2 ranks on the CPU.
    Raises MachineLacks if the GPUs are fewer than the ranks wanted.
    """
    if gpus == 0:
        ranks = CPU_RANKS if wanted is None else wanted
        return (Setup(ranks, ranks, "p2p"),)
    if gpus == 1:
        if wanted is not None:
            return (Setup(wanted, 1, "loopback" if wanted > 1 else "p2p"),)
        return (Setup(1, 1, "p2p"), Setup(LOOPBACK_RANKS, 1, "loopback"))
    ranks = gpus if wanted is None else wanted
    if ranks > gpus:
        raise MachineLacks(
            f"{ranks} ranks were asked for, and this machine has {gpus} GPUs; ask for at most "
            f"that many (--ranks {gpus})."
        )
    return (Setup(ranks, ranks, "p2p"),)
