"""Scratch that a stream keeps."""

import gc

import pytest
import torch

from ring_attn_bench.relaunch import scratch


class Driver:
    """Gives out addresses, and notes which it has back."""

    def __init__(self):
        self.asked, self.freed, self.is_full = [], [], False

    def allocate(self, size):
        self.asked.append(size)
        return None if self.is_full else len(self.asked) << 32

    def free(self, address):
        self.freed.append(address)


@pytest.fixture
def driver(monkeypatch):
    found = Driver()
    monkeypatch.setattr(scratch, "_of_streams", {})
    monkeypatch.setattr(scratch, "driver", lambda: found)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return found


def test_launches_of_a_stream_have_one_memory_and_other_streams_another(driver):
    first = scratch.of_stream(0, 7)

    assert scratch.of_stream(0, 7) is first
    others = [scratch.of_stream(0, 8), scratch.of_stream(1, 7)]
    assert len({first.address, *(x.address for x in others)}) == 3
    assert driver.asked == 3 * [4 * scratch.NUMBERS]


def test_what_is_captured_has_none(driver, monkeypatch):
    scratch.of_stream(0, 7)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)

    assert scratch.of_stream(0, 7) is None


def test_of_many_streams_some_are_forgotten_and_their_memory_is_given_back(driver):
    for stream in range(2 * scratch.STREAMS):
        scratch.of_stream(0, stream)
    gc.collect()

    assert len(scratch._of_streams) == scratch.STREAMS
    assert len(driver.freed) == scratch.STREAMS


def test_where_the_driver_has_no_memory_there_is_none_and_later_there_may_be(driver):
    driver.is_full = True
    assert scratch.of_stream(0, 7) is None
    driver.is_full = False
    assert scratch.of_stream(0, 7) is not None


def test_without_a_driver_there_is_none(driver, monkeypatch):
    monkeypatch.setattr(scratch, "driver", lambda: None)

    assert scratch.of_stream(0, 7) is None
