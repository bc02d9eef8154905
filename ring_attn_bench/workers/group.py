"""A worker group, seen from the parent: started by torchrun, asked, watched, killed, replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.channel import Channel, Closed
from ring_attn_bench.workers.process import GRACE_SECONDS, POLL_SECONDS, Started
from ring_attn_bench.workers.reply import Facts, MemberReply, WorkerFailed

START_SECONDS = 180.0
"""For a group to come up: imports on a busy machine, a communicator for each process."""
STDERR_LINES = 20


class Group(Protocol):
    """Some processes that take commands."""

    generation: int
    """Counts restarts: what was prepared in an earlier generation is gone."""

    def ask(self, command: str, seconds: float) -> list[Facts]:
        """What all processes found; raises WorkerFailed."""
        ...

    def close(self) -> None:
        """Ends the group's processes."""
        ...


class _Torchrun(Started):
    who = "worker group"

    def end(self) -> str:
        """By the signal or exit code that torchrun reports of a process, if it does."""
        end = super().end()
        told = [line.strip() for line in self.lines() if "exitcode" in line or "Signal" in line]
        causes = [line.removeprefix("traceback : ") for line in told]  # a crash leaves none
        return f"the {self.who} died ({causes[-1]})" if causes else end


class TorchrunGroup:
    """A group in processes of its own, which may crash or hang without harm to anybody else.

    serve: the module that each runs, with the group's folder, this process's id and `arguments`.
    last: the command that ends them.
    """

    def __init__(
        self,
        serve: str,
        arguments: Sequence[str],
        processes: int,
        environment: Mapping[str, str],
        last: str,
    ) -> None:
        self._serve = [serve, *arguments]
        self._processes = processes
        self._environment = {**on_loopback(), **environment}
        self._last = last
        self._started: _Torchrun | None = None
        self._busy = False
        self.generation = 0

    def ask(self, command: str, seconds: float) -> list[Facts]:
        """What all processes found; raises WorkerFailed, and then the next call starts anew."""
        self._busy = True
        try:
            channel = self._channel()
            channel.send(command)
            line = self._answer(channel, seconds)
        except Closed:
            raise self._failed(self._left_behind()) from None
        self._busy = False
        replies = [MemberReply.model_validate(reply) for reply in json.loads(line)]
        # by rank, not by badness: what is worse in another may come of it
        first = next((reply for reply in replies if reply.status is not Status.OK), None)
        if first is not None:
            raise self._failed(first)
        return [reply.facts for reply in replies]

    def close(self) -> None:
        """Asks the group to end, and sees to it; a busy one is killed."""
        try:
            if self._started is not None and not self._busy:
                with suppress(Closed, subprocess.TimeoutExpired):
                    self._channel().send(self._last)
                    self._started.runner.wait(timeout=10)
        finally:  # a signal may come while it waits
            self._kill()

    def _channel(self) -> Channel:
        if self._started is None:
            # whose input's other end is this process's: `agent`
            self._started = _Torchrun(self._command, lambda _: self._environment, subprocess.PIPE)
        channel = self._started.connected(time.monotonic() + START_SECONDS)
        if channel is None:
            reason = f"did not start within {START_SECONDS:g} s"
            raise self._failed(MemberReply(status=Status.ERROR, reason=reason))
        return channel

    def _command(self, folder: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "ring_attn_bench.workers.agent", str(folder)),
            *("--nproc-per-node", str(self._processes)),
            # by a file: a store of torchrun's would listen on every interface
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", str(folder / "rendezvous")),
            *("--rdzv-conf", "store_type=file", "--local-addr", "127.0.0.1"),
            *("--log-dir", str(folder / "logs")),  # or it leaves a folder behind
            *("-m", self._serve[0], str(folder), str(os.getpid()), *self._serve[1:]),
        ]

    def _answer(self, channel: Channel, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (line := channel.receive(POLL_SECONDS)) is not None:
                return line
            if self._files("reply"):
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if self._files("reply"):
            raise Closed
        assert self._started is not None  # it was asked
        reason = self._started.overdue(seconds)
        raise self._failed(MemberReply(status=Status.TIMEOUT, reason=reason))

    def _left_behind(self) -> MemberReply:
        """What the group that is gone left about its end."""
        assert self._started is not None  # or nothing is gone
        reason = self._started.end()  # torchrun's, which comes after those of its processes
        for path in self._files("reply"):
            return MemberReply.model_validate_json(path.read_text())
        return MemberReply(status=Status.ERROR, reason=reason)

    def _failed(self, reply: MemberReply) -> WorkerFailed:
        stderr = self._tail()
        self._kill()
        return WorkerFailed(reply.status, reply.reason, stderr)

    def _tail(self) -> list[str]:
        written = [] if self._started is None else self._started.lines()
        here = str(Path(__file__).parents[2])
        return [line.replace(here, ".")[:300] for line in written[-STDERR_LINES:]]

    def _kill(self) -> None:
        """Ends everything that was started: torchrun gives each process a session of its own."""
        if self._started is None:
            return
        try:
            for pid in (int(path.read_text() or 0) for path in self._files("pid")):
                if pid > 0:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        finally:
            self._started.close()
        self._started = None
        self.generation += 1

    def _files(self, suffix: str) -> list[Path]:
        """What the processes left: their process ids, or their replies."""
        return [] if self._started is None else sorted(self._started.folder.glob(f"*.{suffix}"))


def on_loopback() -> dict[str, str]:
    """So that gloo's processes connect there, unless somebody has named another interface."""
    name = "GLOO_SOCKET_IFNAME"
    return {name: "lo"} if sys.platform == "linux" and name not in os.environ else {}
