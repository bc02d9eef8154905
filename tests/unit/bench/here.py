"""A worker group in this process, and somebody who watches a run."""

import torch

from ring_attn_bench.bench.messages import Envelope
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.worker import BenchWorker
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.reply import WorkerFailed


class HereGroup:
    """A worker in this process; as a group of processes of its own would, it can be lost."""

    def __init__(self, fail_at=None):
        self.generation = 0
        self.log = []
        self._place = WorkerPlace(0, 1, torch.device("cpu"), (0,), 1)
        self._worker = BenchWorker(self._place)
        self._fail_at = fail_at

    def ask(self, command, seconds):
        envelope = Envelope.model_validate_json(command)
        command = envelope.command
        self.log.append(command)
        if self._fail_at is not None and self._fail_at(command, self.log):
            self._fail_at = None
            self.generation += 1
            self._worker = BenchWorker(self._place)
            raise WorkerFailed(Status.OOM, "planted", [])
        return [self._worker.execute(envelope)]

    def close(self):
        pass


class Watcher:
    def __init__(self):
        self.records = []

    def case(self, name, contestants):
        pass

    def doing(self, text):
        pass

    def record(self, record):
        self.records.append(record)
