"""A table with one column of sentences, which take as many lines as the terminal asks for."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from tabulate import tabulate

NARROWEST = 20
"""Characters in a line of the column of sentences, at least."""
INDENT = "    "
"""Before sentences that stand below their row."""


def sentences(
    rows: Sequence[Sequence[object]],
    width: int,
    headers: Sequence[str] = (),
    *,
    column: int = -1,
    ruled: bool = True,
) -> str:
    """At most so many columns wide; no word is broken.

    Where the last column is one of sentences and has no room for a word of theirs, they stand
    below their rows. column: where the sentences are. ruled: whether there is a line below the
    headers.
    """
    heads = [f"{head}  " for head in headers]  # tabulate makes columns that much wider than those
    columns = list(zip(*([heads] if heads else []), *rows, strict=True))
    column %= len(columns)
    beside = [cells for place, cells in enumerate(columns) if place != column]
    room = width - sum(max(len(str(cell)) for cell in cells) + 2 for cells in beside)
    words = [word for cell in columns[column] for word in str(cell).split()]
    if 0 < column == len(columns) - 1 and room < max(NARROWEST, *map(len, words)):
        return _below(rows, width, headers, ruled=ruled)
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


def _below(
    rows: Sequence[Sequence[object]], width: int, headers: Sequence[str], *, ruled: bool
) -> str:
    """The last column in lines of their own, below each row."""
    shown = tabulate(
        [row[:-1] for row in rows], headers=headers[:-1], tablefmt="simple" if ruled else "plain",
        disable_numparse=True,
    ).splitlines()  # fmt: skip
    above = len(shown) - len(rows)
    lines = shown[:above]
    for line, row in zip(shown[above:], rows, strict=True):
        said = wrap(
            str(row[-1]), width, initial_indent=INDENT, subsequent_indent=INDENT,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        lines += [line.rstrip(), *said]
    return "\n".join(lines)


def commands(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Each row in one line, however wide: what is in it is to be copied."""
    return tabulate(rows, headers=headers, disable_numparse=True)
