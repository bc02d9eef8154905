"""A rank that dies in the middle of a run: the others stop with an error instead of waiting."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from ring_attn_bench import RingContext
from tests.distributed.pool import Ring, join_group
from tests.distributed.truth import Case, attend
from tests.patience import limit

CASE = Case(3, "zigzag", 64, heads=4, dtype=torch.float32)
STOP_WITHIN = 30.0


def forever(pipe: Connection, rank: int, store: Path) -> None:
    """Calls the ring until it fails, and says when it has begun and why it ended."""
    torch.set_num_threads(1)
    join_group(rank, 3, store)
    ring = Ring(rank, 3, None)
    context = RingContext(timeout=timedelta(seconds=10))
    attend(ring, CASE, context)
    pipe.send("running")
    try:
        while True:
            attend(ring, CASE, context)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
    os._exit(1)  # what torch has left to say to a dead rank is not our question


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_the_other_ranks_stop_with_an_error(tmp_path, how):
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(3):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=forever, args=(theirs, rank, tmp_path / "store"), daemon=True
        )
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        for pipe in pipes:
            assert pipe.poll(limit(60))
            assert pipe.recv() == "running"
        time.sleep(0.5)
        os.kill(processes[1].pid, how)
        deadline = time.monotonic() + limit(STOP_WITHIN)
        for rank in (0, 2):
            assert pipes[rank].poll(max(0.0, deadline - time.monotonic())), f"rank {rank} hangs"
            words = pipes[rank].recv()
            who = rf"RingBroken: rank {rank} of the ring over ranks \[0, 1, 2\]"
            assert re.match(rf"{who} waited for .* in vain", words), words
            processes[rank].join(max(0.1, deadline - time.monotonic()))
            assert processes[rank].exitcode == 1
    finally:
        for process in processes:
            process.kill()
            process.join()
            process.close()
        for pipe in pipes:
            pipe.close()


WITHOUT_A_STORE = """
import os, pathlib, sys, time
from datetime import timedelta
import torch, torch.distributed as dist
from ring_attn_bench import RingContext, zigzag_ring_flash_attn_func
folder, rank, how = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
made, port, wait = folder / "made", folder / "port", timedelta(seconds=20)
if rank == 0:
    store = dist.TCPStore("127.0.0.1", 0, 2, True, wait, wait_for_workers=False)
    made.write_text(str(store.port))
    made.rename(port)
else:
    while not port.exists():
        time.sleep(0.01)
    store = dist.TCPStore("127.0.0.1", int(port.read_text()), 2, False, wait)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=wait)
dist.barrier()
if rank == 0:
    time.sleep(2.0 if how == "while it waits" else 0.0)
    os._exit(0)
time.sleep(0.0 if how == "while it waits" else 1.0)
x = torch.ones(1, 4, 2, 8)
try:
    zigzag_ring_flash_attn_func(x, x, x) if how == "call" else RingContext()
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("how", ["call", "context", "while it waits"])
def test_where_the_process_that_holds_the_store_has_died_a_context_is_ring_broken(tmp_path, how):
    command = [sys.executable, "-c", WITHOUT_A_STORE, str(tmp_path)]
    with subprocess.Popen([*command, "0", how]) as host:
        done = subprocess.run(
            [*command, "1", how], capture_output=True, text=True, timeout=limit(60), check=True
        )
        host.wait()
    assert done.stdout.startswith(
        "RingBroken: rank 1 cannot make the context of a ring over ranks [0, 1]: the process that "
        "holds torch.distributed's store does not answer"
    )
