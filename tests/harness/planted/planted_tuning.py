"""A backend with configurations to tune: right ones, a slow one, and some that fail."""

import os
import time

import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.contract.tunable import Offer, Trial

TIMED = 96
"""Tokens of what the tests time: what is verified is longer."""
CONFIGS = ("shipped", "quick", "wrong", "unwritten", "raises", "hangs", "dies")
KERNELS = ("forward", "backward_dq", "backward_dkdv")


class Planted(ReferenceBackend):
    """What each configuration does is its name; `shipped` takes 20 ms more than `quick`."""

    name = "tunable"

    def offer(self):
        def trial(kernel, table, config):
            return Trial(kernel, table, 16, ("float32", "float64"), config, config == "shipped")

        return Offer(
            (
                *(trial("forward", "one", config) for config in CONFIGS),
                *(trial(kernel, "two", "shipped") for kernel in KERNELS),
                trial("forward", "three", "shipped"),
                trial("forward", "three", "dies when timed"),
            ),
            left_out=("the table four is left out: planted",),
        )

    def trial_launch(self, trial, tensors, block, score, *, add):
        def launch():
            fail(trial.config, block.row_count == TIMED)
            if trial.config == "unwritten" and block.row_count != block.key_count:
                return
            compute(self, trial, tensors, block, score, add)
            if trial.config == "wrong":
                tensors.rows.out.mul_(1.01)

        return launch


def fail(config, timed):
    if config == "raises":
        raise RuntimeError("planted: out of resource")
    if config == "hangs":
        time.sleep(1000)
    if config == "dies" or (config == "dies when timed" and timed):
        os.abort()
    if config == "shipped" and timed:
        time.sleep(0.02)


def compute(backend, trial, x, block, score, add):
    rows = x.rows
    if trial.kernel == "forward":
        out, lse = backend.forward(rows.q, x.keys, block, score)
        if add:
            both = torch.logaddexp(rows.lse, lse)
            before, now = (torch.exp(y - both).transpose(1, 2)[..., None] for y in (rows.lse, lse))
            out, lse = rows.out * before + out * now, both
        rows.out.copy_(out)
        rows.lse.copy_(lse)
        return
    found = backend.backward(rows, x.keys, block, score, deterministic=False)
    wanted = {"backward_dq": ("dq",), "backward_dkdv": ("dk", "dv")}[trial.kernel]
    for name, value in found._asdict().items():
        if name in wanted:
            target = getattr(x.sums, name)
            target.copy_(target + value if add else value)
