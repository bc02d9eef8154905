"""Faults as any third party's plug-ins, and the suites that meet them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ring_attn_bench import registry
from ring_attn_bench.records import files
from ring_attn_bench.selftest.planted import Fault

GRID: Mapping[str, Sequence[object]] = {
    "seqlen_per_gpu": (64,), "heads": ("4:2",), "head_dim": (32,), "dtype": ("float32",),
    "directions": ("forward_backward",),
}  # fmt: skip
"""What a fault's suite is made of, where the fault does not say otherwise."""
PACKAGE = "ring_attn_bench.selftest"
GROUPS = {
    "backend": (registry.ENTRY_POINT_GROUP, f"{PACKAGE}.kernels"),
    "transport": (registry.TRANSPORT_ENTRY_POINT_GROUP, f"{PACKAGE}.transports"),
}
"""By kind, the entry point group and the module of its classes."""
CHECKS = {
    "all": "full_up_to = 8192",
    "all, against the truth alone": "full_up_to = 8192\ninvariants = false",
    "sampled": "full_up_to = 256\nsampled_rows = 32",
}
PATIENT, IN_VAIN = 120, 12
"""Seconds for a command: of what answers, also on a busy machine; where ranks wait in vain."""
TIMING = "warmup = 1\nmin_samples = 6\nmax_samples = 6\nseconds = 1\nceilings = false"


@dataclass(frozen=True)
class PlantedSuite:
    """Faults that one run of `bench` meets, on so many ranks."""

    name: str
    ranks: int
    faults: tuple[Fault, ...]

    @property
    def text(self) -> str:
        """The suite as a file has it."""
        first = self.faults[0]
        seconds = IN_VAIN if first.waits else PATIENT
        head = f'name = "{self.name}"\nworld_size = {self.ranks}\ncase_seconds = {seconds}'
        tables = [head, f"[timing]\n{TIMING}", f"[check]\n{CHECKS[first.rows]}"]
        return "\n\n".join([*tables, *map(_grid, self.faults)]) + "\n"


def suites(faults: Sequence[Fault], most_ranks: int) -> tuple[PlantedSuite, ...]:
    """Those that share ranks, rows and patience in one; first those that wait, then by size.

    most_ranks: of a ring. A kernel's faults show in one of two.
    """

    def shared(fault: Fault) -> tuple[int, str, bool]:
        ranks = min(3, most_ranks) if fault.kind == "transport" else 2
        return ranks, fault.rows, fault.waits

    together = groupby(sorted(faults, key=shared), key=shared)
    made = [
        PlantedSuite(f"selftest_{number}", ranks, tuple(of_suite))
        for number, ((ranks, _, _), of_suite) in enumerate(together, start=1)
    ]
    return tuple(sorted(made, key=lambda x: (not x.faults[0].waits, -len(x.faults))))


def plug_in(faults: Sequence[Fault], folder: Path) -> None:
    """Makes an installed package of them in the folder, for whoever has it on its path."""
    lines = []
    for group, module in GROUPS.values():
        lines.append(f"[{group}]")
        lines += [
            f"{fault.plugin} = {module}:{fault.plant}"
            for fault in faults
            if GROUPS[fault.kind] == (group, module)
        ]
    installed = folder / "ring_attn_bench_selftest-1.0.dist-info"
    about = "Metadata-Version: 2.1\nName: ring-attn-bench-selftest\nVersion: 1.0\n"
    files.write(installed / "METADATA", about)
    files.write(installed / "entry_points.txt", "\n".join([*lines, ""]))


def _grid(fault: Fault) -> str:
    backend = fault.plugin if fault.kind == "backend" else "reference"
    transport = fault.plugin if fault.kind == "transport" else registry.EVERYWHERE
    keys = {**GRID, **fault.grid, "backends": (backend,), "transport": (transport,)}
    return "\n".join(["[[grid]]", *(f"{key} = {json.dumps(x)}" for key, x in keys.items())])
