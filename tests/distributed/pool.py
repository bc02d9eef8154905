"""Rank processes that stay alive between tests: importing torch takes seconds, a call does not.

A test sends a function by its name, `module:function`, with picklable arguments. Every rank calls
it with its `Ring` first, and the test gets back what each rank returned or raised.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist

from tests.patience import limit as patient

START_LIMIT = 120.0
CALL_LIMIT = 30.0
"""Seconds of a quiet machine."""


@dataclass(frozen=True)
class Ring:
    """Which rank a function runs on, and the group of all ranks that were called (None: all)."""

    rank: int
    world_size: int
    group: dist.ProcessGroup | None


@dataclass(frozen=True)
class Raised:
    """An exception of one rank: the names of its class and of the class's bases, and its text."""

    kinds: tuple[str, ...]
    text: str
    traceback: str


class RankFailure(Exception):
    """Ranks that raised where nothing should have, or that did not answer in time."""


class RankPool:
    """`size` processes in one group; the first call starts them, a late answer ends them.

    backend: what carries their messages: gloo, or nccl with a GPU for each.
    """

    def __init__(self, size: int, backend: str = "gloo") -> None:
        self.size = size
        self.backend = backend
        self._ranks: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []

    def run(
        self,
        function: Callable[..., object],
        *arguments: object,
        world_size: int | None = None,
        limit: float = CALL_LIMIT,
    ) -> list[object]:
        """What the first `world_size` ranks return, by rank; raises if any of them raised."""
        answers = self.outcomes(function, *arguments, world_size=world_size, limit=limit)
        tracebacks = [
            f"rank {rank}:\n{answer.traceback}"
            for rank, answer in enumerate(answers)
            if isinstance(answer, Raised)
        ]
        if tracebacks:
            raise RankFailure("\n".join(tracebacks))
        return answers

    def outcomes(
        self,
        function: Callable[..., object],
        *arguments: object,
        world_size: int | None = None,
        limit: float = CALL_LIMIT,
    ) -> list[object | Raised]:
        """What each of the first `world_size` ranks returns, or what it raised."""
        if not self._ranks:
            self._start()
        limit = patient(limit)
        request = (f"{function.__module__}:{function.__qualname__}", world_size or self.size, limit)
        body = pickle.dumps((*request, pickle.dumps(arguments)))
        called = [pipe for _, pipe in self._ranks[: world_size or self.size]]
        for pipe in called:
            pipe.send_bytes(body)
        return self._answers(called, limit, request[0])

    def close(self) -> None:
        """Ends the processes, gently if they answer."""
        for _, pipe in self._ranks:
            pipe.close()  # they read the end of their requests
        for process, _ in self._ranks:
            process.join(10)
        self._end()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = TemporaryDirectory(prefix="ranks-")
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            place = rank, self.size, self._folder.name, self.backend
            process = context.Process(target=serve, args=(theirs, *place), daemon=True)
            process.start()
            theirs.close()
            self._ranks.append((process, ours))
        self._answers([pipe for _, pipe in self._ranks], patient(START_LIMIT), "the start")

    def _answers(self, pipes: list[Connection], limit: float, what: str) -> list[object]:
        answers: dict[int, object] = {}
        deadline = time.monotonic() + limit
        while len(answers) < len(pipes):
            waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in answers]
            ready = wait(waiting, max(0.0, deadline - time.monotonic()))
            if not ready:
                self._give_up(answers, f"did not answer within {limit:g} s", what, len(pipes))
            for pipe in ready:
                try:
                    answers[pipes.index(pipe)] = pickle.loads(pipe.recv_bytes())
                except EOFError:
                    self._give_up(answers, "died", what, len(pipes))
        return [answers[rank] for rank in range(len(pipes))]

    def _give_up(self, answers: dict[int, object], why: str, what: str, asked: int) -> None:
        silent = [rank for rank in range(asked) if rank not in answers]
        stacks = [
            f"rank {rank}:\n{log.read_text()}"
            for rank in silent
            if (log := Path(self._folder.name, f"stack-{rank}")).exists()
        ]
        raised = [f"rank {r}: {a.text}" for r, a in answers.items() if isinstance(a, Raised)]
        self._end()
        raise RankFailure("\n".join([f"ranks {silent} {why} in {what}.", *raised, *stacks]))

    def _end(self) -> None:
        if not self._ranks:
            return
        for process, pipe in self._ranks:
            process.kill()
            process.join()
            process.close()
            pipe.close()
        self._ranks.clear()
        self._folder.cleanup()


def serve(pipe: Connection, rank: int, size: int, folder: str, backend: str) -> None:
    """A rank's life: joins the group, then answers requests until there are no more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    on_gpus = backend == "nccl"  # there, other people's code may warn of what it likes
    warnings.simplefilter("default" if on_gpus else "error")  # a user may have said so too
    # torch 2.11's own, of the first compilation
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
    torch.set_num_threads(1)
    if on_gpus:
        torch.cuda.set_device(rank)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a group of gloo's is one of CPUs here
    join_group(rank, size, Path(folder, "store"), backend=backend)
    rings = {size: Ring(rank, size, None)}
    for smaller in range(1, size):
        group = dist.new_group(list(range(smaller)))
        rings[smaller] = Ring(rank, smaller, group)
    pipe.send_bytes(pickle.dumps("ready"))
    for body in _requests(pipe):
        name, world_size, limit, arguments = pickle.loads(body)
        with Path(folder, f"stack-{rank}").open("w") as log:
            faulthandler.dump_traceback_later(0.9 * limit, file=log)  # where it hangs, if it does
            answer = _answer(name, rings[world_size], arguments)
            faulthandler.cancel_dump_traceback_later()
        pipe.send_bytes(answer)
    if dist.is_initialized():
        dist.destroy_process_group()


def join_group(
    rank: int, size: int, store: Path, seconds: float = 60.0, backend: str = "gloo"
) -> None:
    """Makes the default group; ranks meet in the file `store`."""
    dist.init_process_group(
        backend,
        store=dist.FileStore(str(store), size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=seconds),
    )


def _answer(name: str, ring: Ring, arguments: bytes) -> bytes:
    module, _, function = name.partition(":")
    try:
        call = getattr(import_module(module), function)
        return pickle.dumps(call(ring, *pickle.loads(arguments)))
    except Exception as error:
        kinds = tuple(kind.__name__ for kind in type(error).__mro__)
        return pickle.dumps(Raised(kinds, str(error), traceback.format_exc()))


def _requests(pipe: Connection) -> Iterator[bytes]:
    with suppress(EOFError, ConnectionResetError):
        while True:
            yield pipe.recv_bytes()


def _end_with_parent() -> None:
    """Even in the middle of a collective that nobody will ever answer."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
