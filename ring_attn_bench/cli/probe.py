"""`probe`: what each backend can do, found out; and `coverage`: matrices that are there already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ring_attn_bench.cli.ending import ended_by_a_person
from ring_attn_bench.cli.exits import Exit
from ring_attn_bench.cli.options import HOW, WHAT, Out, Quiet, Resume, example, option, out_folder
from ring_attn_bench.cli.paths import named
from ring_attn_bench.cli.terminal import console, say, width
from ring_attn_bench.errors import MachineLacks

if TYPE_CHECKING:
    from ring_attn_bench.records.finding import Finding

coverage = typer.Typer(help="Coverage matrices of probe, shown and compared.", no_args_is_help=True)

Backend = Annotated[list[str] | None, option(WHAT, "NAME", "Only this backend; may be repeated.")]
Feature = Annotated[
    list[str] | None,
    option(WHAT, "PATTERN", "Only features that match this shell pattern; may be repeated."),
]
Quick = Annotated[
    bool, typer.Option(help="Only the first case of each feature.", rich_help_panel=WHAT)
]
Jobs = Annotated[
    int | None, option(HOW, "N", "Processes at a time; by itself one a core, at most 8.", 1)
]
Seconds = Annotated[
    float, option(HOW, "S", "Seconds at most for each feature, forward or backward.", 0.1)
]


def probe(
    backend: Backend = None,
    feature: Feature = None,
    quick: Quick = False,
    jobs: Jobs = None,
    seconds: Seconds = 300.0,
    out: Out = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """The coverage matrix: what each backend can do, feature by feature, against float64.

    Each is asked in processes of its own: one that crashes or hangs costs that feature alone.

    Exit codes are those of `ring-attn-bench --help`.
    """
    from ring_attn_bench.probe import run
    from ring_attn_bench.probe.progress import ProbeProgress

    request = run.ProbeRequest(
        tuple(backend or ()), tuple(feature or ()), out, jobs, seconds, quick, resume
    )
    with ended_by_a_person("--resume"), ProbeProgress(console(quiet=quiet)) as progress:
        folder = run.probe(request, progress)
    findings = _read(folder)
    _show(findings, folder)
    if any(x.verdict.is_failure for x in findings):
        raise typer.Exit(Exit.WRONG)
    lacking = run.missing(findings, request.backends)
    if lacking:
        raise MachineLacks("; ".join(lacking))


def _matrix(metavar: str, text: str = "A coverage.csv, or its folder.") -> object:
    return typer.Argument(parser=named, metavar=metavar, help=text)


@coverage.command("show", epilog=example("coverage show results/mine --out results/mine"))
def show_coverage(
    findings: Annotated[Path, _matrix("FINDINGS")],
    out: Annotated[Path | None, out_folder("Folder to draw coverage.md and .png in.")] = None,
) -> None:
    """The matrix as a table; with --out, as a page and a picture too.

    Exit codes are those of `ring-attn-bench --help`: 0 whatever the statuses are.
    """
    _show(_read(findings), out)


@coverage.command("diff", epilog=example("coverage diff results/before results/after"))
def compare_coverage(
    before: Annotated[Path, _matrix("BEFORE")],
    after: Annotated[Path, _matrix("AFTER", "Another coverage.csv, or its folder.")],
) -> None:
    """Which statuses differ.

    Exit code 0 if none does, 1 if any does; others are those of `ring-attn-bench --help`.
    """
    from ring_attn_bench.probe.status_changes import changes

    differing = changes(_read(before), _read(after))
    for change in differing:
        say(str(change))
    typer.echo(f"{len(differing)} statuses differ." if differing else "The statuses are the same.")
    raise typer.Exit(Exit.WRONG if differing else Exit.RIGHT)


def _read(path: Path) -> Sequence[Finding]:
    from ring_attn_bench.records.finding import read

    return read(path)


def _show(findings: Sequence[Finding], folder: Path | None) -> None:
    from ring_attn_bench.report.coverage import terminal, write_coverage

    say(terminal.text(findings, width()))
    if folder is not None:
        page = write_coverage(findings, folder)[0]
        typer.echo(f"\nPage: {page}")
