"""What `compile cute` compiles: all that calls may ask for, each once."""

from concurrent.futures import Future
from itertools import islice, product
from threading import Event

import pytest
import torch
from ring_attn_backends.cute import ahead, build, table
from ring_attn_backends.cute.arguments import adding_call, dkdv_call, dq_call, forward_call
from ring_attn_backends.cute.gathered import gradients
from ring_attn_backends.cute.gathered import launch as gathered_launch

from ring_attn_bench.contract.tensors import Gathering, Keys, Rows, Running, Sums
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.gathered import gathered
from ring_attn_bench.plan.lower import Chunk
from ring_attn_bench.plan.positions import Band, Range, Span
from ring_attn_bench.plan.problem import Score


def tensors(dim, dtype, rows, keys):
    """q, dout, k and v, of as many columns as the table says."""
    return (
        torch.empty(1, tokens, heads, width, dtype=dtype)
        for tokens, heads in ((rows, 16), (keys, 4))
        for width in (dim, table.TABLE[dim].width_v)
    )


def calls(dim, dtype, softcap, first, rows):
    """A forward and a backward, in which what is not given in q's dtype is float32."""
    q, out_like, k, v = tensors(dim, dtype, rows, 64)
    lse, score = torch.empty(1, 16, rows), Score(0.1, softcap)
    block = Block((Span(0, rows),), (Span(0, 64),), Band())
    wide = torch.float32
    for out in (dtype, wide):
        running = Running(out_like.to(wide), lse, None if out is wide else out_like)
        yield forward_call(q, Keys(k, v), running, block, score, first=first)
        if not first and out is not wide:
            continue
        read, keys = Rows(q, out_like, out_like, lse, lse), Keys(k, v)
        sums = Sums(*(x.to(out) for x in (q, k, v)))
        yield dq_call(read, keys, sums.dq, block, score, first=first)
        for kernel in table.of_keys(dim):
            yield dkdv_call(
                read, keys, sums.dk, sums.dv, block, score, first=first, kernel=kernel
            )  # fmt: skip
        if dim in table.ADDS:
            added = sums._replace(dq=q.to(wide))
            yield adding_call(read, keys, added, block, score, first=first)


def test_every_kernel_that_a_call_asks_for_is_among_them():
    every = set(ahead.builds()) - set(ahead.gathered_builds()) - set(ahead.packed_builds())
    asked = {
        call.build
        for dim, dtype, softcap, first, rows in product(
            table.TABLE, (torch.float16, torch.bfloat16), (0.0, 9.0), (True, False), (100, 16384)
        )
        for call in calls(dim, dtype, softcap, first, rows)
    }

    assert asked == every


def test_what_the_table_has_that_adds_to_dq_is_among_them(monkeypatch):
    every = set(ahead.builds())
    monkeypatch.delitem(table.ADDS, 128)
    more = every - set(ahead.builds())
    monkeypatch.undo()

    # of dtypes and softcaps: to q's dtype, to float32, and added; over gathered keys by two wires
    assert len(more) == 12 + 8
    assert {one.config for one in more} == {table.ADDS[128]}
    kernels = {"backward_adding", "gathered.backward_adding"}
    assert {one.kernel for one in more} == kernels


def test_none_is_there_twice():
    every = list(ahead.builds())

    assert len(every) == len(set(every))


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Which builds were compiled; the compiler leaves an empty file."""
    done = []

    def build_all(builds, folder):
        for one in builds:
            done.append(one)
            (folder / build.name_of(one)).touch()

    monkeypatch.setattr(build, "name_of", lambda one: str(one).replace(" ", "_"))
    monkeypatch.setattr(build, "build_all", build_all)
    return done


def test_all_are_compiled_once_and_then_are_there(compiled, tmp_path):
    first, second = (list(ahead.compile_all(2, tmp_path)) for _ in range(2))

    assert {one.name for one in first} == set(map(str, ahead.builds()))
    assert all(one.seconds is not None for one in first)
    assert all(one.seconds is None for one in second)


def test_whoever_stops_listening_is_not_left_with_all_of_it(monkeypatch, compiled, tmp_path):
    asked, compile_it, cancel = len(list(ahead.builds())), build.build_all, Future.cancel
    given_up, nobody_listens = [], Event()

    def third_takes_long(builds, folder):
        compile_it(builds, folder)
        if len(compiled) == 3:
            nobody_listens.wait(20)

    def told(future):
        given_up.append(future)
        took = cancel(future)
        if len(given_up) == asked:
            nobody_listens.set()
        return took

    monkeypatch.setattr(build, "build_all", third_takes_long)
    monkeypatch.setattr(Future, "cancel", told)
    assert len(list(islice(ahead.compile_all(1, tmp_path), 2))) == 2

    assert len(compiled) <= 3


def test_what_the_compiler_said_of_one_is_raised(monkeypatch, compiled, tmp_path):
    def fails(builds, folder):
        raise BackendUnavailable("cute", "it ended with 1")

    monkeypatch.setattr(build, "build_all", fails)

    with pytest.raises(BackendUnavailable, match="it ended with 1"):
        list(ahead.compile_all(2, tmp_path))


def gathered_calls(dim, dtype, softcap, rows):
    """As rings make them: own gradients in float32, others' in the dtype in which they travel."""
    q, dout, k, v = tensors(dim, dtype, rows, rows)
    lse, score = torch.empty(1, 16, rows), Score(0.1, softcap)
    spans = Span(0, rows), Span(rows, rows)
    parts = [(piece, Chunk(Range(0, rows), span)) for piece, span in enumerate(spans)]
    where = gathered([parts[0][1]], parts, Band(), join=True)
    keys, read = Gathering(Keys(k, v), Keys(k, v)), Rows(q, dout, dout, lse, lse)
    yield gathered_launch.forward_call(q, keys, dout, lse, where, score)
    yield gradients.dq_call(read, keys, q, where, score)
    for away in (dtype, torch.float32):
        own, landed = (Keys(k.to(x), v.to(x)) for x in (torch.float32, away))
        for kernel in table.of_keys(dim):
            yield gradients.dkdv_call(
                read, keys, own, landed, where, score, own_first=True, kernel=kernel
            )  # fmt: skip
        if dim in table.ADDS:
            dq = torch.empty(q.shape)
            yield gradients.adding_call(
                read, keys, dq, own, landed, where, score, own_first=True, part=0
            )  # fmt: skip


def test_kernels_over_gathered_keys_are_among_them():
    every = set(ahead.builds())
    asked = {
        call.build
        for dim, dtype, softcap, rows in product(
            table.TABLE, (torch.float16, torch.bfloat16), (0.0, 9.0), (100, 16384)
        )
        for call in gathered_calls(dim, dtype, softcap, rows)
    }

    assert asked == {build for build in every if build.kernel.startswith("gathered")}
