"""What `ring-attn-bench list` and `ring-attn-bench env` print."""

from __future__ import annotations

from tabulate import tabulate

from ring_attn_bench import registry
from ring_attn_bench.bench.environment import Environment

INSTALL = {
    "triton": "pip install triton",
    "flash_attn": "pip install flash-attn --no-build-isolation",
    "flash_attn_4": "pip install 'ring-attn-bench[flash-attn-4]'",
    "nvidia_cutlass_dsl": "pip install 'ring-attn-bench[cute]'",
    "flag_gems": "pip install flag-gems",
    "ring_flash_attn": "pip install ring-flash-attn",
    "yunchang": "pip install yunchang",
}
"""By optional package, the command that installs it."""


def backends() -> str:
    """A table of every backend and peer: its name, what it is, or why it cannot run here."""
    rows = [
        (
            found.name,
            "no" if found.unavailable else "yes",
            found.unavailable or found.summary,
        )
        for found in registry.listing()
    ]
    return tabulate(
        rows,
        headers=["backend", "here", "what it is, or why it cannot run here"],
        maxcolwidths=[None, None, 70],
    )


def machine(environment: Environment) -> str:
    """A table of what this machine has, then what is missing and how to get it."""
    rows = [(name, value) for name, value in environment.items() if value is not None]
    missing = [
        (package, command) for package, command in INSTALL.items() if not environment.get(package)
    ]
    text = tabulate(rows, tablefmt="plain", disable_numparse=True)
    if not environment.get("gpu"):
        text += "\n\nNo CUDA device: rings run on the CPU over gloo, Triton in its interpreter."
    if missing:
        text += "\n\n" + tabulate(missing, headers=["not installed", "to install it"])
    return text
