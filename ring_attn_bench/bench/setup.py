"""Which rings a machine can run: how many ranks, with a process for each or one for all."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ring_attn_bench.errors import InvalidArgument, MachineLacks, shown

CPU_RANKS = 2
LOOPBACK_RANKS = 4
MOST_CPU_RANKS, PER_CORE = 16, 8
"""As many may always be asked for, and as many for each core: a process takes some 300 MiB."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One ring: `world_size` ranks in `processes` processes.

    played, playing: as in `record.Contestant`.
    """

    world_size: int
    processes: int
    played: str
    playing: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.playing:
            ranks = ", ".join(map(str, self.playing))
            return f"W = {self.world_size} played on {self.processes} processes (ranks {ranks})"
        if self.played == "loopback":
            return f"{self.world_size} ranks in one process (loopback)"
        return f"{self.world_size} rank{'s' if self.world_size > 1 else ''}, one process each"


def setups(gpus: int, wanted: int | None) -> tuple[Setup, ...]:
    """The rings to run on a machine with that many GPUs; `wanted` ranks if that is not None.

    Several GPUs: a rank each. One: one rank, and 4 by loopback. None: 2 ranks on the CPU.
    Raises MachineLacks if the GPUs, or a CPU's cores, are too few for the ranks wanted.
    """
    if gpus == 0:
        ranks = CPU_RANKS if wanted is None else wanted
        _check_cores(ranks)
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


def _check_cores(processes: int) -> None:
    """Raises MachineLacks for more processes on a CPU than it could ever run."""
    cores = os.cpu_count() or 1
    most = max(MOST_CPU_RANKS, PER_CORE * cores)
    if processes > most:
        raise MachineLacks(
            f"{processes} ranks were asked for, which are as many processes on a CPU, and this "
            f"machine has {cores} cores; ask for at most {most} (--ranks {most})."
        )


PLAYING = ("ends", "first", "last")
"""Words for who plays whom: partners the first and the last rank, the next ones the second and the
last but one; all of them the first rank; or the last."""


def played_setups(
    gpus: int, wanted: int | None, as_ranks: Sequence[int], playing: str
) -> tuple[Setup, ...]:
    """Rings of those sizes, played by `wanted` processes, or one for each GPU, or two on a CPU.

    playing: a word of `PLAYING`, or a rank for each process, as 0+3.
    Raises MachineLacks if there are no two GPUs, or fewer than processes wanted; InvalidArgument.
    """
    processes = wanted or gpus or CPU_RANKS
    if not gpus:
        _check_cores(processes)
    if gpus and max(processes, 2) > gpus:
        raise MachineLacks(
            f"a larger ring is played by {max(processes, 2)} GPUs here, and this machine has "
            f"{gpus}; --ranks says how many of them play."
        )
    return tuple(played_setup(size, processes, playing) for size in dict.fromkeys(as_ranks))


def played_setup(world_size: int, processes: int, playing: str) -> Setup:
    """A ring of that many ranks on fewer processes; raises InvalidArgument."""
    if processes % 2:
        raise InvalidArgument(
            f"{processes} processes cannot play a larger ring, because they do so in pairs; "
            "--ranks says how many play."
        )
    if world_size <= processes:
        raise InvalidArgument(
            f"a ring of {world_size} ranks need not be played on {processes} processes; run it "
            f"with --ranks {world_size}, or play a larger one."
        )
    ranks = _who(playing, world_size, processes)
    return Setup(world_size, processes, f"{world_size}on{processes}", ranks)


def _who(playing: str, world_size: int, processes: int) -> tuple[int, ...]:
    last = world_size - 1
    if playing == "ends":
        return tuple(last - at // 2 if at % 2 else at // 2 for at in range(processes))
    if playing in PLAYING:
        return (0 if playing == "first" else last,) * processes
    named = re.fullmatch(r"\d{1,9}(\+\d{1,9})*", playing, re.ASCII)
    ranks = tuple(map(int, playing.split("+"))) if named else ()
    if len(ranks) != processes or max(ranks) > last:
        raise InvalidArgument(
            f"playing is {shown(playing)}; it must be {', '.join(PLAYING)}, or a rank of 0 to "
            f"{last} for each of the {processes} processes, as "
            f"{'+'.join(['0'] * (processes - 1))}+{last}."
        )
    return ranks
