"""Carries out what the parent asks, in a process that may die of it."""

from __future__ import annotations

import sys
import traceback
from typing import cast

import torch

from ring_attn_bench import registry
from ring_attn_bench.conformance.ask import sentence
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.records.status import Status
from ring_attn_bench.tunable import TunableBackend
from ring_attn_bench.tune.messages import (
    COMMANDS,
    Load,
    Loaded,
    Speed,
    Speeds,
    Time,
    Verified,
    Verify,
)
from ring_attn_bench.tune.timing import time_row
from ring_attn_bench.tune.verify import fault


class Worker:
    """Holds one backend."""

    def __init__(self) -> None:
        self._backend: TunableBackend | None = None
        self._device = ""
        # problems are small, and processes many: threads would only wait for each other
        torch.set_num_threads(1)

    def carry_out(self, line: str) -> Loaded | Verified | Speeds:
        """The answer to a command."""
        match COMMANDS.validate_json(line):
            case Load() as command:
                return self._load(command)
            case Verify() as command:
                return self._verify(command)
            case Time() as command:
                return self._time(command)

    def _load(self, command: Load) -> Loaded:
        try:
            # the parent has seen that its class can be tuned
            backend = cast(TunableBackend, registry.load(command.backend))
            offer, version = backend.offer(), backend.version()
        except BackendUnavailable as error:
            return Loaded(unavailable=error.reason)
        except Exception as error:  # of an adapter that is not what it should be
            return Loaded(unavailable=f"loading it failed with {sentence(error)}")
        self._backend, self._device = backend, command.device if offer.untimed is None else "cpu"
        return Loaded(offer=offer, version=version)

    def _verify(self, command: Verify) -> Verified:
        assert self._backend is not None  # the parent loads it first
        try:
            reason = fault(self._backend, command.subject, self._device)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            reason = sentence(error)
            return Verified(verdict=Status.ERROR, reason=reason, usable=self._device_works())
        verdict = Status.WRONG if reason else Status.OK
        return Verified(verdict=verdict, reason=reason or "", usable=self._device_works())

    def _time(self, command: Time) -> Speeds:
        assert self._backend is not None
        try:
            found = time_row(
                self._backend, command.subjects, command.shape, command.rounds, command.seconds,
                self._device,
            )  # fmt: skip
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            reason = f"when its row was timed, {sentence(error)}"
            lost = Speed(verdict=Status.ERROR, reason=reason)
            return Speeds(speeds=(lost,) * len(command.subjects), usable=self._device_works())
        speeds = (
            Speed(verdict=x.verdict, reason=x.reason)
            if x.verdict is not Status.OK
            else Speed(full=tuple(x.times["full"]), causal=tuple(x.times["causal"]))
            for x in found
        )
        return Speeds(speeds=tuple(speeds), usable=self._device_works())

    def _device_works(self) -> bool:
        """Whether the device still takes work: after an illegal access it never does."""
        if self._device != "cuda":
            return True
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # many processes share the device
        except Exception:
            return False
        return True
