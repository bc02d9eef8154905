"""A machine's figures go by the GPU that all ranks have in one host, and by nothing else."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ring_attn_bench.ring import gpus

H200 = "NVIDIA H200"


class Store(dict):
    """In which the processes met: what all but the asking one have said is there."""

    def set(self, key, text):
        self[key] = text.encode()

    def get(self, key):
        return self[key]


def found(monkeypatch, ranks, *, carries="nccl"):
    """What each rank finds, of (host, GPU) by rank."""
    store, group = Store(), SimpleNamespace(group_name="ring")
    for rank, said in enumerate(ranks):
        store.set(f"ring_attn_bench/gpu/ring/{rank}", json.dumps(said))
    monkeypatch.setattr(gpus, "backend_of_device_types", lambda group: {"cuda": carries})
    answers = []
    for rank, (host, gpu) in enumerate(ranks):
        world = SimpleNamespace(get_group_store=lambda: store)
        fake = SimpleNamespace(
            group=SimpleNamespace(WORLD=world),
            get_rank=lambda group, rank=rank: rank,
            get_world_size=lambda group: len(ranks),
        )
        monkeypatch.setattr(gpus, "dist", fake)
        monkeypatch.setattr(gpus, "this_host", lambda host=host: host)
        monkeypatch.setattr(gpus, "_here", lambda gpu=gpu: gpu)
        answers.append(gpus.shared_gpu(group))
    return answers


@pytest.mark.parametrize(
    ("ranks", "name"),
    [
        ([("a", H200)] * 4, H200),
        ([("a", H200)], H200),
        ([("a", H200), ("a", "NVIDIA H100"), ("a", H200)], ""),
        ([("a", H200), ("b", H200)], ""),
        ([("a", H200), ("a", "")], ""),
        ([("", H200), ("", H200)], ""),
        ([("a", "")] * 2, ""),
    ],
)
def test_all_ranks_find_the_same(monkeypatch, ranks, name):
    assert found(monkeypatch, ranks) == [name] * len(ranks)


def test_a_group_that_carries_no_gpu_has_none(monkeypatch):
    assert found(monkeypatch, [("a", H200)] * 2, carries="gloo") == ["", ""]
