"""What torchrun starts for a worker group: `-m ring_attn_bench.bench.serve FOLDER WORLD_SIZE PID`.

FOLDER is where the parent listens (`socket`) and where each process leaves its process id and, if
it fails, its outcome, so that the parent knows what to kill and why. PID is the parent's. What the
processes say to each other stays on this machine: they meet on its loopback interface alone.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

PARENT_CHECK_SECONDS = 1.0
ENDED_BY_PARENT_SECONDS = 3.0
"""After it has hung up: if this process still runs then, there is no parent any more."""
LOOPBACK = "127.0.0.1"


def main(folder: Path, world_size: int, parent: int) -> None:
    """Serves commands until `Quit`, or until the parent is gone."""
    process = os.environ["RANK"]
    (folder / f"{process}.pid").write_text(str(os.getpid()))
    threading.Thread(target=end_with, args=(parent, folder), daemon=True).start()
    # not before the process id is known: importing torch can take long, and can fail
    from ring_attn_bench.bench.channel import Channel, Closed
    from ring_attn_bench.bench.messages import Envelope, Outcome
    from ring_attn_bench.bench.team import Team

    def leave(outcome: Outcome) -> None:
        (folder / f"{process}.outcome").write_text(outcome.model_dump_json())

    team = Team.join(world_size, leave, meeting_place(folder))
    channel = Channel.connect(folder / "socket") if process == "0" else None
    while True:
        envelope = None
        if channel is not None:
            try:
                line = channel.receive()
            except Closed:
                end(folder, ENDED_BY_PARENT_SECONDS)
            envelope = Envelope.model_validate_json(line or "")
        outcomes = team.carry_out(envelope)
        if channel is not None:
            channel.send("[" + ",".join(outcome.model_dump_json() for outcome in outcomes) + "]")
        if any(outcome.answer.get("quit") for outcome in outcomes):
            break
    os._exit(0)  # nothing is left to do, and a broken device could make a tidy exit hang


def meeting_place(folder: Path) -> TCPStore:
    """The processes' store. torch's own listens on every interface; this one on loopback."""
    from torch._C._distributed_c10d import TCPStore

    port, processes = folder / "port", int(os.environ["WORLD_SIZE"])
    if os.environ["RANK"] != "0":
        while not port.exists():  # torchrun ends this process if the first one fails
            time.sleep(0.01)
        return TCPStore(LOOPBACK, int(port.read_text()), processes)
    listener = socket.create_server((LOOPBACK, 0))
    number = listener.getsockname()[1]
    store = TCPStore(
        LOOPBACK, number, processes, is_master=True, wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )  # fmt: skip
    written = folder / "port.new"
    written.write_text(str(number))
    written.rename(port)  # whole, or not there
    return store


def end_with(parent: int, folder: Path) -> None:
    """Ends this process, whatever it is doing, when the parent is gone without having ended it."""
    while True:
        time.sleep(PARENT_CHECK_SECONDS)
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            end(folder)


def end(folder: Path, seconds: float = 0.0) -> NoReturn:
    """Ends this process and, where the parent does not, tidies up in its place.

    seconds: for the parent to end it; until then it needs what is in the folder.
    """
    time.sleep(seconds)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
