"""Carries out what the parent asks, in a process that may die of it."""

from __future__ import annotations

import torch

from ring_attn_bench import registry
from ring_attn_bench.conformance.ask import ask
from ring_attn_bench.conformance.features import FEATURES
from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.probe.messages import COMMANDS, Ask, Load, Loaded
from ring_attn_bench.workers.after_error import device_works, sentence
from ring_attn_bench.workers.reply import Reply


class ProbeWorker:
    """Holds one backend, and answers questions about it."""

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self._device = ""
        # cases are small, and processes many: threads would only wait for each other
        torch.set_num_threads(1)

    def carry_out(self, line: str) -> Loaded | Reply:
        """The answer to a command."""
        command = COMMANDS.validate_json(line)
        return self._load(command) if isinstance(command, Load) else self._ask(command)

    def _load(self, command: Load) -> Loaded:
        try:
            needed = registry.backend_class(command.backend).worker_environment
            wanted = dict(needed.get(command.device, {}))
            if wanted != command.environment:
                return Loaded(needs=wanted)
            backend = registry.load(command.backend)
            version = backend.version()
        except BackendUnavailable as error:
            return Loaded(unavailable=error.reason)
        except Exception as error:  # of an adapter that is not what it should be
            return Loaded(unavailable=f"loading it failed with {sentence(error)}")
        self._backend, self._device = backend, command.device
        return Loaded(version=version)

    def _ask(self, command: Ask) -> Reply:
        assert self._backend is not None  # the parent loads it first
        feature = FEATURES[command.feature]
        answer = ask(self._backend, feature, command.direction, self._device, quick=command.quick)
        usable = device_works(self._device)
        return Reply(status=answer.status, reason=answer.reason, usable=usable)
