"""What `ring-attn-bench list` and `ring-attn-bench env` print."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from textwrap import fill as _fill

from ring_attn_bench.contract.install import COMMANDS, WITHOUT_GPU
from ring_attn_bench.machine.looks import Look
from ring_attn_bench.machine.plug_ins import Inventory, PlugIn
from ring_attn_bench.records.values import Environment
from ring_attn_bench.text.sentences import commands, sentences

fill = partial(_fill, break_on_hyphens=False, break_long_words=False)


def backends(machine: Inventory, width: int) -> str:
    """Tables of every backend and peer, and of transports: what it is, or why it cannot run here.

    At most so many columns wide, if there is room for a sentence beside the names.
    """
    gpu = machine.device == "cuda"
    lines = _rows(machine.contestants, gpu)
    kernels = sentences(lines, width, ["backend", "here", "what it is, or why not"])
    if any(here == _INTERPRETED for _, here, _ in lines):
        kernels += "\n\n" + fill(f"{_INTERPRETED}: {_MEANS}", width)
    if any("; try: " in text for *_, text in lines):
        kernels += "\n\n" + fill(_where_to_install(gpu), width)
    headers = ["transport", "here", "what it needs, or why not"]
    transports = sentences(_rows(machine.transports, gpu), width, headers)
    note = (
        "auto takes the first that all ranks can, p2p at the latest; a later one has to be asked "
        "for by name."
    )
    return f"{kernels}\n\n{transports}\n\n{fill(note, width)}"


_INTERPRETED = "interpreted"
_MEANS = (
    "right or wrong shows here, and no speed; a user's own program has to be started with "
    "TRITON_INTERPRET=1."
)


def _rows(plug_ins: Mapping[str, PlugIn], gpu: bool) -> list[tuple[str, str, str]]:
    return [
        (name, _here(told, gpu), told.unavailable or told.summary)
        for name, told in plug_ins.items()
    ]


def _here(told: PlugIn, gpu: bool) -> str:
    """Yes or no; or that without a GPU it is an interpreter that runs the kernel."""
    if told.unavailable is not None:
        return "no"
    needed = (told.worker_environment or {}).get("cpu")
    return _INTERPRETED if needed and not gpu else "yes"


def _where_to_install(gpu: bool) -> str:
    """Which pip is meant, and what it is good for."""
    lacks = "There is no CUDA device here, and what these commands install needs one. "
    return f"{'' if gpu else lacks}`pip` is that of {sys.prefix}."


def machine(environment: Environment, width: int) -> str:
    """A table of what this machine has, then what is missing and how to get it.

    Commands stand in one line each, whatever the width: they are to be copied.
    """
    rows = [(name, value) for name, value in environment.items() if value is not None]
    missing = [
        (package, command) for package, command in COMMANDS.items() if not environment.get(package)
    ]
    text = sentences(rows, width, ruled=False)
    if not environment.get("gpu"):
        none = "No CUDA device: rings run on the CPU over gloo, Triton in its interpreter."
        text += f"\n\n{fill(none, width)}"
    if missing:
        text += "\n\n" + commands(missing, ["not installed", "to install it"])
        gpu = bool(environment.get("gpu")) or {name for name, _ in missing} <= WITHOUT_GPU
        text += "\n\n" + fill(_where_to_install(gpu), width)
    return text


def looks(found: Sequence[Look], width: int) -> str:
    """A table of what a self-check found; nothing where there was none."""
    if not found:
        return ""
    rows = [(look.what, _RIGHT[look.is_right], look.found) for look in found]
    return "\n\n" + sentences(rows, width, ["self-check", "", "what was found"])


_RIGHT = {True: "right", False: "WRONG", None: ""}
