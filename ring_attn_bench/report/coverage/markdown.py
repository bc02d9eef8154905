"""coverage.md: the matrix, where it was found, and the reason for each gap."""

from __future__ import annotations

from collections.abc import Iterator

from tabulate import tabulate

from ring_attn_bench.records.finding import Finding
from ring_attn_bench.records.status import Status
from ring_attn_bench.report.coverage.matrix import SYMBOLS, Matrix, symbol, title
from ring_attn_bench.text.table import escape


def page(matrix: Matrix, picture: str) -> str:
    """The whole page; the picture is a file beside it."""
    legend = ", ".join(f"{SYMBOLS[status]} {status.value}" for status in Status)
    parts = [
        "# Coverage",
        f"{_where(matrix)} {escape(matrix.counts)}",
        "What the features are, and how they are asked about, is in `docs/coverage.md`; the data "
        "is in `coverage.csv`.",
        f"![coverage]({picture})",
        f"{legend}; where a cell has two symbols, the first is forward, the second backward.",
        _table(matrix),
        "## The reason for each gap",
        *(_gaps(matrix, backend) for backend in matrix.backends),
        *(f"### {name}\n\n{escape(why)}" for name, why in matrix.absent.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _where(matrix: Matrix) -> str:
    places = sorted({f"{escape(x.device)}, torch {x.torch}" for x in matrix.findings})
    return f"Found on {'; '.join(places)}."


def _table(matrix: Matrix) -> str:
    rows = []
    for chapter, features in matrix.chapters:
        rows.append([f"**{chapter}**", *("" for _ in matrix.backends)])
        for feature in features:
            cells = (matrix.cell(backend, feature) for backend in matrix.backends)
            rows.append([escape(title(feature)), *map(_cell, cells)])
    headers = ["", *(name.replace("_", " ") for name in matrix.backends)]
    align = ["left", *("center" for _ in matrix.backends)]
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def _cell(both: tuple[Finding | None, Finding | None]) -> str:
    forward, backward = map(symbol, both)
    return forward if forward == backward else f"{forward} {backward}"


def _gaps(matrix: Matrix, backend: str) -> str:
    """One line for each reason, with the features that it keeps from being ok."""
    of_backend = [matrix.cells[key] for key in matrix.cells if key[0] == backend]
    version = next((x.version for x in of_backend if x.version), "")
    head = f"### {backend}" + (f" ({escape(version)})" if version else "")
    return f"{head}\n\n" + ("\n".join(_reasons(of_backend)) or "None.")


def _reasons(of_backend: list[Finding]) -> Iterator[str]:
    grouped: dict[tuple[Status, str], dict[str, list[str]]] = {}
    for x in of_backend:
        if x.verdict is not Status.OK:
            features = grouped.setdefault((x.verdict, x.reason), {})
            features.setdefault(x.feature, []).append(x.direction.value)
    for (status, reason), features in grouped.items():
        names = "; ".join(
            title(name) + (f" ({directions[0]})" if len(directions) == 1 else "")
            for name, directions in features.items()
        )
        yield f"- **{status.value}** {escape(names)}: {escape(reason)}"
