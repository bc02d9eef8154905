"""Backends that take so many tokens and no more, each for its own reason."""

import os
import resource
import signal
from pathlib import Path

import torch
from ring_attn_backends.reference import ReferenceBackend

TOKENS = 60
"""From here on they fail."""
ROOM = 4 * 2**30
"""Bytes that one with little memory may take beside what its process has."""


class LittleMemory(ReferenceBackend):
    """Its process has a limit, and each token takes a part of it."""

    name = "little_memory"

    def __init__(self):
        super().__init__()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))

    def forward(self, q, *arguments):
        torch.empty(q.shape[1] * (ROOM // TOKENS), dtype=torch.uint8)  # never touched
        return super().forward(q, *arguments)


class DiesIfLong(ReferenceBackend):
    name = "dies_if_long"

    def forward(self, q, *arguments):
        if q.shape[1] > TOKENS:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(q, *arguments)
