"""What an exception says of what was run."""

import pytest
import torch

from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.after_error import status_of


def test_what_does_not_fit_a_cpus_memory_is_out_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50, dtype=torch.uint8)

    assert status_of(raised.value) is Status.OOM


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("planted"), MemoryError()])
def test_errors_of_memory_are_out_of_memory(error):
    assert status_of(error) is Status.OOM


@pytest.mark.parametrize("error", [RuntimeError("memory"), ValueError("DefaultCPUAllocator: ")])
def test_other_errors_are_errors(error):
    assert status_of(error) is Status.ERROR
