"""`quick`: is it right at all, in seconds."""

from __future__ import annotations

from typing import Annotated

import typer

from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.options import WHAT, option
from ring_attn_bench.cli.terminal import say


def quick(
    backend: Annotated[
        list[str] | None, option(WHAT, "NAME", "Only this backend; may be repeated.")
    ] = None,
) -> None:
    """Correctness in seconds: one process, one device, small shapes.

    Exit codes are those of `ring-attn-bench --help`.
    """
    from ring_attn_bench.bench.quick import quick_check

    raise typer.Exit(Exit.WRONG if quick_check(tuple(backend or ()), say) else Exit.RIGHT)
