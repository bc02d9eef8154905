"""The whole report from one file of records, and its short form for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ring_attn_bench.errors import FileError
from ring_attn_bench.records import files
from ring_attn_bench.records.folder import records_in
from ring_attn_bench.records.json_lines import Tell
from ring_attn_bench.records.record import Record, read
from ring_attn_bench.records.trace import in_folder
from ring_attn_bench.report import tables
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import by_shape, heading
from ring_attn_bench.report.matplotlib_backend import see_to_matplotlib
from ring_attn_bench.report.over_cache import apart, families
from ring_attn_bench.report.rows import latest, rows


def write_report(
    records_path: Path, out_dir: Path, tell: Tell = lambda sentence: None
) -> list[Path]:
    """Writes results.csv, report.md, report.html and plots/*.png; the paths of these files.

    Traces that lie beside the records are drawn too; tell: hears of one that cannot be read.
    Raises FileError if there are no records, or if they cannot be read or a file not be written.
    """
    # Here, so that a summary for the terminal needs neither pandas nor matplotlib.
    see_to_matplotlib()
    from ring_attn_bench.report import csv, plots
    from ring_attn_bench.report.page.build import page
    from ring_attn_bench.report.page.html import html
    from ring_attn_bench.report.page.markdown import markdown
    from ring_attn_bench.report.page.timelines import shown

    records = _records(records_path)
    lines = rows(records)
    files.make_folder(out_dir)
    table, text, web = (out_dir / name for name in ("results.csv", "report.md", "report.html"))
    csv.write(lines, table)
    gallery = plots.draw(lines, out_dir / "plots")
    run = records_path.parent
    traces = in_folder(run, tell)
    looked_at = plots.draw_traces(traces, out_dir / "plots", shown(lines, traces))
    gallery = replace(gallery, pictures=(*gallery.pictures, *looked_at))
    made = page(records, gallery, out_dir, traces, run)
    files.write(text, markdown(made))
    files.write(web, html(made))
    return [table, text, web, *gallery.paths]


def write_index(folder: Path, tell: Tell = lambda sentence: None) -> list[Path]:
    """Writes index.html over the runs in the folder, and their table into its README.md.

    There it goes between the lines `<!-- runs -->` and `<!-- /runs -->`, where they are. `tell`
    hears of what is left out. Raises FileError if no folder in it holds records.
    """
    see_to_matplotlib()
    from ring_attn_bench.report.page.history import PastRun, index, overview
    from ring_attn_bench.report.page.html import html
    from ring_attn_bench.report.page.markdown import table

    files_of = [records_in(run, tell) for run in sorted(folder.glob("*/"))]
    paths = {path.parent.name: path for path in files_of if path.exists()}
    runs = [PastRun.of(name, list(read(path, tell))) for name, path in paths.items()]
    runs = [run for run in runs if run.rows]
    if not runs:
        raise FileError(
            f"no folder in {folder} holds records; name the one in which runs have theirs."
        )
    others = [path.parent.name for path in sorted(folder.glob("*/README.md"))]
    web, readme = folder / "index.html", folder / "README.md"
    files.write(web, html(index(runs, [name for name in others if name not in paths])))
    if not readme.exists():
        return [web]
    text = files.decoded(files.read_bytes(readme), str(readme))
    before, begin, rest = text.partition("<!-- runs -->\n")
    _, end, after = rest.partition("<!-- /runs -->")
    if not end:
        return [web]
    files.write(readme, f"{before}{begin}{table(overview(runs, 'report.md'))}\n{end}{after}")
    return [web, readme]


def summary(records: Iterable[Record], width: int = tables.WIDTH) -> str:
    """Speed, errors and, last, the verdict, at most that many columns wide.

    A sweep over lengths is shown by its throughput alone; report.md has the rest.
    """
    lines = rows(records)
    if not lines:
        return "No records."
    rings, caches = apart(lines)
    parts = [part for alike in by_shape(rings).values() for part in _section(alike, width)]
    parts += [part for alike in families(caches).values() for part in _over_cache(alike, width)]
    parts.append(tables.counts(lines).terminal(width))
    return "\n\n".join([*parts, *(failure.terminal(width) for failure in tables.failures(lines))])


def _section(lines: Sequence[ReportRow], width: int) -> Iterator[str]:
    """The tables of one shape."""
    title = tables.fold(heading(lines), width)
    yield f"{title}\n{'=' * max(map(len, title.splitlines()))}"
    if any(row.latency_ms is not None for row in lines):
        swept = tables.overview(lines)  # whose cells have no room for notes
        speeds = [*swept, *tables.suspicious(lines)] if swept else tables.speed(lines)
    else:
        yield tables.fold(tables.untimed(lines), width)
        speeds = tables.gaps([row for row in lines if not row.status.is_failure])
    yield from (table.terminal(width) for table in (*speeds, *tables.accuracy(lines)))


def _over_cache(lines: Sequence[ReportRow], width: int) -> Iterator[str]:
    """The tables of one family of rows over a cache."""
    yield from (x.terminal(width) for x in (*tables.cached(lines), *tables.accuracy(lines)))


def failures(records: Iterable[Record]) -> int:
    """How many records are wrong, in error or timed out."""
    return sum(record.status.is_failure for record in latest(records))


def _records(path: Path) -> tuple[Record, ...]:
    records = latest(read(path))
    if not records:
        raise FileError(f"{path} holds no records; nothing has been measured yet.")
    return records
