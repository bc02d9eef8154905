"""Where it was measured, and every row with the command that measures it again."""

from __future__ import annotations

from collections.abc import Iterator

from ring_attn_bench.report.columns import MEANINGS, NESTED, TENSORS, ReportRow
from ring_attn_bench.report.groups import device, group
from ring_attn_bench.report.page import gpus, light
from ring_attn_bench.report.page.decisions import SIDE, time
from ring_attn_bench.report.page.explained import HOW
from ring_attn_bench.report.page.material import MEMORY, Material, error, memory
from ring_attn_bench.report.page.model import Cell, Cells, Column, Commands, Meanings, Section, Tone
from ring_attn_bench.text.digits import digits, percent


def how() -> Section:
    """What the figures mean, and results.csv."""
    blocks = (Meanings(HOW), Meanings(tuple(_glossary()), "Columns of results.csv"))
    return Section("how", "How it was measured", "", blocks)


def where(material: Material) -> Section:
    """Every fact of the environment, with all the values that it had."""
    facts: dict[str, list[str]] = {}
    for record in material.records:
        for name, value in record.environment.items():
            if value is not None and str(value) not in facts.setdefault(name, []):
                facts[name].append(str(value))
    facts["backends"] = list(group(material.rows, _versioned))
    facts["runs"] = list(group(material.rows, lambda row: row.run))
    rows = tuple((Cell(name), Cell(", ".join(x))) for name, x in facts.items() if x)
    columns = Column("fact", "word"), Column("value", "word")
    grid = Cells("environment", columns, rows)
    blocks = grid, *light.blocks(material), *gpus.blocks(material)
    return Section("provenance", "Where it was measured", "", blocks)


def _versioned(row: ReportRow) -> str:
    return f"{row.backend} {row.backend_version or ''}".strip()


def again(material: Material) -> Section:
    """One command for each backend, and a table of all rows with theirs."""
    firsts = [x[0] for x in group(material.rows, lambda row: row.backend).values()]
    lines = [(f"{x.contestant}, {x.direction.value}", x.command) for x in firsts if x.command]
    shown = tuple((what, command) for what, command in lines if command)
    blocks = (*((Commands(shown),) if shown else ()), _every_row(material))
    lead = (
        "This page, results.csv and the plots are made from the records alone, without a GPU: "
        "ring-attn-bench report FOLDER. Each row has its own command."
    )
    return Section("again", "Every row, and how to see it again", lead, blocks)


def _every_row(material: Material) -> Cells:
    unit = device(material.rows)
    columns = (
        *material.places,
        Column("who", "word"),
        Column("status", "word"),
        Column("ms", meaning=SIDE),
        Column("samples"),
        Column(f"TFLOP/s per {unit}"),
        Column(f"% of 1 {unit}"),
        Column("% of twin"),
        Column("MiB", meaning=MEMORY),
        Column("error"),
        Column("command", "code"),
    )
    rows = tuple(_line(material, row) for row in material.rows)
    return Cells(f"all {len(rows)} rows", columns, rows, folded=True)


def _line(material: Material, row: ReportRow) -> tuple[Cell, ...]:
    word = "interpreted" if row.interpreted and row.status.value == "ok" else row.status.value
    tone: Tone = "bad" if row.status.is_failure else "" if row.status.value == "ok" else "quiet"
    return (
        *material.where(row),
        material.who(row),
        Cell(word, tone=tone),
        time(row),
        Cell("" if row.samples is None else str(row.samples)),
        Cell(digits(row.tflops_per_gpu), row.tflops_per_gpu),
        Cell(percent(row.percent_of_one_gpu)),
        Cell(percent(row.percent_of_twin)),
        memory(row),
        error(row),
        Cell(row.command or ""),
    )


def _glossary() -> Iterator[tuple[str, str]]:
    """Each column once; the five tensors' columns by their pattern."""
    lines: dict[str, str] = {}
    for name, meaning in MEANINGS.items():
        tensor, _, key = name.partition("_")
        nested = tensor in TENSORS and any(key in kind.model_fields for kind in NESTED.values())
        pattern = f"{{{','.join(TENSORS)}}}_{key}" if nested else name
        lines.setdefault(f"`{pattern}`", meaning)
    yield from lines.items()
