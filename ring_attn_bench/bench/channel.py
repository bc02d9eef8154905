"""JSON lines over a local socket, between a parent and process 0 of a worker group."""

from __future__ import annotations

import socket
from pathlib import Path


class Closed(Exception):
    """The other end is gone."""


class Channel:
    """One end of a connection that carries lines of text."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    @classmethod
    def connect(cls, path: Path) -> Channel:
        """The worker's end."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(path))
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
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
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
