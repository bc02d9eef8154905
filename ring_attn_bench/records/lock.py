"""One run at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ring_attn_bench.errors import FileError
from ring_attn_bench.records.files import ELSEWHERE


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While it lasts, whoever else asks for the folder gets a FileError.

    The system lets go of the folder when this process ends, however that happens. Where a file
    system has no locks nobody is refused.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileError(
                f"another run is writing into {folder}; wait until it has ended, or {ELSEWHERE}."
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
