"""CSV that a spreadsheet may open: no cell is a formula, and reading undoes what that takes."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ring_attn_bench.errors import FileError, placed
from ring_attn_bench.records import files

Value = TypeVar("Value")

# what begins a formula (OWASP, "CSV injection"), full-width forms included; behind apostrophes too,
# so that there is one way back
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def guarded(text: str) -> str:
    """The cell for a text: with an apostrophe before what a spreadsheet would compute."""
    return f"'{text}" if _FORMULA.match(text) else text


def original(cell: str) -> str:
    """The text that a guarded cell was made of."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def text(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """The whole CSV file, with its cells guarded."""
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


def values(
    path: Path, name: str, what: str, make: Callable[[dict[str, str]], Value]
) -> tuple[Value, ...]:
    """What the lines of such a file say, or of the one of that name in a folder; raises FileError.

    what: the values, in a word; there must be some.
    """
    path = path / name if path.is_dir() else path
    made = []
    for number, line in read(path):
        try:
            made.append(make(line))
        except KeyError as error:
            raise FileError(f"{path} is no {name}: it has no column {error}.") from None
        except ValidationError as error:
            first = error.errors()[0]
            raise FileError(
                f"{path} is no {name} (line {number}: {placed(first['msg'], first['loc'])})."
            ) from None
    if not made:
        raise FileError(f"{path} holds no {what}.")
    return tuple(made)
