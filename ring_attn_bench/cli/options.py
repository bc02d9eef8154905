"""Options of a suite's verbs and of more than one, and the panels in which --help shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ring_attn_bench import registry
from ring_attn_bench.bench import suite_files
from ring_attn_bench.cli.paths import named

if TYPE_CHECKING:
    from ring_attn_bench.bench.start import Request

WHAT = "What is run"
LARGER = "A larger ring, played on fewer GPUs"
HOW = "How it is run"
WHERE = "Where it is written"
SHOWN = "What is shown"
MARKS, ESCAPED = r"[*_`\\\[\]]", r"\\\g<0>"


def option(
    panel: str,
    metavar: str,
    text: str,
    least: float | None = None,
    names: Callable[[], Iterable[str]] | None = None,
) -> object:
    """An option of any verb, in a panel of its --help. names: what a shell completes it to."""

    def completed(begun: str) -> list[str]:
        return [name for name in (names or tuple)() if name.startswith(begun)]

    return typer.Option(
        metavar=metavar, help=text, min=least, rich_help_panel=panel, autocompletion=completed
    )


def example(line: str) -> str:
    """What --help ends with, where a pattern's stars are no marks of Markdown."""
    return f"Example: ring-attn-bench {re.sub(MARKS, ESCAPED, line)}"


def out_folder(text: str) -> object:
    """An option that names a folder."""
    return typer.Option(parser=named, metavar="PATH", help=text, rich_help_panel=WHERE)


_SUITES = ", ".join(suite_files.suite_names())

Suite = Annotated[
    str | None,
    option(
        WHAT,
        "NAME",
        f"A suite file (.toml), or one of {_SUITES}; by itself hopper on a GPU, else cpu.",
        names=suite_files.suite_names,
    ),
]
Backend = Annotated[
    list[str] | None,
    option(
        WHAT,
        "NAME",
        "Only this backend, also if the suite does not name it; may be repeated.",
        names=lambda: (*registry.backends(), *registry.peers()),
    ),
]
Case = Annotated[str, option(WHAT, "PATTERN", "Only cases whose name matches this shell pattern.")]
Contestant = Annotated[str, option(WHAT, "PATTERN", "Only contestants that match this pattern.")]
Filter = Annotated[
    str,
    typer.Option(
        "--filter",
        metavar="PATTERN",
        help="Only what has a case or a contestant that matches this pattern.",
        rich_help_panel=WHAT,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="The suite with this key overruled, as seqlen_per_gpu=8k,32k or timing.seconds=1; may "
        "be repeated.",
        rich_help_panel=WHAT,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would run, and about how long.", rich_help_panel=HOW),
]
Trace = Annotated[
    bool,
    typer.Option(
        "--trace",
        help="One more call of each ring row, looked at: who computed, waited and sent when, as "
        "traces/*.json (Chrome, Perfetto) and pictures.",
        rich_help_panel=HOW,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No line for each result.", rich_help_panel=SHOWN)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="The last words of workers that died, too.", rich_help_panel=SHOWN
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="JSON on standard output, and no table; see docs/json.md.",
        rich_help_panel=SHOWN,
    ),
]  # fmt: skip
Ranks = Annotated[
    int | None,
    option(
        WHAT,
        "N",
        "Ranks of the ring; by itself the suite's, or one for each GPU; on one GPU 1, then 4 by "
        "loopback; without a GPU 2.",
        1,
    ),
]
AsRanks = Annotated[
    list[int] | None,
    option(
        LARGER, "N", "Play a ring of so many ranks on fewer GPUs, in pairs; may be repeated.", 2
    ),
]
Playing = Annotated[
    str | None,
    option(LARGER, "RANKS", "The ranks played there: ends, first, last, or one a process, as 0+3."),
]
Out = Annotated[Path | None, out_folder("Folder for all of it; by itself a new one in results/.")]
Resume = Annotated[
    bool, typer.Option(help="Only what --out does not hold already.", rich_help_panel=WHERE)
]


def request(
    suite: str | None, out: Path | None, ranks: int | None, backends: list[str] | None,
    patterns: tuple[str, str, str], overruled: list[str] | None, **more: Any,  # noqa: ANN401
) -> Request:  # fmt: skip
    """What a person asks of a suite. patterns: --case, --contestant, --filter; more: its fields."""
    from ring_attn_bench.bench.run import EntrySelection
    from ring_attn_bench.bench.start import Request

    return Request(
        suite, out, ranks, backends=tuple(backends or ()), selection=EntrySelection(*patterns),
        overruled=tuple(overruled or ()), **more,
    )  # fmt: skip
