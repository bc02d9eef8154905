"""A table with one column of sentences, which take as many lines as the terminal asks for."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

NARROWEST = 20
"""Characters in a line of the column of sentences, at least."""


def sentences(
    rows: Sequence[Sequence[object]],
    width: int,
    headers: Sequence[str] = (),
    *,
    column: int = -1,
    ruled: bool = True,
) -> str:
    """At most so many columns wide, if there is room; no word is broken.

    column: where the sentences are. ruled: whether there is a line below the headers.
    """
    heads = [f"{head}  " for head in headers]  # tabulate makes columns that much wider than those
    columns = list(zip(*([heads] if heads else []), *rows, strict=True))
    column %= len(columns)
    beside = [cells for place, cells in enumerate(columns) if place != column]
    room = width - sum(max(len(str(cell)) for cell in cells) + 2 for cells in beside)
    most: list[int | None] = [None] * len(columns)
    most[column] = max(NARROWEST, room)
    return tabulate(
        rows,
        headers=headers,
        tablefmt="simple" if ruled else "plain",
        disable_numparse=True,
        maxcolwidths=most,
        break_long_words=False,
        break_on_hyphens=False,
    )


def commands(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Each row in one line, however wide: what is in it is to be copied."""
    return tabulate(rows, headers=headers, disable_numparse=True)
