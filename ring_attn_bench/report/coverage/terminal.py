"""The matrix for a terminal: a line for each feature, a narrow column for each backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ring_attn_bench.records.finding import Finding
from ring_attn_bench.records.status import Status
from ring_attn_bench.report.coverage.matrix import SYMBOLS, Matrix, symbol, title
from ring_attn_bench.text.table import WIDTH

_GAP = "  "


def text(findings: Sequence[Finding], width: int = WIDTH) -> str:
    """Tables at most that many columns wide, what the symbols mean, and every failure's reason."""
    matrix = Matrix.of(findings)
    blocks = ["\n".join(_table(matrix, names)) for names in _columns(matrix, width)]
    absent = "\n".join(f"{name} is {why}" for name, why in matrix.absent.items())
    parts = [*blocks, _legend(), absent, _failures(findings), matrix.counts]
    return "\n\n".join(filter(None, parts))


def _columns(matrix: Matrix, width: int) -> Iterator[tuple[str, ...]]:
    """The backends that fit beside the features, one table after another."""
    room = width - _label_width(matrix)
    names: list[str] = []
    for name in matrix.backends:
        if names and sum(_width(x) + len(_GAP) for x in (*names, name)) > room:
            yield tuple(names)
            names = []
        names.append(name)
    if names:
        yield tuple(names)


def _table(matrix: Matrix, backends: Sequence[str]) -> Iterator[str]:
    label = _label_width(matrix)
    heads = [name.split("_") for name in backends]
    depth = max(map(len, heads))
    for line in range(depth):
        words = [(["" for _ in range(depth - len(head))] + head)[line] for head in heads]
        yield _line("", words, backends, label)
    yield "-" * (label + sum(len(_GAP) + _width(name) for name in backends))
    for chapter, features in matrix.chapters:
        yield chapter
        for feature in features:
            cells = [_cell(*matrix.cell(name, feature)) for name in backends]
            yield _line(f"  {title(feature)}", cells, backends, label)


def _line(label: str, cells: Sequence[str], backends: Sequence[str], width: int) -> str:
    centred = (_GAP + cell.center(_width(name)) for cell, name in zip(cells, backends, strict=True))
    return (label.ljust(width) + "".join(centred)).rstrip()


def _cell(forward: Finding | None, backward: Finding | None) -> str:
    """One symbol where both directions fare alike, else both."""
    both = symbol(forward), symbol(backward)
    return both[0] if both[0] == both[1] else " ".join(both)


def _label_width(matrix: Matrix) -> int:
    return max(len(title(feature)) for feature in matrix.features) + 2


def _width(backend: str) -> int:
    return max(3, *map(len, backend.split("_")))


def _legend() -> str:
    meanings = "   ".join(f"{SYMBOLS[x]} {x.value}" for x in Status)
    return f"{meanings}   (two symbols: forward, backward)"


def _failures(findings: Sequence[Finding]) -> str:
    """A line for each failure, or for both directions if they fail alike."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for x in findings:
        if x.verdict.is_failure:
            failure = x.verdict.value.upper(), x.backend, x.feature, x.reason
            grouped.setdefault(failure, []).append(x.direction.value)
    lines = [
        f"{status}  {backend} {feature} ({', '.join(directions)}): {reason}"
        for (status, backend, feature, reason), directions in grouped.items()
    ]
    return "\n".join(lines)
