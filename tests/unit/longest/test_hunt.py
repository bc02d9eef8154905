"""A search over workers: what ends an attempt is told apart, and a person may end the search."""

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import registry
from ring_attn_bench.bench.messages import Envelope, Sample
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.suite import Suite
from ring_attn_bench.bench.worker import BenchWorker
from ring_attn_bench.contract.tensors import Sums
from ring_attn_bench.longest.run import Hunt, wanted
from ring_attn_bench.longest.search import Lengths
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.reply import WorkerFailed

RANKS = 2
LENGTHS = Lengths(16, 256, 0.0)


class Here:
    """A worker in this process, which is lost at lengths beyond its own."""

    def __init__(self, status=None, most=10**9):
        self.generation, self.asked = 0, []
        self._status, self._most = status, most
        self._start()

    def _start(self):
        place = WorkerPlace(0, 1, torch.device("cpu"), tuple(range(RANKS)), RANKS)
        self._worker = BenchWorker(place)

    def ask(self, command, seconds):
        envelope = Envelope.model_validate_json(command)
        tokens = int(envelope.about.split("_s")[1].split("_")[0]) // RANKS
        if isinstance(envelope.command, Sample):
            self.asked.append(tokens)
            if tokens > self._most:
                self.generation += 1
                self._start()
                raise WorkerFailed(self._status, "planted")
        return [self._worker.execute(envelope)]

    def close(self):
        pass


class Silent:
    def trying(self, entry, direction, tokens):
        pass


def limit(monkeypatch, group, kind=ReferenceBackend, direction="forward"):
    table = {
        "name": "long",
        "grid": [
            {
                "backends": ["reference"], "seqlen_per_gpu": [64], "heads": ["4:2"],
                "head_dim": [8], "dtype": ["float32"], "directions": [direction],
            }
        ],
    }  # fmt: skip
    monkeypatch.setattr(registry, "load", lambda name: kind())
    suite = Suite.model_validate(table)
    (one,) = wanted(suite.entries(RANKS, "loopback"), LENGTHS)
    return Hunt(suite, LENGTHS, {"gpu": None}, lambda entry: group, Silent()).limit(one)


@pytest.mark.parametrize("status", [Status.OOM, Status.TIMEOUT, Status.ERROR])
def test_what_a_worker_died_of_is_the_end_and_the_search_goes_on_between(monkeypatch, status):
    group = Here(status, most=100)
    found = limit(monkeypatch, group)
    assert (found.longest, found.failed_at, found.status) == (96, 112, status)
    assert found.reason == "planted"
    assert group.asked == [16, 32, 64, 128, 96, 112]
    assert found.tried == 6


@pytest.mark.parametrize("direction", [x.value for x in Direction])
def test_where_nothing_fails_the_most_is_found(monkeypatch, direction):
    found = limit(monkeypatch, Here(), direction=direction)
    assert (found.longest, found.failed_at, found.status) == (256, None, Status.OK)


def test_a_refusal_is_no_failure_and_has_its_words(monkeypatch):
    class Refuses(ReferenceBackend):
        def unsupported(self, problem):
            return "too many tokens" if problem.seqlen > RANKS * 50 else None

    found = limit(monkeypatch, Here(), Refuses)
    assert (found.longest, found.status, found.reason) == (
        48, Status.UNSUPPORTED, "too many tokens",
    )  # fmt: skip


def test_a_backward_that_loses_a_part_of_dv_is_wrong(monkeypatch):
    class LosesDv(ReferenceBackend):
        def backward(self, rows, keys, block, score, **options):
            sums = super().backward(rows, keys, block, score, **options)
            kept = 0.5 if keys.k.shape[1] > 50 else 1.0
            return Sums(sums.dq, sums.dk, sums.dv * kept)

    found = limit(monkeypatch, Here(), LosesDv, "backward")
    assert found.status is Status.WRONG
    assert "dv_sums_to_dout" in found.reason
    assert limit(monkeypatch, Here(), LosesDv, "forward").status is Status.OK
