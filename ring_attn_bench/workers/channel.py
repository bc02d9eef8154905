"""JSON lines over a local socket, between a parent and a process, or process 0 of a group."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ring_attn_bench.errors import InvalidArgument

LONGEST = 100
"""Bytes of a socket's path: Linux takes 107, others 103."""
_OPEN_FILES = Path("/proc/self/fd")


class Closed(Exception):
    """The other end is gone."""


class Channel:
    """One end of a connection that carries lines of text."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    @classmethod
    def connect(cls, path: Path) -> Channel:
        """The worker's end of the channel."""
        with _short(path) as name:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(name)
        return cls(connection)

    def send(self, line: str) -> None:
        """Sends a line without line breaks; raises Closed."""
        try:
            self._connection.settimeout(None)
            self._connection.sendall(line.encode() + b"\n")
        except OSError:
            raise Closed from None

    def receive(self, seconds: float | None = None) -> str | None:
        """The next line, or None if none came in that time; raises Closed."""
        self._connection.settimeout(seconds)
        while b"\n" not in self._buffer:
            try:
                part = self._connection.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError:
                raise Closed from None
            if not part:
                raise Closed
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


class Server:
    """The parent's end, before the worker has connected."""

    def __init__(self, path: Path) -> None:
        with _short(path) as name:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.bind(name)
        self._socket.listen(1)

    def accept(self, seconds: float) -> Channel | None:
        """The connection, or None if none came in that time."""
        self._socket.settimeout(seconds)
        try:
            connection, _ = self._socket.accept()
        except TimeoutError:
            return None
        return Channel(connection)

    def close(self) -> None:
        """Stops listening."""
        self._socket.close()


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of the path that a socket can have, however long TMPDIR is: through its open folder.

    Raises InvalidArgument where open folders have no names.
    """
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    if not _OPEN_FILES.is_dir():
        raise InvalidArgument(
            f"the folder for temporary files is {path.parent.parent}, and a socket's path in it "
            f"would be longer than {LONGEST} bytes; set TMPDIR to a shorter one."
        )
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield str(_OPEN_FILES / str(folder) / path.name)
    finally:
        os.close(folder)
