"""A call that looks like one before it is launched by its addresses alone."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Barrier
from types import SimpleNamespace

import pytest
import torch
from ring_attn_backends import cute
from ring_attn_backends.cute import arguments, kept, launch, serves, table
from ring_attn_backends.cute.signatures import SIGNATURES

from ring_attn_bench.contract.tensors import Keys, Rows, Running, Sums
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Score

SCORE = Score(0.125)
STREAM = 77


class Executor:
    """A compiled launch: what it is handed is read where it lies."""

    def __init__(self, build, seen):
        self.build, self.seen = build, seen

    def run_compiled_program(self, places):
        codes = SIGNATURES[self.build.kernel]._codes()
        kinds = {
            "Q": ctypes.c_uint64, "q": ctypes.c_int64, "i": ctypes.c_int32, "f": ctypes.c_float
        }  # fmt: skip
        read = [
            kinds[code].from_address(place.value).value
            for code, place in zip(codes, places, strict=True)
        ]
        self.seen.append((self.build, read))


@pytest.fixture
def seen(monkeypatch):
    """Launches, and of each all numbers that it is handed."""
    found = []

    @contextmanager
    def device(_):
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)  # what a CPU's tensors say
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=STREAM))
    monkeypatch.setattr(launch, "_executor", lambda build, folder: Executor(build, found))
    monkeypatch.setattr(kept, "_kept", {})
    return found


@pytest.fixture
def calls(monkeypatch):
    """How many calls were looked at."""
    counted = []
    called = arguments._called

    def counting(kernel, *rest):
        counted.append(kernel)
        return called(kernel, *rest)

    monkeypatch.setattr(arguments, "_called", counting)
    return counted


@pytest.fixture
def backend(monkeypatch):
    for lacks in ("lacking", "lacking_gpu"):
        monkeypatch.setattr(serves, lacks, lambda: None)
    return cute.CuteBackend()


def block(rows=40, keys=24):
    return Block((Span(0, rows),), (Span(0, keys),), Band())


def inputs(rows=40, keys=24, dim=64):
    q, k, v = (torch.zeros(1, n, h, dim).half() for n, h in ((rows, 4), (keys, 2), (keys, 2)))
    return q, Keys(k, v), Running(torch.zeros_like(q), torch.zeros(1, 4, rows))


def forward(backend, q, keys, running, *, score=SCORE, first=True):
    where = block(q.shape[1], keys.k.shape[1])
    backend.forward_into(q, keys, running, where, score, first=first)
    return q, *keys, running.out, running.result, running.lse


def addresses(tensors):
    return [x.data_ptr() for x in tensors]


def test_other_tensors_that_look_the_same_are_launched_with_their_addresses(backend, seen, calls):
    one, other = (forward(backend, *inputs()) for _ in range(2))

    assert calls == ["forward"]
    assert [read[:6] for _, read in seen] == [addresses(one), addresses(other)]
    assert seen[0][1][6:] == seen[1][1][6:]
    assert seen[0][1][-1] == STREAM


@pytest.mark.parametrize(
    "change",
    ["rows", "strides", "scale", "softcap", "first", "dtype"],
)
def test_whatever_else_changes_is_looked_at_again(backend, seen, calls, change):
    q, keys, running = inputs()
    wide = running._replace(out=running.out.float())
    forward(backend, q, keys, wide, first=False)

    if change == "rows":
        q, _, running = inputs(rows=48)
        wide = running._replace(out=running.out.float())
    if change == "strides":
        q = torch.zeros(1, 4, 40, 64).half().transpose(1, 2)
    if change == "dtype":
        q, keys = q.bfloat16(), Keys(*(x.bfloat16() for x in keys))
    score = {"scale": replace(SCORE, softmax_scale=0.5), "softcap": replace(SCORE, softcap=3.0)}
    forward(backend, q, keys, wide, score=score.get(change, SCORE), first=change == "first")

    assert calls == ["forward", "forward"]
    assert seen[0] != seen[1]


def test_a_backward_is_two_launches_again(backend, seen, calls):
    for _ in range(2):
        q, keys, running = inputs()
        rows = Rows(q, q.clone(), q, running.lse, running.lse.clone())
        sums = Sums(*map(torch.zeros_like, (q, *keys)))
        backend.backward_into(
            rows, keys, sums, block(), SCORE, first=True, first_keys=True, deterministic=True
        )
        read = addresses((q, *keys, rows.dout, rows.lse, rows.delta))
        assert seen[-2][1][:7] == [*read, sums.dq.data_ptr()]
        assert seen[-1][1][:8] == [*read, sums.dk.data_ptr(), sums.dv.data_ptr()]

    assert calls == ["backward_dq", "backward_dkdv"]


def test_a_backward_that_adds_to_dq_zeroes_and_rounds_it_again(backend, seen, calls, monkeypatch):
    monkeypatch.setattr(table, "TURNS_UNLIKE", 0)
    monkeypatch.setattr(table, "TURNS_ALIKE", 0)
    for dtype in (torch.float16, torch.float32) * 2:
        q, keys, running = inputs()
        rows = Rows(q, q.clone(), q, running.lse, running.lse.clone())
        sums = Sums(*(torch.full_like(x, 7.0, dtype=dtype) for x in (q, *keys)))
        backend.backward_into(
            rows, keys, sums, block(), SCORE, first=True, first_keys=True, deterministic=False
        )
        read, written = (addresses(x) for x in ((q, *keys, rows.dout, rows.lse, rows.delta), sums))
        assert (sums.dq == 0).all()
        assert seen[-1][1][:6] == read
        assert seen[-1][1][7:9] == written[1:]
        assert (seen[-1][1][6] == written[0]) == (dtype is torch.float32)

    assert calls == ["backward_adding"] * 2


def test_what_was_copied_is_copied_again(backend, seen, calls):
    q, keys, running = inputs()
    for _ in range(2):
        forward(backend, q, Keys(keys.k[:, :1].expand(-1, 24, -1, -1), keys.v), running)

    assert calls == ["forward", "forward"]
    assert not kept._kept


def test_what_is_one_tensor_is_told_from_what_are_two(backend, seen):
    q, keys, running = inputs()
    forward(backend, q, Keys(keys.k, keys.k), running)
    forward(backend, q, keys, running)

    assert seen[1][1][1:3] == addresses(keys)


def test_no_more_is_kept_than_a_host_can_hold(backend, seen, monkeypatch):
    monkeypatch.setattr(kept, "KEPT", 3)
    for rows in range(1, 9):
        forward(backend, *inputs(rows=rows))

    assert len(kept._kept) <= 3


def test_threads_hand_over_their_own_addresses(backend, seen):
    forward(backend, *inputs())
    together = Barrier(4)

    def calling(_):
        given = inputs()
        together.wait()
        return [addresses(forward(backend, *given)) for _ in range(50)]

    with ThreadPoolExecutor(4) as threads:
        expected = [x for found in threads.map(calling, range(4)) for x in found]

    assert sorted(read[:6] for _, read in seen[1:]) == sorted(expected)
