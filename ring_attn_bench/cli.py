"""The command line. Thin: every verb is a function elsewhere."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from ring_attn_bench import __version__, suites
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.exits import Exit, Program, run, told
from ring_attn_bench.progress import Interrupted, Terminated
from ring_attn_bench.records.paths import named, records_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ring_attn_bench.records.finding import Finding


app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # which joins the lines of a docstring's paragraph
    context_settings={"help_option_names": ["-h", "--help"]},
)


Suite = Annotated[
    str | None,
    typer.Option(
        help=f"A suite file (.toml), or one of {', '.join(suites.suite_names())}; by the machine "
        "hopper or cpu."
    ),
]

Out = Annotated[
    Path | None,
    typer.Option(parser=named, metavar="PATH", help="Folder for the records and the report."),
]
Ranks = Annotated[int | None, typer.Option(min=1, help="Ranks of the ring; by the machine.")]
AsRanks = Annotated[
    list[int] | None,
    typer.Option(
        min=2, help="Play a ring of so many ranks on fewer GPUs, in pairs; may be repeated."
    ),
]
Playing = Annotated[
    str | None,
    typer.Option(help="The ranks played there: ends, first, last, or one a process, as 0+3."),
]
Backend = Annotated[
    list[str] | None,
    typer.Option(help="Only this backend, also if the suite does not name it; may be repeated."),
]
Case = Annotated[str, typer.Option(help="Only cases whose name matches this shell pattern.")]
Contestant = Annotated[str, typer.Option(help="Only contestants that match this pattern.")]
Feature = Annotated[list[str] | None, typer.Option(help="Only features that match; --probe.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes at a time; --probe.")]
Resume = Annotated[bool, typer.Option(help="Only what --out does not hold already.")]
Seconds = Annotated[float | None, typer.Option(min=0.1, help="For each feature; --probe.")]

Kernel = Annotated[
    list[str] | None, typer.Option(help="Only this kernel: forward, backward_dq, backward_dkdv.")
]
HeadDim = Annotated[list[int] | None, typer.Option(help="Only this head dim; may be repeated.")]
Dtype = Annotated[
    list[str] | None, typer.Option(help="In this dtype; each row's first, if not given.")
]
Heads = Annotated[str, typer.Option(help="Query and key heads that are timed.")]


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ring-attn-bench {__version__}")
        raise typer.Exit


@app.callback(
    help=f"Which ring attention is right, which is fast, and on what evidence.\n\n{told()}",
    epilog="Example: ring-attn-bench bench --suite cpu --backend aten --out results/mine",
)
def program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Which this is."),
    ] = False,
) -> None:
    """All verbs' beginning."""


coverage = typer.Typer(help="The coverage matrix of check --probe.", no_args_is_help=True)
app.add_typer(coverage, name="coverage")


@app.command("list")
def list_backends() -> None:
    """Every backend, peer and transport, what it is, and why it cannot run here if it cannot."""
    from ring_attn_bench.bench.listing import backends

    typer.echo(backends(_width()))


@app.command(epilog="Example: ring-attn-bench check --quick --backend aten")
def check(
    suite: Suite = None,
    out: Out = None,
    ranks: Ranks = None,
    backend: Backend = None,
    case: Case = "*",
    contestant: Contestant = "*",
    quick: Annotated[bool, typer.Option(help="One process, one device, small shapes.")] = False,
    probe: Annotated[
        bool, typer.Option(help="Every backend by itself, feature by feature.")
    ] = False,
    feature: Feature = None,
    jobs: Jobs = None,
    seconds: Seconds = None,
    resume: Resume = False,
) -> None:
    """Correctness only, against float64.

    With --probe, the coverage matrix: what each backend can do, found out and not believed.

    Exit codes are those of `ring-attn-bench --help`.
    """
    if probe:
        if suite is not None or ranks or case != "*" or contestant != "*":
            raise InvalidArgument("--suite, --ranks, --case and --contestant are not for --probe.")
        _probe(backend, feature, out, jobs, seconds, quick=quick, resume=resume)
    if feature or jobs or seconds:
        raise InvalidArgument("--feature, --jobs and --seconds are for check --probe.")
    if quick:
        from ring_attn_bench.bench.quick import quick_check

        raise typer.Exit(Exit.WRONG if quick_check(tuple(backend or ()), typer.echo) else 0)
    _run(suite, out, ranks, backend, case, contestant, timing=False, resume=resume)


