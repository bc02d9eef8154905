"""Processes measure what lies between them together, or, where one cannot, not at all."""

from __future__ import annotations

from unittest.mock import patch

import torch

from ring_attn_bench.bench.ceilings import gauge
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.timing import Timer


def _place(ring):
    return WorkerPlace(
        ring.rank, ring.world_size, torch.device("cpu"), (ring.rank,), ring.world_size
    )


def measured(ring):
    place = _place(ring)
    return gauge(place, Timer(place), ("float32",)).model_dump()


def with_one_full(ring):
    place, empty = _place(ring), torch.empty

    def full(*sizes, **options):
        if ring.rank == 1 and sizes[0] > 10**6:
            raise torch.OutOfMemoryError
        return empty(*sizes, **options)

    with patch.object(torch, "empty", full):
        return gauge(place, Timer(place), ("float32",)).model_dump()


def test_every_process_has_its_own_rates_and_that_of_its_link(ranks):
    for found in ranks.run(measured):
        assert found["matmul_tflops"]["float32"] > 0
        assert found["copy_gbs"] > 0
        assert found["messages_gbs"] > 0
        assert found["sent_bytes"] == 2**23
        assert found["pulls_gbs"] is None
        assert found["unmeasured"] == ""


def test_where_one_has_too_little_memory_all_say_so_and_none_waits(ranks):
    for found in ranks.run(with_one_full):
        assert found["unmeasured"] == "a process has no 64 MiB to measure with"
        assert found["copy_gbs"] is None
