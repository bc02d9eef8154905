"""`report`: from records to a page, tables, CSV and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ring_attn_bench.cli.options import AsJson, out_folder
from ring_attn_bench.cli.paths import named, records_file
from ring_attn_bench.cli.terminal import beside, say, width


def report(
    records: Annotated[
        Path,
        typer.Argument(
            parser=named, metavar="RECORDS", help="A run's folder, or its records file."
        ),
    ],
    out: Annotated[
        Path | None, out_folder("Folder for the report; by itself the records'.")
    ] = None,
    index: Annotated[
        bool,
        typer.Option(
            "--index",
            help="RECORDS is a folder of runs: an index of them, and each row's history.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """One page, tables, CSV and plots from records; needs no GPU and no torch.

    Exit code 0 whatever the records say of backends: what is wrong is told in tables and page;
    others are those of `ring-attn-bench --help`.
    """
    if index:
        _index(records, out, as_json=as_json)
        return
    show(records_file(records), out, as_json=as_json)


def _index(folder: Path, out: Path | None, *, as_json: bool) -> None:
    from ring_attn_bench.report.write import write_index

    if out is not None or as_json:
        raise typer.BadParameter("an index lies beside its runs; leave out --out and --json.")
    say(f"Index: {', '.join(map(str, write_index(folder, beside)))}")


def show(records: Path, out: Path | None, *, as_json: bool = False) -> int:
    """Writes the report, prints its short form or its rows, and gives the number of failures."""
    from ring_attn_bench.records.record import read
    from ring_attn_bench.report.write import failures, summary, write_report

    folder = out or records.parent
    kept = list(read(records, beside))
    written = write_report(records, folder, beside)
    if as_json:
        from ring_attn_bench.report.as_json import text
        from ring_attn_bench.report.rows import rows

        say(text(rows(kept)))
        return failures(kept)
    say(summary(kept, width()))
    page = next(path for path in written if path.suffix == ".html")
    say(f"\nReport: {page}, and beside it report.md, results.csv and plots/")
    return failures(kept)
