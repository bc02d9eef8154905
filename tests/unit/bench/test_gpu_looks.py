"""A worker looks at its own GPU while it is at the calls, and says why where nothing is seen."""

import os
from types import SimpleNamespace

import pytest
import torch

from ring_attn_bench.bench.gpu_looks import OwnGpu
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.timing import Timer
from ring_attn_bench.machine.gpus import Unseen
from ring_attn_bench.records.gpus import GpuLook

CUDA = torch.device("cuda", 0)


@pytest.fixture
def device(monkeypatch):
    """CUDA's, which has a name by which NVML finds it."""
    properties = SimpleNamespace(uuid="12-34")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return CUDA


class Gpu:
    """Seen by NVML; remembers whose children were looked for."""

    def __init__(self):
        self.found, self.roots = [], []

    def find(self, uuid):
        self.found.append(uuid)
        return self

    def look(self, root):
        self.roots.append(root)
        return GpuLook(sm_mhz=1980, others=0)


def test_a_gpu_is_found_once_and_looked_at_each_time(device):
    gpu = Gpu()
    own = OwnGpu(device, 7, gpu.find)

    assert [own.look(), own.look()] == [{"sm_mhz": 1980, "others": 0}] * 2
    assert (gpu.found, gpu.roots) == (["12-34"], [7, 7])


def test_under_torchrun_children_are_torchruns(device):
    gpu = Gpu()
    OwnGpu(device, None, gpu.find).look()

    assert gpu.roots == [os.getppid()]


def test_why_nothing_is_seen_is_in_every_look(device):
    def find(uuid):
        raise Unseen("nvidia-ml-py is not installed")

    own = OwnGpu(device, 7, find)

    assert [own.look(), own.look()] == [{"unseen": "nvidia-ml-py is not installed"}] * 2


def test_a_cpu_is_not_looked_at():
    assert OwnGpu(torch.device("cpu"), 7, None).look() is None


def test_the_host_looks_when_all_calls_are_enqueued_and_before_it_waits(monkeypatch):
    done = []

    class Event:
        def __init__(self, enable_timing):
            pass

        def record(self):
            done.append("event")

        def elapsed_time(self, other):
            return 1.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("wait"))
    place = WorkerPlace(0, 1, torch.device("cpu"), (0,), 1)
    timer = Timer(place)
    monkeypatch.setattr(timer, "_place", WorkerPlace(0, 1, CUDA, (0,), 1))

    times = timer.sample(lambda: done.append("call"), 2, 1, lambda: done.append("look"))

    assert times == [1.5, 1.5]
    assert done == ["call", *["event", "call", "event"] * 2, "look", "wait"]
