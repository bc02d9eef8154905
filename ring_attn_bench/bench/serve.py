"""What torchrun starts for a worker group: `-m ring_attn_bench.bench.serve FOLDER WORLD_SIZE PID`.

FOLDER is where the parent listens (`socket`) and where each process leaves its process id and, if
it fails, its outcome, so that the parent knows what to kill and why. PID is the parent's.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

PARENT_CHECK_SECONDS = 1.0


def main(folder: Path, world_size: int, parent: int) -> None:
    """Serves commands until `Quit`, or until the parent is gone."""
    process = os.environ["RANK"]
    (folder / f"{process}.pid").write_text(str(os.getpid()))
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    # not before the process id is known: importing torch can take long, and can fail
    from ring_attn_bench.bench.channel import Channel, Closed
    from ring_attn_bench.bench.messages import Envelope, Outcome
    from ring_attn_bench.bench.team import Team

    def leave(outcome: Outcome) -> None:
        (folder / f"{process}.outcome").write_text(outcome.model_dump_json())

    team = Team.join(world_size, leave)
    channel = Channel.connect(folder / "socket") if process == "0" else None
    while True:
        envelope = None
        if channel is not None:
            try:
                line = channel.receive()
            except Closed:
                os._exit(1)  # the parent is gone, and with it every reason to tidy up
            envelope = Envelope.model_validate_json(line or "")
        outcomes = team.carry_out(envelope)
        if channel is not None:
            channel.send("[" + ",".join(outcome.model_dump_json() for outcome in outcomes) + "]")
        if any(outcome.answer.get("quit") for outcome in outcomes):
            break
    os._exit(0)  # nothing is left to do, and a broken device could make a tidy exit hang


def end_with(parent: int) -> None:
    """Ends this process, whatever it is doing, when the parent is gone without having ended it."""
    while True:
        time.sleep(PARENT_CHECK_SECONDS)
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
