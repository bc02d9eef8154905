"""A probing process: `-m ring_attn_bench.probe.serve SOCKET PID`, PID being the parent's."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from ring_attn_bench.bench.channel import Channel, Closed
from ring_attn_bench.bench.serve import end_with


def main(socket: Path, parent: int) -> None:
    """Answers until the parent is gone."""
    channel = Channel.connect(socket)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    # not before the parent knows of the process: importing torch can take long, and can fail
    from ring_attn_bench.probe.worker import Worker

    worker = Worker()
    while True:
        try:
            line = channel.receive()
            channel.send(worker.carry_out(line or "").model_dump_json())
        except Closed:
            os._exit(0)  # nothing is left to do, and a broken device could make a tidy exit hang


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
