"""The Triton backend's steps over a cache, launched again by addresses alone."""

from types import SimpleNamespace

import pytest
import torch
from ring_attn_backends.triton.cached import again
from ring_attn_backends.triton.cached.calls import Passed

STREAM, SCRATCH = 77, 1024


class Launch:
    """A `Relaunch` that only notes what it was given."""

    by_address, scratch = True, SCRATCH

    def __init__(self):
        self.seen = []

    def current_device(self):
        return -1  # a CPU tensor's

    def stream_of(self, device):
        return STREAM

    def at(self, addresses, scratch, stream):
        self.seen.append((addresses, scratch, stream))


@pytest.fixture
def kept(monkeypatch):
    """What a stream keeps; None where it is captured."""
    found = SimpleNamespace(scratch=SimpleNamespace(address=2**20, lock=Lock()))
    monkeypatch.setattr(again, "of_stream", lambda *_: found.scratch)
    return found


class Lock:
    held = False

    def __enter__(self):
        self.held = True

    def __exit__(self, *_):
        self.held = False


def tensors(dim=16):
    return [torch.randn(2, n, 4, dim) for n in (1, 8, 8)] + [torch.zeros(4, dtype=torch.int32)]


def repeated(q, rotated=False, dim_v=16):
    out = torch.empty(2, 1, 4, dim_v)
    known = SimpleNamespace(again=Launch(), used=False, tables=())
    between = torch.empty_like(q) if rotated else None
    return again.Again(known, Passed(out, torch.empty(2, 4, 1), known, between)), known


def test_addresses_come_in_the_order_of_the_launches(kept):
    given = tensors()
    step, known = repeated(given[0])

    out, lse = step(given, wants_lse=True)

    q, k, v, lengths = (x.data_ptr() for x in given)
    wanted = [q, k, v, out.data_ptr(), lse.data_ptr(), lengths]
    assert known.again.seen == [(wanted, 2**20, STREAM)]
    assert known.used


def test_an_lse_that_nobody_wants_lies_behind_the_scratch(kept):
    given = tensors()
    step, known = repeated(given[0])

    _, lse = step(given, wants_lse=False)

    ((addresses, scratch, _),) = known.again.seen
    assert lse is None
    assert addresses[4] == scratch + 4 * SCRATCH


def test_rotated_queries_lie_between_the_results_and_the_rest(kept):
    given = tensors()
    step, known = repeated(given[0], rotated=True)

    step(given, wants_lse=False)

    ((addresses, _, _),) = known.again.seen
    assert len(addresses) == 7
    assert addresses[6] == given[3].data_ptr()
    assert addresses[5] not in [x.data_ptr() for x in given]


def test_where_a_stream_is_captured_or_has_too_little_scratch_is_the_calls_own(kept, monkeypatch):
    given = tensors()
    step, known = repeated(given[0])
    kept.scratch = None
    step(given, wants_lse=False)
    kept.scratch = SimpleNamespace(address=2**20, lock=Lock())
    monkeypatch.setattr(again, "NUMBERS", SCRATCH)  # and lse's eight have no room
    step(given, wants_lse=False)

    assert all(scratch != 2**20 for _, scratch, _ in known.again.seen)


def test_no_other_threads_launches_come_between_those_of_a_step(kept, monkeypatch):
    given = tensors()
    step, known = repeated(given[0])
    held = []
    monkeypatch.setattr(known.again, "at", lambda *_: held.append(kept.scratch.lock.held))

    step(given, wants_lse=False)

    assert held == [True]
    assert not kept.scratch.lock.held


def test_what_lies_elsewhere_or_on_another_device_is_launched_anew(kept):
    q, *others = tensors()
    step, known = repeated(q)
    shifted = torch.empty(q.numel() + 1)[1:].view_as(q).copy_(q)
    assert shifted.data_ptr() % again.ALIGNED

    assert step([shifted, *others], wants_lse=False) is None
    known.again.current_device = lambda: 1
    assert step([q, *others], wants_lse=False) is None
    assert not known.again.seen


@pytest.mark.parametrize("dim_v", [16, 8])
def test_out_is_as_the_first_was(kept, dim_v):
    given = tensors()
    step, _ = repeated(given[0], dim_v=dim_v)

    out, _ = step(given, wants_lse=False)

    assert out.shape == (2, 1, 4, dim_v)
    assert out.is_contiguous()
