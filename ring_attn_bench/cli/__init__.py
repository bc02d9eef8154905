"""The command line: which verbs there are, and where --help shows them.

Thin: a verb's module makes a request of its words, and what answers it is a function elsewhere.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from ring_attn_bench import __version__
from ring_attn_bench.cli import (
    advise,
    compare,
    compile_ahead,
    exits,
    longest,
    machine,
    probe,
    quick,
    report,
    selftest,
    suite,
    tune,
)
from ring_attn_bench.cli.options import example
from ring_attn_bench.cli.renamed import today

MEASURE, LOOK = "Measure", "Look"

app = typer.Typer(
    cls=exits.Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # which joins the lines of a docstring's paragraph
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ring-attn-bench {__version__}")
        raise typer.Exit


@app.callback(
    help=f"Which ring attention is right, which is fast, and on what evidence.\n\n{exits.told()}",
    epilog=example("bench --suite cpu --backend aten --out results/mine"),
)
def program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Which this is."),
    ] = False,
) -> None:
    """The program's own options, before any verb."""


VERBS = (
    (MEASURE, suite.bench, "bench --suite cpu --case '*causal' --out results/mine"),
    (MEASURE, suite.check, "check --suite cpu --backend aten"),
    (MEASURE, quick.quick, "quick --backend aten"),
    (MEASURE, probe.probe, "probe --backend triton --feature 'window*'"),
    (MEASURE, tune.tune, "tune triton --kernel forward --head-dim 128"),
    (MEASURE, compile_ahead.compile_ahead, "compile cute --arch sm_90a"),
    (MEASURE, longest.longest, "longest --suite cpu --backend aten --most 8k"),
    (MEASURE, selftest.selftest, "selftest --fault '*order*'"),
    (LOOK, report.report, "report results/mine"),
    (LOOK, advise.advise, "advise --heads 32:8 --tokens 128k --gpus 8 --memory 40GB"),
    (LOOK, compare.compare, "compare results/before results/after --effect 2"),
    (LOOK, machine.list_backends, "list"),
    (LOOK, machine.env, "env | grep torch"),
)
"""Each with its panel and an example, as it is typed."""

for _panel, _verb, _example in VERBS:
    app.command(_example.partition(" ")[0], rich_help_panel=_panel, epilog=example(_example))(_verb)
app.add_typer(
    probe.coverage, name="coverage", rich_help_panel=LOOK,
    epilog=example("coverage diff results/before results/after"),
)  # fmt: skip


def main() -> NoReturn:
    """Runs the program."""
    exits.run(_program)


def _program() -> None:
    sys.argv[1:] = today(sys.argv[1:])  # what is said of this command later has the new names
    app()
