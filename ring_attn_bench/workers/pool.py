"""Threads that each ask a process of their own, and replace it when it is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Lock, Thread
from typing import Generic, TypeVar

from pydantic import BaseModel

from ring_attn_bench.workers.process import Process
from ring_attn_bench.workers.reply import Reply, WorkerFailed

LOAD_SECONDS = 300.0
"""For a process to come up and import a kernel's package, many of them at a time."""

Loaded = TypeVar("Loaded", bound=BaseModel)
Said = TypeVar("Said", bound=Reply)


class Ended(Exception):
    """A hand was told to end, by another thread."""


class Hand(Generic[Loaded]):
    """Holds a process that has loaded something. Any thread may end it, and then no other comes.

    serve: the module that its processes run. loaded: what they say when they have loaded.
    """

    def __init__(self, serve: str, loaded: type[Loaded]) -> None:
        self._serve, self._kind = serve, loaded
        self._process: Process | None = None
        self._loaded: Loaded | None = None
        self._lock = Lock()
        self._ended = False

    def hold(self, load: BaseModel, environment: Mapping[str, str]) -> None:
        """What its processes load from now on, and the variables that they are started with."""
        self.drop()
        self._load, self._environment = load, environment

    def load(self) -> Loaded:
        """Sees to a process that has loaded; raises WorkerFailed, or Ended."""
        if self._process is None or self._loaded is None:
            with self._lock:
                if self._ended:
                    raise Ended
                self._process = Process(self._serve, self._environment)
            self._loaded = self._kind.model_validate_json(self._asked(self._load, LOAD_SECONDS))
        return self._loaded

    def ask(self, command: BaseModel, seconds: float, reply: type[Said]) -> Said:
        """The reply; raises WorkerFailed, or Ended. A process that is lost is gone then."""
        self.load()
        answer = reply.model_validate_json(self._asked(command, seconds))
        if not answer.usable:
            self.drop()
        return answer

    def drop(self) -> None:
        """Ends the process; the next question gets a new one."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def end(self) -> None:
        """Ends the process, whatever it is doing, for good."""
        with self._lock:
            self._ended = True
        self.drop()

    def _asked(self, command: BaseModel, seconds: float) -> str:
        process = self._process
        try:
            if process is None:
                raise Ended
            return process.ask(command, seconds)
        except Exception as error:
            if self._ended:  # its process and its socket were taken away
                raise Ended from None
            if isinstance(error, WorkerFailed):
                self._process = None
            raise


def run_all(works: Sequence[Callable[[], None]], check: Callable[[], None]) -> None:
    """Each in a thread of its own; returns when all are done, or their hands have ended.

    check: may raise, and is called all the while.
    """

    def run(work: Callable[[], None]) -> None:
        with suppress(Ended):
            work()

    threads = [Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)  # so that a signal is seen to at once
            check()
    check()
