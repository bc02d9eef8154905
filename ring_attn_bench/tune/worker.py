"""Carries out what the parent asks, in a process that may die of it."""

from __future__ import annotations

import sys
import traceback
from typing import cast

import torch

from ring_attn_bench import registry
from ring_attn_bench.contract.tunable import TunableBackend
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.records.status import Status
from ring_attn_bench.tune.messages import COMMANDS, Load, Loaded, Speeds, Time, TrialSpeed, Verify
from ring_attn_bench.tune.timing import time_row
from ring_attn_bench.tune.verify import fault
from ring_attn_bench.workers.after_error import device_works, sentence, status_of
from ring_attn_bench.workers.reply import Reply


class TuneWorker:
    """Holds one backend, and verifies and times its trials."""

    def __init__(self) -> None:
        self._backend: TunableBackend | None = None
        self._device = ""
        # problems are small, and processes many: threads would only wait for each other
        torch.set_num_threads(1)

    def carry_out(self, line: str) -> Loaded | Reply | Speeds:
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

    def _verify(self, command: Verify) -> Reply:
        assert self._backend is not None  # the parent loads it first
        try:
            reason = fault(self._backend, command.subject, self._device)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            return self._reply(status_of(error), sentence(error))
        return self._reply(Status.WRONG if reason else Status.OK, reason or "")

    def _reply(self, status: Status, reason: str) -> Reply:
        return Reply(status=status, reason=reason, usable=device_works(self._device))

    def _time(self, command: Time) -> Speeds:
        assert self._backend is not None
        try:
            timed = time_row(
                self._backend, command.subjects, command.shape, command.rounds, command.seconds,
                self._device,
            )  # fmt: skip
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            reason = f"when its row was timed, {sentence(error)}"
            lost = TrialSpeed(status=status_of(error), reason=reason)
            return Speeds(speeds=(lost,) * len(command.subjects), usable=device_works(self._device))
        speeds = (
            TrialSpeed(status=x.status, reason=x.reason)
            if x.status is not Status.OK
            else TrialSpeed(full=tuple(x.times["full"]), causal=tuple(x.times["causal"]))
            for x in timed
        )
        return Speeds(speeds=tuple(speeds), usable=device_works(self._device))
