"""A suite read with some of its keys overruled, by words as `seqlen_per_gpu=8k,32k`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ring_attn_bench.bench.grid import LENGTHS, Grid
from ring_attn_bench.bench.suite import Check, Suite, Timing, load
from ring_attn_bench.errors import InvalidArgument, SuiteError, UnknownName, clause
from ring_attn_bench.records.values import Frozen
from ring_attn_bench.text.digits import count_of

_TABLES: Mapping[str, type[Frozen]] = {"timing": Timing, "check": Check}
_OF_SUITE = tuple(name for name in Suite.model_fields if name not in (*_TABLES, "grid"))
KEYS = (
    *Grid.model_fields,
    *_OF_SUITE,
    *(f"{table}.{name}" for table, model in _TABLES.items() for name in model.model_fields),
)
"""All that can be overruled: a grid's in every grid."""
_PLAIN_LIST = re.compile(r"\[([^\[\]\"'#\n]*)\]\s*")
"""As [8k,16], which TOML does not know."""


def load_with(path: Path, words: Sequence[str]) -> Suite:
    """The suite in a file, as if it said that.

    Raises SuiteError; UnknownName for a key that there is not, InvalidArgument for other words.
    """
    if not words:
        return load(path)
    try:
        return load(path, partial(_overrule, words))
    except SuiteError as error:
        said = " ".join(f"--set {word}" for word in words)
        raise SuiteError(f"{clause(error)} (read with {said}).") from None


def _overrule(words: Sequence[str], table: dict[str, Any]) -> None:
    for word in words:
        key, equals, text = word.partition("=")
        if not (equals and text):
            raise InvalidArgument(
                f"--set is {word!r}; it must be KEY=VALUE, as seqlen_per_gpu=8k,32k."
            )
        if key not in KEYS:
            raise UnknownName("key of a suite", key, KEYS)
        for place, name, is_list in _places(table, key):
            if key in LENGTHS:  # of which a grid has one
                for length in LENGTHS:
                    place.pop(length, None)
            place[name] = _values(text) if is_list else _value(text)


def _places(table: dict[str, Any], key: str) -> list[tuple[dict[str, Any], str, bool]]:
    """Where it stands, its name there, and whether it is a list."""
    if key in Grid.model_fields:
        grids = table.get("grid")
        if not isinstance(grids, list):
            return []  # which the suite's own checks will say
        return [(grid, key, True) for grid in grids if isinstance(grid, dict)]
    of, dot, name = key.partition(".")
    if not dot:
        return [(table, key, key == "as_ranks")]
    inner = table.setdefault(of, {})
    return [(inner, name, False)] if isinstance(inner, dict) else []


def _values(text: str) -> Any:  # noqa: ANN401 - what the suite's checks judge
    """A list: as TOML has it, or its values with commas between, in brackets or without."""
    if text.startswith("["):
        value = _toml(text)
        plain = _PLAIN_LIST.fullmatch(text)
        if isinstance(value, list) or plain is None:
            return value
        text = plain[1]
    return [_value(part.strip()) for part in text.split(",")]


def _value(text: str) -> Any:  # noqa: ANN401 - as above
    """A number, 8k for 8192, a switch, or a text with or without its quotes."""
    count = count_of(text)
    value = _toml(text) if count is None else count
    return value if isinstance(value, bool | int | float | str) else text


def _toml(text: str) -> Any:  # noqa: ANN401 - as above
    try:
        # inside of braces, where a second key or a comment behind the value is no part of a line
        table = tomllib.loads(f"it = {{ value = {text} }}")
    except (ValueError, RecursionError):
        return text
    return table["it"]["value"] if table.keys() == {"it"} and len(table["it"]) == 1 else text
