"""Figures of committed runs by name, so that a newer run changes no test."""

from functools import cache
from pathlib import Path

from ring_attn_bench.advise.figures import Figure, newest, of_records
from ring_attn_bench.records.record import read

RESULTS = Path(__file__).parents[3] / "results"
RING = "2026-11-30_2xH200_ring"
OLDER_RING = "2026-11-29_2xH200_ring"
"""Of a faster host, and of the day of those that were played."""
PEERS = "2026-11-21_4xH200_peers"
PLAYED = ("2026-11-29_2xH200_played", "2026-11-30_2xH200_played_steps")
RUNS = (
    "2026-11-20_4xH200_hopper", PEERS, "2026-11-27_1xH200_triton", "2026-11-27_4xH100_triton",
    OLDER_RING, RING, *PLAYED,
)  # fmt: skip


@cache
def figures(*runs: str) -> tuple[Figure, ...]:
    """Of these runs, of all of them by default."""
    found = [
        figure
        for run in runs or RUNS
        for figure in of_records(run, read(RESULTS / run / "records.jsonl.gz"))
    ]
    return newest(figure for figure in found if figure.call is not None)
