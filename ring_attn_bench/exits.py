"""How the program ends: what its exit codes mean, and what ends in which."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum
from io import TextIOWrapper
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from ring_attn_bench import __version__
from ring_attn_bench.errors import FileError, RingAttnBenchError, clause


class Exit(IntEnum):
    """What an exit code of this program means."""

    RIGHT = 0
    """Everything that ran was right; unsupported and out of memory are answers."""
    WRONG = 1
    """Something was wrong, crashed or timed out."""
    MISTAKE = 2
    """The suite or the arguments cannot be run as given."""
    LACKS = 3
    """The machine lacks what was asked for by name."""
    FILES = 4
    """A file could not be read or written; what is on disk already is whole and stays."""
    BUG = 5
    """The program itself is at fault: nothing is said about what it was asked."""
    INTERRUPTED = 128 + signal.SIGINT
    """A person ended it."""


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
            raise typer.Exit(Exit.INTERRUPTED) from None


def run(program: Callable[[], object]) -> NoReturn:
    """Runs it to its exit code; a deliberate error is one sentence, and a traceback is a bug's."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        try:
            program()
        finally:
            sys.stdout.flush()  # here, where a full disk can still be told of
    except BrokenPipeError:
        _print_nothing_more()
        sys.exit(128 + signal.SIGPIPE)
    except RingAttnBenchError as error:
        from ring_attn_bench.bench.setup import MachineLacks

        code = Exit.MISTAKE
        if isinstance(error, FileError):
            code = Exit.FILES
        elif isinstance(error, MachineLacks):
            code = Exit.LACKS
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
    typer.echo(f"ring-attn-bench: {sentence}", err=True)
    try:
        sys.stdout.flush()
    except OSError:
        _print_nothing_more()
    sys.exit(code)


def _print_nothing_more() -> None:
    """Or Python would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
