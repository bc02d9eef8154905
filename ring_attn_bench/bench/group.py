"""A worker group, seen from the parent: started by torchrun, asked, watched, killed, replaced."""

from __future__ import annotations

import json
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
from typing import Protocol

from ring_attn_bench.bench.channel import Channel, Closed, Server
from ring_attn_bench.bench.messages import Command, Envelope, Outcome, Quit
from ring_attn_bench.records.status import Status

START_SECONDS = 180.0
"""For a group to come up: imports on a busy machine, a communicator for each process."""
GRACE_SECONDS = 15.0
"""After one process has failed, for the others to say how they fared."""
STDERR_LINES = 20


class GroupFailed(Exception):
    """A group did not answer: it was killed, crashed, or said what went wrong.

    stderr: the last lines that its processes wrote.
    """

    def __init__(self, status: Status, reason: str, stderr: list[str]) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.stderr = stderr


class Group(Protocol):
    """Some processes that take commands."""

    generation: int
    """Counts restarts: what was prepared in an earlier generation is gone."""

    def ask(self, about: str, command: Command, seconds: float) -> list[dict[str, object]]:
        """The answers of all processes; raises GroupFailed."""
        ...

    def close(self) -> None:
        """Ends the processes."""
        ...


class TorchrunGroup:
    """A group in processes of its own, which may crash or hang without harm to anybody else."""

    def __init__(self, processes: int, world_size: int, environment: Mapping[str, str]) -> None:
        self._processes = processes
        self._world_size = world_size
        self._environment = dict(environment)
        self._runner: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._folder: Path | None = None
        self._busy = False
        self.generation = 0

    def ask(self, about: str, command: Command, seconds: float) -> list[dict[str, object]]:
        """The answers of all processes; raises GroupFailed, and then the next call starts anew."""
        self._busy = True
        try:
            channel = self._started()
            channel.send(Envelope(about=about, command=command).model_dump_json())
            line = self._answer(channel, seconds)
        except Closed:
            raise self._failed(self._left_behind()) from None
        self._busy = False
        outcomes = [Outcome.model_validate(found) for found in json.loads(line)]
        worst = next((found for found in outcomes if found.status != "ok"), None)
        if worst is not None:
            raise self._failed(worst)
        return [found.answer for found in outcomes]

    def close(self) -> None:
        """Asks the group to end, and sees to it; a busy one is killed."""
        if self._channel is not None and self._runner is not None and not self._busy:
            with suppress(Closed, subprocess.TimeoutExpired):
                self._channel.send(Envelope(about="", command=Quit()).model_dump_json())
                self._runner.wait(timeout=10)
        self._kill()

    def _started(self) -> Channel:
        if self._channel is not None:
            return self._channel
        self._folder = folder = Path(tempfile.mkdtemp(prefix="rab-"))
        server = Server(folder / "socket")
        with (folder / "log").open("wb") as log:
            self._runner = subprocess.Popen(
                self._command(folder),
                stdin=subprocess.PIPE,  # whose end is this process's: `agent`
                stdout=log,
                stderr=subprocess.STDOUT,
                env=on_loopback() | os.environ | importable() | self._environment,
                start_new_session=True,
            )
        try:
            self._channel = self._accepted(server)
        finally:
            server.close()
        return self._channel

    def _command(self, folder: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "ring_attn_bench.bench.agent", str(folder)),
            *("--nproc-per-node", str(self._processes)),
            # by a file: a store of torchrun's would listen on every interface
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", str(folder / "rendezvous")),
            *("--rdzv-conf", "store_type=file", "--local-addr", "127.0.0.1"),
            *("--log-dir", str(folder / "logs")),  # or it leaves a folder behind
            *("-m", "ring_attn_bench.bench.serve", str(folder), str(self._world_size)),
            str(os.getpid()),
        ]

    def _accepted(self, server: Server) -> Channel:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if (channel := server.accept(0.2)) is not None:
                return channel
            if self._runner is not None and self._runner.poll() is not None:
                raise Closed
        raise self._failed(
            Outcome(status="error", reason=f"did not start within {START_SECONDS:g} s")
        )

    def _answer(self, channel: Channel, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (line := channel.receive(0.2)) is not None:
                return line
            if self._files("outcome"):
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if self._files("outcome"):
            raise Closed
        stderr = self._tail()
        self._kill()
        raise GroupFailed(
            Status.TIMEOUT, f"no answer within {seconds:g} s; the group was killed", stderr
        )

    def _left_behind(self) -> Outcome:
        """What the group that is gone left about its end."""
        if self._runner is not None:
            with suppress(subprocess.TimeoutExpired):
                self._runner.wait(timeout=GRACE_SECONDS)  # torchrun, after its processes
        for path in self._files("outcome"):
            return Outcome.model_validate_json(path.read_text())
        return Outcome(status="error", reason=f"the worker group died ({self._last_words()})")

    def _last_words(self) -> str:
        """The signal or exit code that torchrun reports, or its own, and its last line."""
        lines = [line.strip() for line in self._tail()]
        causes = [line for line in lines if "exitcode" in line or "Signal" in line]
        if causes:
            return causes[-1]
        code = None if self._runner is None else self._runner.poll()
        ended = "it still runs" if code is None else f"exit code {code}"
        return f"{ended}; {f'its last words: {lines[-1]}' if lines else 'it said nothing'}"

    def _failed(self, outcome: Outcome) -> GroupFailed:
        stderr = self._tail()
        self._kill()
        return GroupFailed(Status(outcome.status), outcome.reason, stderr)

    def _tail(self) -> list[str]:
        if self._folder is None:
            return []
        text = (self._folder / "log").read_text(errors="replace")
        # without torchrun's banner about threads, which stands between lines of stars
        lines = [x for x in text.splitlines() if x.strip("* ") and "OMP_NUM" not in x]
        here = str(Path(__file__).parents[2])
        return [line.replace(here, ".")[:300] for line in lines[-STDERR_LINES:]]

    def _kill(self) -> None:
        """Ends everything that was started: torchrun gives each process a session of its own."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for path in self._files("pid"):
            _kill(int(path.read_text() or 0))
        if self._runner is not None:
            _kill(self._runner.pid)
            self._runner.wait()
            if self._runner.stdin is not None:
                self._runner.stdin.close()
            self._runner = None
            self.generation += 1
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _files(self, suffix: str) -> list[Path]:
        """What the processes left: their process ids, or their outcomes."""
        return [] if self._folder is None else sorted(self._folder.glob(f"*.{suffix}"))


def importable() -> dict[str, str]:
    """So that a group imports this very copy of the package, whatever folder it starts in."""
    here = str(Path(__file__).parents[2])
    return {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}


def on_loopback() -> dict[str, str]:
    """So that gloo's processes connect there, unless somebody has named another interface."""
    return {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}


def _kill(pid: int) -> None:
    if pid <= 0:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
