"""Backends that each fail in their own way, as a third party might; found by their entry points."""

import os
import sys
import time

import torch
import torch.distributed as dist
from ring_attn_backends.reference import ReferenceBackend


class Crash(ReferenceBackend):
    """Ends its process at once."""

    name = "crash"

    def forward(self, *arguments):
        os.abort()


class Leave(ReferenceBackend):
    """Ends its process as if all were well."""

    name = "leave"

    def forward(self, *arguments):
        sys.exit(0)


class LeaveAtOnce(ReferenceBackend):
    """The same, and nothing is tidied up."""

    name = "leave_at_once"

    def forward(self, *arguments):
        os._exit(0)


class Hang(ReferenceBackend):
    """Never answers."""

    name = "hang"

    def forward(self, *arguments):
        time.sleep(1000)


class RaiseOnOneRank(ReferenceBackend):
    """Raises on rank 1 while rank 0 waits for it."""

    name = "raise_on_one_rank"

    def forward(self, *arguments):
        if dist.get_rank() == 1:
            raise RuntimeError("planted: rank 1 has had enough")
        return super().forward(*arguments)


class OutOfMemory(ReferenceBackend):
    """Does not fit."""

    name = "out_of_memory"

    def forward(self, *arguments):
        raise torch.OutOfMemoryError("planted: tried to allocate 1 PiB")


class Wrong(ReferenceBackend):
    """Is one percent off."""

    name = "wrong"

    def forward(self, *arguments):
        out, lse = super().forward(*arguments)
        return out * 1.01, lse


class NoBackward(ReferenceBackend):
    """Can only go forward."""

    name = "no_backward"

    def unsupported(self, problem):
        return "it has no backward" if problem.backward else None


class CrashWhenTimed(ReferenceBackend):
    """Is right when it is checked, and ends its process later."""

    name = "crash_when_timed"
    calls = 0

    def forward(self, *arguments):
        self.calls += 1
        if self.calls > 6:
            os.abort()
        return super().forward(*arguments)


class Unstable(ReferenceBackend):
    """Gives other bits on every run."""

    name = "unstable"

    def forward(self, *arguments):
        out, lse = super().forward(*arguments)
        return out + torch.rand(()) * 1e-7, lse
