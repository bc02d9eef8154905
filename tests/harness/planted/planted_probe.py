"""Backends that fail in one feature and nowhere else, and one that cannot even be loaded."""

import ctypes
import math
import os
import sys
import time
from typing import ClassVar

from ring_attn_backends.reference import ReferenceBackend


class IllegalAccess(ReferenceBackend):
    """Writes, or reads, where there is no memory when it is given a window."""

    name = "illegal_access"

    def forward(self, q, keys, block, score):
        if block.band.high is not None:
            sys.stderr.write("planted: what a crash leaves behind\n")
            sys.stderr.flush()
            if not q.is_cuda:
                ctypes.string_at(1)
            from planted_kernel import write_far_away

            write_far_away(q)
        return super().forward(q, keys, block, score)


class HangOnSoftcap(ReferenceBackend):
    """Never answers when there is a softcap."""

    name = "hang_on_softcap"

    def forward(self, q, keys, block, score):
        if score.softcap:
            time.sleep(1000)
        return super().forward(q, keys, block, score)


class Log2Lse(ReferenceBackend):
    """Its lse is a logarithm of base 2; and it needs a variable that it is not born with."""

    name = "log2_lse"
    worker_environment: ClassVar = {
        "cpu": {"PLANTED_VARIABLE": "yes"},
        "cuda": {"PLANTED_VARIABLE": "yes"},
    }

    def forward(self, *arguments):
        assert os.environ["PLANTED_VARIABLE"] == "yes"
        out, lse = super().forward(*arguments)
        return out, lse / math.log(2)


class CrashOnLoad(ReferenceBackend):
    """Ends the process that makes it."""

    name = "crash_on_load"

    def __init__(self):
        os.abort()
