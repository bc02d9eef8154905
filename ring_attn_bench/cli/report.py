"""`report`: from records to a page, tables, CSV and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ring_attn_bench.cli.options import out_folder
from ring_attn_bench.cli.paths import named, records_file
from ring_attn_bench.cli.terminal import width


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
) -> None:
    """One page, tables, CSV and plots from records; needs no GPU and no torch.

    Exit code 0 whatever the records say of backends: what is wrong is told in tables and page.
    """
    if index:
        _index(records, out)
        return
    show(records_file(records), out)


def _index(folder: Path, out: Path | None) -> None:
    from ring_attn_bench.report.write import write_index

    if out is not None:
        raise typer.BadParameter("an index lies beside its runs; leave out --out.")
    typer.echo(f"Index: {', '.join(map(str, write_index(folder)))}")


def show(records: Path, out: Path | None) -> int:
    """Writes the report, prints its short form, and gives the number of failures."""
    from ring_attn_bench.records.record import read
    from ring_attn_bench.report.write import failures, summary, write_report

    folder = out or records.parent
    kept = list(read(records, lambda sentence: typer.echo(sentence, err=True)))
    written = write_report(records, folder)
    typer.echo(summary(kept, width()))
    page = next(path for path in written if path.suffix == ".html")
    typer.echo(f"\nReport: {page}, and beside it report.md, results.csv and plots/")
    return failures(kept)
