"""One process of a worker group, from inside: what it leaves for its parent, whom it meets.

In the group's folder each process leaves its process id and, if it fails, its reply, so that the
parent knows what to kill and why. What the processes say to each other stays on this machine: they
meet on its loopback interface alone.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ring_attn_bench.workers.reply import MemberReply
from ring_attn_bench.workers.serving import end_with

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

LOOPBACK = "127.0.0.1"


class Member:
    """This process, which torchrun has started."""

    def __init__(self, folder: Path, parent: int) -> None:
        self._folder = folder
        self._rank = os.environ["RANK"]
        (folder / f"{self._rank}.pid").write_text(str(os.getpid()))
        end_with(parent, folder)

    @property
    def is_first(self) -> bool:
        """Whether it is the one that talks to the parent."""
        return self._rank == "0"

    def leave(self, reply: MemberReply) -> None:
        """Where the parent looks for it if the group does not answer."""
        (self._folder / f"{self._rank}.reply").write_text(reply.model_dump_json())

    def meeting_place(self) -> TCPStore:
        """The processes' store. torch's own listens on every interface; this one on loopback."""
        from torch._C._distributed_c10d import TCPStore

        port, processes = self._folder / "port", int(os.environ["WORLD_SIZE"])
        if not self.is_first:
            while not port.exists():  # torchrun ends this process if the first one fails
                time.sleep(0.01)
            return TCPStore(LOOPBACK, int(port.read_text()), processes)
        listener = socket.create_server((LOOPBACK, 0))
        number = listener.getsockname()[1]
        store = TCPStore(
            LOOPBACK, number, processes, is_master=True, wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )  # fmt: skip
        written = self._folder / "port.new"
        written.write_text(str(number))
        written.rename(port)  # whole, or not there
        return store
