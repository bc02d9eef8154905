"""CSV that a spreadsheet may open: no cell is a formula, and reading undoes what that takes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path

from ring_attn_bench.errors import FileError
from ring_attn_bench.records import files

# what begins a formula (OWASP, "CSV injection"), full-width forms included; behind apostrophes too,
# so that there is one way back
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def guarded(text: str) -> str:
    """The cell for a text: with an apostrophe before what a spreadsheet would compute."""
    return f"'{text}" if _FORMULA.match(text) else text


def original(cell: str) -> str:
    """The text of such a cell."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def text(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """The whole file; cells are guarded."""
    return joined([columns, *([guarded(cell) for cell in line] for line in lines)])


def joined(lines: Iterable[Sequence[str]]) -> str:
    """The lines with what separates cells and lines, in quotes where it is in a cell."""
    # ended by both, or a lone \r in a cell would not be quoted (until Python 3.13)
    ends, parts = "\r\n", []
    for line in lines:
        part = StringIO(newline="")
        csv.writer(part, lineterminator=ends).writerow(line)
        parts.append(part.getvalue().removesuffix(ends))
    return "\n".join([*parts, ""])


def read(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Of each line its number and its cells by column; raises FileError."""
    content = files.decoded(files.read_bytes(path), str(path))
    table = csv.DictReader(StringIO(content, newline=""), strict=True)
    try:
        for cells in table:
            if None in cells or None in cells.values():
                columns = len(table.fieldnames or ())
                raise FileError(
                    f"{path}, line {table.line_num}: cut off, or of another table: the head has "
                    f"{columns} columns."
                )
            yield table.line_num, {name: original(cell) for name, cell in cells.items()}
    except csv.Error as error:
        raise FileError(f"{path}, line {table.reader.line_num}: no CSV ({error}).") from None
