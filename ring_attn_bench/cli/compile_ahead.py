"""`compile`: a backend's kernels, before anybody calls them, on a machine without a GPU."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from ring_attn_bench import registry
from ring_attn_bench.cli.options import HOW, WHAT, option
from ring_attn_bench.cli.terminal import say

Architecture = Annotated[
    str | None,
    option(WHAT, "NAME", "Which GPUs they are for, as sm_90a; by itself the first that it has."),
]
Jobs = Annotated[
    int, option(HOW, "N", "How many kernels at a time; 0 is as many as there are CPU cores.", 0)
]


def compile_ahead(
    backend: Annotated[
        str,
        typer.Argument(
            metavar="BACKEND", help="The backend whose kernels they are.", show_default=False
        ),
    ],
    arch: Architecture = None,
    jobs: Jobs = 0,
) -> None:
    """Compiles a backend's kernels before anybody calls them; no GPU is needed.

    They are kept where the backend finds them: a first call then waits for no compiler. What is
    there already is not compiled again.

    Exit codes are those of `ring-attn-bench --help`.
    """
    from ring_attn_bench.contract.ahead import ahead
    from ring_attn_bench.errors import BackendUnavailable, MachineLacks, Unsupported

    compiler = ahead(registry.backend_class(backend))
    if compiler is None:
        raise Unsupported(
            backend, "it has nothing to compile ahead: its package brings its kernels, or they are "
            "compiled when they are called"
        )  # fmt: skip
    where = arch or compiler.architectures[0]
    if where not in compiler.architectures:
        has = ", ".join(compiler.architectures)
        raise Unsupported(backend, f"it has no kernels for {where}; it has some for {has}")
    count, there, begun = compiler.kernels_ahead(where), 0, time.perf_counter()
    try:
        kernels = compiler.compile_ahead(where, jobs or os.cpu_count() or 1)
    except BackendUnavailable as error:  # before any is compiled: the compiler is not here
        raise MachineLacks(str(error)) from None
    for done, one in enumerate(kernels, 1):
        there += one.seconds is None
        took = "was there" if one.seconds is None else f"{one.seconds:.1f} s"
        say(f"{done:>{len(str(count))}}/{count}  {one.name}  {took}")
    say(
        f"{count} kernels for {where}: {count - there} compiled in "
        f"{time.perf_counter() - begun:.0f} s, {there} were there."
    )