@app.command(
    epilog="Example: ring-attn-bench bench --suite cpu --case '*causal' --out results/mine"
)
def bench(
    suite: Suite = None,
    out: Out = None,
    ranks: Ranks = None,
    backend: Backend = None,
    case: Case = "*",
    contestant: Contestant = "*",
    resume: Resume = False,
    as_ranks: AsRanks = None,
    playing: Playing = None,
) -> None:
    """Correctness, time and memory: records, tables, CSV and plots.

    By itself it runs each backend in worker processes of its own. Under torchrun it runs in the
    processes that torchrun started.

    With --as-ranks, each of two GPUs does what one rank of a larger ring does, and plays all other
    ranks to its partner: times are those of that ring, and errors of the same ring by loopback.
    Without a GPU two processes do so, and times say nothing.

    Exit codes are those of `ring-attn-bench --help`.
    """
    larger = tuple(as_ranks or ()), playing
    _run(suite, out, ranks, backend, case, contestant, larger, timing=True, resume=resume)


@app.command(epilog="Example: ring-attn-bench report results/mine")
def report(
    records: Annotated[
        Path,
        typer.Argument(
            parser=named, metavar="RECORDS", help="A run's folder, or its records file."
        ),
    ],
    out: Out = None,
) -> None:
    """Tables, CSV and plots from records; needs no GPU and no torch.

    Exit code 0 whatever the records say of backends: what is wrong is told in tables and page.
    """
    _report(records_file(records), out)


@app.command()
def env() -> None:
    """What this machine has, what is missing, and the command that installs it."""
    from ring_attn_bench.bench.environment import probe
    from ring_attn_bench.bench.listing import machine

    typer.echo(machine(probe(), _width()))


