"""A probing process, seen from the parent: started, asked, watched, killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from ring_attn_bench.bench.channel import Channel, Closed, Server
from ring_attn_bench.bench.group import importable
from ring_attn_bench.records.status import Status

POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
"""For a process whose end of the channel is closed to be gone."""


class ProcessFailed(Exception):
    """A process died or did not answer in time; it is gone."""

    def __init__(self, verdict: Status, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


class Process:
    """One process, from its start to its end. Any thread may close it.

    serve: the module that it runs, with its socket and this process's id as arguments.
    """

    def __init__(
        self, environment: Mapping[str, str], serve: str = "ring_attn_bench.probe.serve"
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rab-"))
        self._server = Server(self._folder / "socket")
        self._channel: Channel | None = None
        with (self._folder / "log").open("wb") as log:
            self._runner = subprocess.Popen(
                [
                    *(sys.executable, "-m", serve),
                    *(str(self._folder / "socket"), str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | importable() | dict(environment),
                start_new_session=True,  # what it starts is killed with it
            )

    def ask(self, command: BaseModel, seconds: float) -> str:
        """The answer, as JSON; raises ProcessFailed, and then there is no process any more."""
        deadline = time.monotonic() + seconds
        try:
            channel = self._connected(deadline)
            channel.send(command.model_dump_json())
            while time.monotonic() < deadline:
                if (line := channel.receive(POLL_SECONDS)) is not None:
                    return line
        except Closed:
            raise self._failed(Status.ERROR, self._end()) from None
        reason = f"no answer within {seconds:g} s; the process was killed"
        raise self._failed(Status.TIMEOUT, reason + self._last_words())

    def close(self) -> None:
        """Ends the process, whatever it is doing, and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._runner.pid, signal.SIGKILL)
        self._runner.wait()
        if self._channel is not None:
            self._channel.close()
        self._server.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _connected(self, deadline: float) -> Channel:
        while self._channel is None:
            self._channel = self._server.accept(POLL_SECONDS)
            if self._channel is None and (
                self._runner.poll() is not None or time.monotonic() > deadline
            ):
                raise Closed
        return self._channel

    def _failed(self, verdict: Status, reason: str) -> ProcessFailed:
        self.close()
        return ProcessFailed(verdict, reason)

    def _end(self) -> str:
        """How the process ended."""
        try:
            code = self._runner.wait(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return f"the process stopped answering{self._last_words()}"
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"the process died ({how}){self._last_words()}"

    def _last_words(self) -> str:
        """The last line that the process wrote, which in a traceback is the exception."""
        with suppress(OSError):
            text = (self._folder / "log").read_text(errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            return f"; its last words: {lines[-1][:200]}" if lines else ""
        return ""
