"""Somebody who asks one process at a time, and replaces it when it is lost."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

from pydantic import BaseModel

from ring_attn_bench.probe.process import Process, ProcessFailed
from ring_attn_bench.tune.messages import Load, Loaded

LOAD_SECONDS = 300.0
"""For a process to come up and import a kernel's package, many of them at a time."""


class Hand:
    """A process that holds the backend. Any thread may end it, and then no other comes."""

    def __init__(self, load: Load, environment: Mapping[str, str]) -> None:
        self._command = load
        self._environment = environment
        self._process: Process | None = None
        self._loaded: Loaded | None = None
        self._lock = Lock()
        self.ended = False

    def load(self) -> Loaded:
        """Sees to a process that holds the backend; raises ProcessFailed."""
        if self._process is not None and self._loaded is not None:
            return self._loaded
        with self._lock:
            if self.ended:
                raise RuntimeError("this hand has been told to end")
            self._process = Process(self._environment, "ring_attn_bench.tune.serve")
        self._loaded = Loaded.model_validate_json(self._asked(self._command, LOAD_SECONDS))
        return self._loaded

    def ask(self, command: BaseModel, seconds: float) -> str:
        """The answer, as JSON; raises ProcessFailed, whose process is then gone."""
        self.load()
        return self._asked(command, seconds)

    def drop(self) -> None:
        """Ends the process; the next question gets a new one."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def end(self) -> None:
        """Ends the process, whatever it is doing, for good."""
        with self._lock:
            self.ended = True
        self.drop()

    def _asked(self, command: BaseModel, seconds: float) -> str:
        assert self._process is not None
        try:
            return self._process.ask(command, seconds)
        except ProcessFailed:
            self._process = None
            raise