@app.command(epilog="Example: ring-attn-bench tune triton --kernel forward --head-dim 128")
def tune(
    backend: Annotated[str, typer.Argument(help="A backend that has configurations: triton.")],
    kernel: Kernel = None,
    head_dim: HeadDim = None,
    dtype: Dtype = None,
    rounds: Annotated[int, typer.Option(min=1, help="In each, every trial runs once.")] = 15,
    seqlen: Annotated[int, typer.Option(min=1, help="Tokens of what is timed.")] = 16384,
    heads: Heads = "16:4",
    jobs: Annotated[int | None, typer.Option(min=1, help="Trials verified at a time.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="To verify one trial.")] = 90.0,
    out: Out = None,
) -> None:
    """A backend's configurations: each verified, the right ones timed, the fastest named.

    Exit code 1 if one that is shipped is not right; what a candidate fails in is an answer.
    """
    from ring_attn_bench.records.outcome import Shape
    from ring_attn_bench.tune import run
    from ring_attn_bench.tune.progress import TuneProgress
    from ring_attn_bench.tune.select import Selection

    shape = Shape.of(seqlen, heads)
    selection = Selection(tuple(kernel or ()), tuple(head_dim or ()), tuple(dtype or ()))
    request = run.TuneRequest(backend, selection, shape, rounds, seconds, out, jobs)
    with _ended_by_a_person(), TuneProgress(Console(highlight=False)) as progress:
        folder = run.tune(request, progress)
    _show_tuning(folder)


@coverage.command("show")
def show_coverage(
    findings: Annotated[
        Path,
        typer.Argument(parser=named, metavar="FINDINGS", help="A coverage.csv, or its folder."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(parser=named, metavar="PATH", help="Folder to draw coverage.md and .png in."),
    ] = None,
) -> None:
    """The matrix as a table; with --out, as a page and a picture too."""
    from ring_attn_bench.records.finding import read

    _show(read(findings), out)


@coverage.command("diff")
def compare_coverage(
    before: Annotated[
        Path, typer.Argument(parser=named, metavar="BEFORE", help="A coverage.csv, or its folder.")
    ],
    after: Annotated[Path, typer.Argument(parser=named, metavar="AFTER", help="Another.")],
) -> None:
    """Which verdicts differ; exit code 1 if any does."""
    from ring_attn_bench.probe.compare import changes
    from ring_attn_bench.records.finding import read

    found = changes(read(before), read(after))
    for change in found:
        typer.echo(change)
    typer.echo(f"{len(found)} verdicts differ." if found else "The verdicts are the same.")
    raise typer.Exit(Exit.WRONG if found else Exit.RIGHT)


def _show_tuning(folder: Path) -> NoReturn:
    from ring_attn_bench.records.tuning_csv import read
    from ring_attn_bench.report import tuning

    found = read(folder)
    typer.echo(f"\n{tuning.terminal(found, _width())}")
    typer.echo(f"\nPage: {tuning.write_tuning(found, folder)}")
    raise typer.Exit(Exit.WRONG if tuning.shipped_failures(found) else Exit.RIGHT)


def _probe(
    backend: list[str] | None,
    feature: list[str] | None,
    out: Path | None,
    jobs: int | None,
    seconds: float | None,
    *,
    quick: bool,
    resume: bool,
) -> NoReturn:
    from ring_attn_bench.bench.setup import MachineLacks
    from ring_attn_bench.probe import run
    from ring_attn_bench.probe.progress import ProbeProgress
    from ring_attn_bench.records.finding import read

    request = run.ProbeRequest(
        tuple(backend or ()), tuple(feature or ()), out, jobs, seconds or run.SECONDS, quick, resume
    )
    with _ended_by_a_person("--resume"), ProbeProgress(Console(highlight=False)) as progress:
        folder = run.probe(request, progress)
    found = read(folder)
    _show(found, folder)
    if any(x.verdict.is_failure for x in found):
        raise typer.Exit(Exit.WRONG)
    lacking = run.missing(found, request.backends)
    if lacking:
        raise MachineLacks("; ".join(lacking))
    raise typer.Exit(Exit.RIGHT)


def _show(findings: Sequence[Finding], folder: Path | None) -> None:
    from ring_attn_bench.report.coverage import write_coverage
    from ring_attn_bench.report.coverage.table import terminal

    typer.echo(terminal(findings, _width()))
    if folder is not None:
        page = write_coverage(findings, folder)[0]
        typer.echo(f"\nPage: {page}")


def _run(
    suite: str | None,
    out: Path | None,
    ranks: int | None,
    backend: list[str] | None,
    case: str,
    contestant: str,
    larger: tuple[tuple[int, ...], str | None] = ((), None),
    *,
    timing: bool,
    resume: bool,
) -> None:
    from ring_attn_bench.bench.launch import Request, in_place, isolated, under_torchrun
    from ring_attn_bench.bench.run import Selection

    selection = Selection(case, contestant)
    request = Request(suite, out, ranks, *larger, tuple(backend or ()), selection, timing, resume)
    console = Console(highlight=False)
    with _ended_by_a_person("--resume", report=True):
        folder = (in_place if under_torchrun() else isolated)(request, console)
    if folder is not None and _report(folder / "records.jsonl", folder):
        raise typer.Exit(Exit.WRONG)


@contextmanager
def _ended_by_a_person(*more: str, report: bool = False) -> Iterator[None]:
    """Where a person or SIGTERM ends what runs inside: says what is kept, and how to go on.

    more: options with which the same command does only what is left.
    """
    try:
        yield
    except Interrupted as ended:
        terminated = isinstance(ended.by, Terminated)
        typer.echo(f"\n{'Terminated' if terminated else 'Interrupted'}: {ended}.", err=True)
        name, folder = _called(again=True), str(ended.folder)
        words = [word for word in sys.argv[1:] if word not in more]
        if not any(word.split("=")[0] == "--out" for word in words):
            words += ["--out", folder]
        if not ended.kept:  # nothing to go on from, and nothing to report
            typer.echo(f"To begin again:  {name} {shlex.join(words)}", err=True)
        elif more:
            typer.echo(f"To go on:  {name} {shlex.join([*words, *more])}", err=True)
        if report and ended.kept:
            typer.echo(f"A report of them:  {_called()} {shlex.join(['report', folder])}", err=True)
        raise typer.Exit(Exit.TERMINATED if terminated else Exit.INTERRUPTED) from None


def _called(*, again: bool = False) -> str:
    """How this program is called, or was, to do the same `again`, under torchrun too."""
    if again and "TORCHELASTIC_RUN_ID" in os.environ and "LOCAL_WORLD_SIZE" in os.environ:
        processes = os.environ["LOCAL_WORLD_SIZE"]
        return f"torchrun --nproc-per-node={processes} -m ring_attn_bench"
    if Path(sys.argv[0]).stem == "ring-attn-bench":
        return "ring-attn-bench"
    return shlex.join([sys.executable, "-m", "ring_attn_bench"])


def _width() -> int:
    """Of the terminal, within what can be read; of none, 100."""
    return max(40, min(shutil.get_terminal_size((100, 24)).columns, 160))


def _report(records: Path, out: Path | None) -> int:
    """Writes it, shows the short form, and gives the number of failures."""
    from ring_attn_bench.records.record import read
    from ring_attn_bench.report.write import failures, summary, write_report

    folder = out or records.parent
    found = list(read(records, lambda sentence: typer.echo(sentence, err=True)))
    written = write_report(records, folder)
    typer.echo(summary(found, _width()))
    typer.echo(f"\nReport: {next(path for path in written if path.suffix == '.md')}")
    return failures(found)


def main() -> NoReturn:
    """Runs the program."""
    run(app)
