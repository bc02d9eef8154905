"""SIGTERM ends the program, whatever it is doing, and so that what was begun is put away."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ring_attn_bench.errors import Terminated

_AGAIN_SECONDS = 0.5
"""After which a Terminated that somebody has swallowed is raised once more."""


@contextmanager
def terminated_by_sigterm() -> Iterator[None]:
    """While it lasts, SIGTERM raises Terminated.

    Python itself drops what is raised inside a weak reference's callback or a finaliser, as some
    do in the middle of every import, and so does an `except:` of whoever is imported. So it is
    raised again, for as long as nobody is about to handle it.
    """
    signal.signal(signal.SIGTERM, _begin)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _begin(*_: object) -> NoReturn:
    signal.signal(signal.SIGALRM, _again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS, _AGAIN_SECONDS)
    raise Terminated


def _again(*_: object) -> None:
    handled = sys.exception()
    while handled is not None:
        if isinstance(handled, Terminated):
            return
        handled = handled.__context__
    raise Terminated
