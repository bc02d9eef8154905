"""How the program ends: what its exit codes mean, and what ends in which."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from enum import IntEnum
from io import TextIOWrapper
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from ring_attn_bench import __version__
from ring_attn_bench.cli.signals import terminated_by_sigterm
from ring_attn_bench.cli.terminal import beside
from ring_attn_bench.errors import (
    FileError,
    MachineLacks,
    NoAnswer,
    RingAttnBenchError,
    Terminated,
    clause,
)


class Exit(IntEnum):
    """What the program ends with; what each code means is in `MEANINGS`."""

    RIGHT = 0
    WRONG = 1
    MISTAKE = 2
    LACKS = 3
    FILES = 4
    BUG = 5
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM


MEANINGS: Mapping[Exit, str] = {
    Exit.RIGHT: "what ran was right (unsupported and out of memory are answers)",
    Exit.WRONG: "something was wrong, crashed or timed out, or statuses differ (coverage diff), "
    "something is worse (compare), nothing fits (advise), a fault is not named (selftest), what is "
    "shipped is not right (tune), a self-check finds a fault (env)",
    Exit.MISTAKE: "a mistake in the arguments or the suite",
    Exit.LACKS: "the machine lacks what was asked for by name",
    Exit.FILES: "a file cannot be read or written",
    Exit.BUG: "a bug of this program, which says what to report",
    Exit.INTERRUPTED: "ended by Ctrl-C",
    Exit.TERMINATED: "terminated",
}
"""The one place that says it: --help prints it, and other texts repeat it or refer to that."""


def told() -> str:
    """All of them in a sentence, as --help and run_comparison_tests.sh have it."""
    codes = "; ".join(f"{code.value}, {meaning}" for code, meaning in MEANINGS.items())
    return f"Exit codes: {codes}. What was measured is kept."


class Program(TyperGroup):
    """Without Typer's answers to what a verb raises that end in the exit code of `wrong`."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's own type has moved
        """Typer's, but for those."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise FileError(f"what was read ends too early ({error}).") from None
        except BrokenPipeError:  # who reads what is printed has gone: `| head`
            _print_nothing_more()
            raise typer.Exit(128 + signal.SIGPIPE) from None
        except KeyboardInterrupt:
            _leave("interrupted; what was measured is kept.", Exit.INTERRUPTED)


def run(program: Callable[[], object]) -> NoReturn:
    """Runs it to its exit code; a deliberate error is one sentence, and a traceback is a bug's."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        with terminated_by_sigterm():
            try:
                program()
            finally:
                sys.stdout.flush()  # here, where a full disk can still be told of
    except Terminated:
        _leave("terminated; what was measured is kept.", Exit.TERMINATED)
    except KeyboardInterrupt:
        _leave("interrupted; what was measured is kept.", Exit.INTERRUPTED)
    except BrokenPipeError:
        _print_nothing_more()
        sys.exit(128 + signal.SIGPIPE)
    except RingAttnBenchError as error:
        code = Exit.MISTAKE
        if isinstance(error, FileError):
            code = Exit.FILES
        elif isinstance(error, MachineLacks):
            code = Exit.LACKS
        elif isinstance(error, NoAnswer):
            code = Exit.WRONG
        _leave(str(error), code)
    except OSError as error:
        if not _is_about_a_file(error):
            _leave_by_a_bug()
        where = "" if error.filename is None else f" {error.filename!r}"
        _leave(f"cannot read or write{where}: {clause(error.strerror)}.", Exit.FILES)
    except Exception:
        _leave_by_a_bug()
    sys.exit(0)


def _is_about_a_file(error: OSError) -> bool:
    """And not about a connection or a process, which is no matter of the person's disk."""
    return error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def _leave_by_a_bug() -> NoReturn:
    """Of the error that is being handled: a sentence, then where it came from."""
    command = shlex.join(["ring-attn-bench", *sys.argv[1:]])
    _leave(
        "this is a bug, and says nothing about backends or results. Please report it with the "
        f"version, {__version__}, the command, `{command}`, and what follows.\n\n"
        f"{traceback.format_exc().rstrip()}",
        Exit.BUG,
    )


def _leave(sentence: str, code: Exit) -> NoReturn:
    beside(f"ring-attn-bench: {sentence}")
    try:
        sys.stdout.flush()
    except OSError:
        _print_nothing_more()
    sys.exit(code)


def _print_nothing_more() -> None:
    """Or Python would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
