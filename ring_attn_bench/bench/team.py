"""A worker group, seen from inside: one command on all processes, one reply from each."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from ring_attn_bench.bench.messages import Envelope
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.worker import BenchWorker
from ring_attn_bench.errors import InvalidArgument, MachineLacks, clause
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.after_error import device_works, sentence, status_of
from ring_attn_bench.workers.reply import MemberReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._C._distributed_c10d import Store

IDLE = timedelta(days=1)
"""A group may wait that long for its next command, while other groups are measured."""
AFTER_FAILURE = timedelta(seconds=60)
"""How long a process that failed waits for the others, who may hang because it did."""


@dataclass(frozen=True)
class Team:
    """This process's end. Process 0 has the commands; `carry_out` runs them on all."""

    place: WorkerPlace
    worker: BenchWorker
    control: dist.ProcessGroup
    on_failure: Callable[[MemberReply], None]

    @classmethod
    def join(
        cls,
        world_size: int,
        on_failure: Callable[[MemberReply], None],
        store: Store | None = None,
        run: int | None = None,
    ) -> Team:
        """Connects the processes that torchrun started.

        world_size: ranks of the ring; more than the processes only where there is one of them.
        on_failure: called at once in a process that fails, whatever becomes of the others.
        store: where they find each other; None is torchrun's.
        run: the process whose children are this run's; None is torchrun.

        Raises MachineLacks for more processes than GPUs, InvalidArgument if they do not meet.
        """
        cuda = torch.cuda.is_available()
        if cuda:
            device, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if device >= gpus:
                raise MachineLacks(
                    f"torchrun started at least {device + 1} processes here, and this machine has "
                    f"{gpus} GPUs; start at most that many (--nproc-per-node={gpus})."
                )
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            try:
                dist.init_process_group(
                    "cpu:gloo,cuda:nccl" if cuda else "gloo",
                    store=store,
                    rank=int(os.environ["RANK"]) if store else -1,
                    world_size=int(os.environ["WORLD_SIZE"]) if store else -1,
                )
            except (RuntimeError, ValueError) as error:
                raise _apart(error) from error
        control = dist.new_group(backend="gloo", timeout=IDLE)
        place = WorkerPlace.here(world_size)
        return cls(place, BenchWorker(place, run), control, on_failure)

    def carry_out(self, line: str | None) -> list[MemberReply]:
        """The replies of all processes, on all of them. Only process 0's line counts."""
        reply = self._attempt(self._from_first(line))
        self._await_others(failed=reply.status is not Status.OK)
        replies = self._gathered(_letters(reply.model_dump_json()))
        return [MemberReply.model_validate_json(_text(letters)) for letters in replies]

    def leave(self) -> None:
        """Disconnects the processes."""
        dist.destroy_process_group()

    def _from_first(self, line: str | None) -> str:
        letters = _letters(line or "")
        size = torch.tensor([len(letters)], device="cpu")
        dist.broadcast(size, src=0, group=self.control)
        if self.place.process != 0:
            letters = torch.empty(int(size), dtype=torch.uint8, device="cpu")
        dist.broadcast(letters, src=0, group=self.control)
        return _text(letters)

    def _gathered(self, letters: Tensor) -> list[Tensor]:
        """Every process's, which are of different lengths."""
        sizes = [
            torch.zeros(1, dtype=torch.long, device="cpu") for _ in range(self.place.processes)
        ]
        dist.all_gather(sizes, torch.tensor([len(letters)], device="cpu"), group=self.control)
        padded = letters.new_zeros(int(max(sizes)))
        padded[: len(letters)] = letters
        texts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(texts, padded, group=self.control)
        return [text[: int(size)] for text, size in zip(texts, sizes, strict=True)]

    def _attempt(self, line: str) -> MemberReply:
        try:
            return MemberReply(facts=self.worker.execute(Envelope.model_validate_json(line)))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            reply = MemberReply(
                status=status_of(error),
                reason=sentence(error),
                usable=device_works(self.place.device.type),
            )
            self.on_failure(reply)
            return reply

    def _await_others(self, *, failed: bool) -> None:
        """Waits until all processes have replied; one that failed ends if they never do."""
        flag = torch.zeros(1, device="cpu")
        work = dist.all_reduce(flag, group=self.control, async_op=True)
        assert work is not None  # async_op
        try:
            work.wait(AFTER_FAILURE if failed else IDLE)
        except RuntimeError:
            sys.stderr.write("the other processes did not answer; this one ends.\n")
            sys.stderr.flush()
            os._exit(1)  # a normal exit would wait for them


def _apart(error: Exception) -> InvalidArgument:
    """Of processes that have not found each other, by torch's words."""
    where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    words = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
    return InvalidArgument(
        f"the {os.environ.get('WORLD_SIZE')} processes that torchrun started do not meet at "
        f"{where} (MASTER_ADDR, MASTER_PORT): start all of them, with one torchrun on each "
        f"machine. torch says: {clause(words)}."
    )


# as tensors, because torch sends objects as pickles, which run whatever is in them
def _letters(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")


def _text(letters: Tensor) -> str:
    return bytes(letters.tolist()).decode()
