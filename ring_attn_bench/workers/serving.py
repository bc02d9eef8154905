"""What processes that serve do alike: they answer their parent, and end when it is gone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel

from ring_attn_bench.workers.channel import Channel, Closed
from ring_attn_bench.workers.folder import put_away

PARENT_CHECK_SECONDS = 1.0


def serve(words: Sequence[str], worker: Callable[[], Callable[[str], BaseModel]]) -> NoReturn:
    """A whole process. words: its folder and its parent's id. worker: makes what answers a line."""
    folder, parent = Path(words[0]), int(words[1])
    channel = Channel.connect(folder / "socket")
    end_with(parent, folder)
    # not before the parent knows of the process: importing torch can take long, and can fail
    carry_out = worker()
    answer_all(channel, folder, lambda line: carry_out(line).model_dump_json())


def answer_all(channel: Channel, folder: Path, carry_out: Callable[[str], str]) -> NoReturn:
    """Answers each line, until the parent is gone."""
    while True:
        try:
            channel.send(carry_out(channel.receive() or ""))
        except Closed:
            _end(folder)  # the parent kills before it hangs up: it is gone


def end_with(parent: int, folder: Path) -> None:
    """From now on, ends this process when the parent is gone without having ended it."""
    threading.Thread(target=_watch, args=(parent, folder), daemon=True).start()


def _watch(parent: int, folder: Path) -> None:
    while True:
        time.sleep(PARENT_CHECK_SECONDS)
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            _end(folder)


def _end(folder: Path) -> NoReturn:
    """Ends this process, whatever it is doing, and tidies up in its parent's place."""
    put_away(folder)
    os._exit(1)
