"""A probing process: `-m ring_attn_bench.probe.serve SOCKET PID`, PID being the parent's."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from ring_attn_bench.bench.channel import Channel, Closed
from ring_attn_bench.bench.serve import end, end_with


def answer(socket: Path, parent: int, worker: Callable[[], Callable[[str], BaseModel]]) -> None:
    """Answers until the parent is gone. worker: makes what answers a line."""
    channel = Channel.connect(socket)
    threading.Thread(target=end_with, args=(parent, socket.parent), daemon=True).start()
    # not before the parent knows of the process: importing torch can take long, and can fail
    carry_out = worker()
    while True:
        try:
            line = channel.receive()
            channel.send(carry_out(line or "").model_dump_json())
        except Closed:
            end(socket.parent)  # the parent kills before it hangs up: it is gone


def _worker() -> Callable[[str], BaseModel]:
    from ring_attn_bench.probe.worker import Worker

    return Worker().carry_out


if __name__ == "__main__":
    answer(Path(sys.argv[1]), int(sys.argv[2]), _worker)
