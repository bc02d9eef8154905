"""Files of JSON lines: read line by line, and what a crash has cut off costs only itself."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ring_attn_bench.errors import FileError, placed
from ring_attn_bench.records import files

Line = TypeVar("Line", bound=BaseModel)
Tell = Callable[[str], None]


def read(path: Path, kind: type[Line], noun: str, begins: str, tell: Tell) -> Iterator[Line]:
    """The lines, each as one of that kind; raises FileError for one that is none.

    noun: what a line is called. begins: how each begins, so that one is found behind half of
    another. tell: hears a sentence about everything that a crash has cut off.
    """
    # not `splitlines`: U+2028, U+2029 and U+0085 may stand in JSON as they are
    lines = files.read_bytes(path).removeprefix(BOM_UTF8).split(b"\n")
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        unended = number == len(lines)
        # zeros are what a file system may leave where a crash has lost what was written
        data = line.strip(b"\0 \t\r")
        if not data:
            continue
        try:
            yield kind.model_validate_json(_text(data, where, unended=unended))
            continue
        except ValidationError as error:
            problem = error.errors()[0]
        behind = data.rfind(begins.encode())
        if problem["type"] == "json_invalid":
            record = _whole(data[behind:], kind) if behind > 0 else None
            if record is not None:
                tell(f"{where}: begins with half a {noun}, cut off by a crash, which is left out.")
                yield record
                continue
            if unended or str(problem["ctx"]["error"]).startswith("EOF"):
                tell(f"{where}: half a {noun}, cut off by a crash, which is left out.")
                continue
        raise FileError(
            f"{where}: not a {noun} ({placed(problem['msg'], problem['loc'])}). Mend the line "
            "or take it out; the others are read without it."
        )


def mend(path: Path, kind: type[Line], noun: str, tell: Tell) -> None:
    """Takes half a line that a crash has left at its end out of the file; raises FileError.

    Only who writes into the file may do that, and nobody else at the same time.
    """
    before, newline, last = files.read_bytes(path).rpartition(b"\n")
    data = last.strip(b"\0 \t\r").removeprefix(BOM_UTF8)
    if not data or _whole(data, kind) is not None:
        return
    files.write(path, before + newline)
    tell(f"{path}: half a {noun} at its end, cut off by a crash, was taken out.")


def _text(data: bytes, where: str, *, unended: bool) -> str:
    """Without the part of a letter that a crash has left."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if unended or error.reason == "unexpected end of data":
            return data[: error.start].decode()
    return files.decoded(data, where)  # raises


def _whole(data: bytes, kind: type[Line]) -> Line | None:
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        return None
