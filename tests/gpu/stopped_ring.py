"""A rank of two, of which rank 1 stops itself in the middle of passes; rank 0 says what it sees.

    python -m tests.gpu.stopped_ring STORE DIRECTION SCHEDULE RANK SIGNAL SECONDS

Rank 0's last line is the error's class, the seconds since its last pass began, and the sentence,
with | between them; it fails where the pass's results are numbers, or where its GPU is of no use.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from ring_attn_bench import RingContext, RingOptions, zigzag_ring_flash_attn_func
from ring_attn_bench.errors import RingBroken

TOKENS = 2048


def main(store: str, direction: str, schedule: str, rank: int, number: int, seconds: float) -> None:
    """Joins, and does some passes before the one that rank 1 is not in."""
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    keeps = direction == "backward of kept keys"
    options = RingOptions("copy_engine", schedule=schedule, keep_keys=keeps)
    context = RingContext(options=options, timeout=timedelta(seconds=seconds))
    q, k, v, dout = (
        torch.randn(1, TOKENS, heads, 128, device="cuda", dtype=torch.bfloat16)
        for heads in (16, 4, 4, 16)
    )
    leaves = [x.requires_grad_() for x in (q, k, v)]

    def forward() -> torch.Tensor:
        return zigzag_ring_flash_attn_func(*leaves, causal=True, context=context, backend="triton")

    for _ in range(3):
        torch.autograd.grad(forward(), leaves, dout)
    torch.cuda.synchronize()
    dist.barrier()
    out = None if direction == "forward" else forward()
    torch.cuda.synchronize()
    if rank == 1:
        os.kill(os.getpid(), number)
    time.sleep(0.5)
    began = time.monotonic()
    results: tuple[torch.Tensor, ...] = ()
    try:
        if out is not None:
            results = torch.autograd.grad(out, leaves, dout)
        else:
            results = (forward().detach(),)
        torch.cuda.synchronize()
        while time.monotonic() < began + 4 * seconds:
            time.sleep(0.05)
            forward()
            torch.cuda.synchronize()
    except RingBroken as error:
        took = time.monotonic() - began
        # dq is right where its keys were kept; what comes from others then are dk and dv
        told = results[1:] if keeps else results[:1]
        assert not any(bool(x.isfinite().all()) for x in told), "its results are numbers"
        square = torch.ones(256, 256, device="cuda")
        assert (square @ square).sum().item() == 256**3
        print(f"RingBroken|{took:.2f}|{error}", flush=True)
        os._exit(0)  # a group with a dead rank cannot be left
    print(f"nothing|{time.monotonic() - began:.2f}|", flush=True)
    os._exit(1)


if __name__ == "__main__":
    _, where, of, by, me, signalled, within = sys.argv
    main(where, of, by, int(me), int(signalled), float(within))
