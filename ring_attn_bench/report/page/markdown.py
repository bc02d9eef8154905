"""The page as report.md: tables with pipes, pictures beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote

from ring_attn_bench.report.page.model import (
    Block,
    Cell,
    Cells,
    Commands,
    Heading,
    Meanings,
    Page,
    Picture,
    Prose,
    Section,
)
from ring_attn_bench.text.table import escape, pipes


def markdown(page: Page) -> str:
    """The page as one Markdown file."""
    parts = [f"# {escape(page.title)}", escape(page.about), f"**{escape(page.verdict)}**"]
    parts.append("\n".join(f"- {escape(point)}" for point in page.points))
    parts += [text for section in page.sections for text in _section(section)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(grid: Cells) -> str:
    """A table alone."""
    return _grid(grid)


def _section(section: Section) -> Iterator[str]:
    yield f"## {escape(section.title)}"
    yield escape(section.lead)
    for block in section.blocks:
        yield _block(block)


def _block(block: Block) -> str:
    match block:
        case Cells():
            return _grid(block)
        case Picture(path, alt=alt):
            return f"![{escape(alt).replace(']', '')}]({quote(str(path))})"
        case Heading(text):
            return f"### {escape(text)}"
        case Prose(texts, points):
            shown = [escape(text) for text in texts]
            return "\n".join(f"- {x}" for x in shown) if points else "\n\n".join(shown)
        case Meanings(pairs, title):
            text = "\n".join(f"- **{term}**: {meaning}" for term, meaning in pairs)
            return _folded(title, text) if title else text
        case Commands(lines):
            return _commands(lines)


def _commands(lines: Sequence[tuple[str, str]]) -> str:
    """Each below what it is for, in one line whatever is in it, fenced by more than it has."""
    shown = [f"# {_line(what)}\n{_line(command)}" for what, command in lines]
    fence = "```"
    while any(fence in line for line in shown):
        fence += "`"
    return "\n".join([f"{fence}sh", *shown, fence])


def _line(text: str) -> str:
    return " ".join(text.splitlines())


def _grid(grid: Cells) -> str:
    align = ["right" if column.kind == "number" else "left" for column in grid.columns]
    kinds = [column.kind for column in grid.columns]
    body = [[_cell(x, kind) for x, kind in zip(row, kinds, strict=True)] for row in grid.rows]
    heads = [escape(column.head) for column in grid.columns]
    notes = "<br>".join(escape(note) for note in grid.notes)
    text = "\n\n".join(part for part in (pipes(heads, body, align), notes) if part)
    caption = grid.caption
    return _folded(escape(caption), text) if grid.folded else f"**{escape(caption)}**\n\n{text}"


def _cell(cell: Cell, kind: str) -> str:
    text = escape(cell.text)
    if kind == "code" and text:
        return f"<code>{text}</code>"
    if cell.link:
        return f"[{text}]({quote(cell.link)})"
    return f"**{text}**" if cell.tone == "good" and text else text


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
