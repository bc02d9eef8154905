"""A process, seen from its parent: started with a module to serve, asked, watched, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from pydantic import BaseModel

from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.channel import Channel, Closed, Server
from ring_attn_bench.workers.folder import put_away
from ring_attn_bench.workers.reply import WorkerFailed

POLL_SECONDS = 0.2
GRACE_SECONDS = 15.0
"""For what answers no more to be gone, and, in a group, for the others to say how they fared."""


class Started:
    """A process with a folder of its own, where it connects (`socket`) and writes (`log`).

    command, environment: what to start, and its variables, given the folder. stdin: as subprocess
        takes it. Any thread may close.
    """

    who = "process"
    """What sentences call it."""

    def __init__(
        self,
        command: Callable[[Path], list[str]],
        environment: Callable[[Path], Mapping[str, str]],
        stdin: int,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rab-"))
        self._channel: Channel | None = None
        with ExitStack() as begun:
            begun.callback(put_away, self.folder)
            self._server = Server(self.folder / "socket")
            begun.callback(self._server.close)
            with (self.folder / "log").open("wb") as log:
                self.runner = subprocess.Popen(
                    command(self.folder),
                    stdin=stdin,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | importable() | dict(environment(self.folder)),
                    start_new_session=True,  # what it starts is killed with it
                )
            begun.pop_all()  # from here on `close` ends it

    def connected(self, deadline: float) -> Channel | None:
        """Its channel, or None if there is none by then; raises Closed where it has ended."""
        while self._channel is None:
            self._channel = self._server.accept(POLL_SECONDS)
            if self._channel is None and self.runner.poll() is not None:
                raise Closed
            if time.monotonic() > deadline:
                break
        return self._channel

    def lines(self) -> list[str]:
        """What it wrote, without empty lines and torchrun's banner about threads, between stars."""
        with suppress(OSError):
            text = (self.folder / "log").read_text(errors="replace")
            return [x for x in text.splitlines() if x.strip("* \t") and "OMP_NUM" not in x]
        return []

    def end(self) -> str:
        """How a process ended that answers no more."""
        try:
            code = self.runner.wait(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return f"the {self.who} stopped answering{self._last_words()}"
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"the {self.who} died ({how}){self._last_words()}"

    def overdue(self, seconds: float) -> str:
        """What is said of a process that is killed for its silence."""
        return f"no answer within {seconds:g} s; the {self.who} was killed{self._last_words()}"

    def _last_words(self) -> str:
        """The last line that it wrote, which in a traceback is the exception."""
        lines = self.lines()
        return f"; its last words: {lines[-1].strip()[:200]}" if lines else ""

    def close(self) -> None:
        """Ends it, whatever it is doing, and what it started."""
        try:
            with suppress(ProcessLookupError):
                os.killpg(self.runner.pid, signal.SIGKILL)
            self.runner.wait()
        finally:  # whatever signal comes
            if self.runner.stdin is not None:
                self.runner.stdin.close()
            # not before: who serves takes it for the end of its parent
            if self._channel is not None:
                self._channel.close()
            self._server.close()
            put_away(self.folder)


class Process(Started):
    """One process, from its start to its end. Any thread may close it.

    serve: the module that it runs, with its folder and this process's id as arguments.
    """

    def __init__(self, serve: str, environment: Mapping[str, str]) -> None:
        def command(folder: Path) -> list[str]:
            return [sys.executable, "-m", serve, str(folder), str(os.getpid())]

        super().__init__(command, lambda _: environment, subprocess.DEVNULL)

    def ask(self, command: BaseModel, seconds: float) -> str:
        """The answer, as JSON; raises WorkerFailed, and then there is no process any more."""
        deadline = time.monotonic() + seconds
        try:
            channel = self.connected(deadline)
            if channel is None:
                raise Closed
            channel.send(command.model_dump_json())
            while time.monotonic() < deadline:
                if (line := channel.receive(POLL_SECONDS)) is not None:
                    return line
        except Closed:
            raise self._failed(Status.ERROR, self.end()) from None
        raise self._failed(Status.TIMEOUT, self.overdue(seconds))

    def _failed(self, status: Status, reason: str) -> WorkerFailed:
        self.close()
        return WorkerFailed(status, reason)


def importable() -> dict[str, str]:
    """So that a process imports this very copy of the package, whatever folder it starts in."""
    here = str(Path(__file__).parents[2])
    return {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}
