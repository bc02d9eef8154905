"""Calls over gathered keys that look like one before are launched by their addresses alone."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ring_attn_backends import cute
from ring_attn_backends.cute import adding, kept, serves, table
from ring_attn_backends.cute.gathered import calls

from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
from ring_attn_bench.plan.gathered import gathered
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.problem import Problem, Score
from tests.unit.backends.test_cute_again import addresses, seen

__all__ = ["seen"]  # a fixture

TOKENS, WORLD, SCORE = 64, 3, Score(0.125)


@pytest.fixture
def looked(monkeypatch):
    """Which calls were made from tensors."""
    found = []
    for name in ("forward_call", "dkdv_call", "dq_call", "adding_call"):
        make = getattr(calls, name)

        def counting(*given, make=make, name=name, **flags):
            found.append(name)
            return make(*given, **flags)

        monkeypatch.setattr(calls, name, counting)
    return found


@pytest.fixture
def backend(monkeypatch):
    for lacks in ("lacking", "lacking_gpu"):
        monkeypatch.setattr(serves, lacks, lambda: None)
    monkeypatch.setattr(kept, "_kept_of_batches", {})
    return cute.CuteBackend()


def where_of(*, of_batch=False):
    shards = [PARTITIONS["zigzag"].spans(rank, WORLD, TOKENS) for rank in (1, 0, 2)]
    parts = [(i, c) for i, s in enumerate(shards) for c in chunks(s, max(0, i - 1) * TOKENS)]
    return gathered(chunks(shards[0]), parts, Band(low=0), join=True, of_batch=of_batch)


def inputs(batch=1, *, waits=True):
    """q and dout, lse and delta, and keys in a row as a ring has them."""
    q, dout = torch.zeros(2, batch, TOKENS, 4, 64).half()
    lse, delta = torch.zeros(2, batch, 4, TOKENS)
    own, landed = (
        Keys(*(torch.zeros(n, batch, 2, 64).half().transpose(0, 1) for _ in "kv"))
        for n in (TOKENS, 2 * TOKENS)
    )
    words = torch.zeros(WORLD, dtype=torch.int32) if waits else None
    return Rows(q, dout, q, lse, delta), Gathering(own, landed, words)


def all_three(backend, rows, keys, where, *, own_first=True):
    """The addresses that each is told, in its order; results of their own are not among them."""
    backend.gathered_forward(rows.q, keys, where, SCORE)
    own, landed = (Keys(*(x.float() for x in pair)) for pair in keys[:2])
    backend.gathered_dkdv(rows, keys, own, landed, where, SCORE, own_first=own_first)
    backend.gathered_dq(rows, keys, where, SCORE)
    read = [*keys.own, *keys.landed]
    return (
        addresses([rows.q, *read]),
        addresses([rows.q, rows.dout, *read, rows.lse, rows.delta, *own, *landed]),
        addresses([rows.q, rows.dout, *read, rows.lse, rows.delta]),
    )


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("waits", [True, False])
def test_other_tensors_that_look_the_same_are_launched_with_their_addresses_and_the_same_tables(
    backend, seen, looked, batch, waits
):
    where = where_of()
    (rows, keys), (others, other_keys) = (inputs(batch, waits=waits) for _ in range(2))
    told = all_three(backend, rows, keys, where)
    again = all_three(backend, others, other_keys, where)

    assert looked == ["forward_call", "dkdv_call", "dq_call"]
    counts = 10, 15, 12
    for i, (expected, number) in enumerate(zip((*told, *again), 2 * counts, strict=True)):
        assert seen[i][1][: len(expected)] == expected
        words = (keys, other_keys)[i // 3].arrived
        if waits:
            assert seen[i][1][number - 1] == words.data_ptr()
    for (_, first), (_, second), number in zip(seen[:3], seen[3:], counts, strict=True):
        assert first[number - 3 : number - waits] == second[number - 3 : number - waits]
        assert first[number:] == second[number:]


def test_gradients_of_others_leave_between_the_two_launches_that_add_and_both_are_kept(
    backend, seen, looked, monkeypatch
):
    monkeypatch.setattr(table, "GATHERED_TURNS", 0)
    where = where_of()
    before = [len(seen)]
    for _ in range(2):
        rows, keys = inputs()
        own, landed = (Keys(*(x.float() for x in pair)) for pair in keys[:2])
        dq = backend.gathered_backward(
            rows, keys, own, landed, where, SCORE, own_first=True,
            leave=lambda: before.append(len(seen)),
        )  # fmt: skip
        assert dq.dtype is rows.q.dtype

    assert looked == ["adding_call", "adding_call"]
    assert before == [0, 1, 3]
    assert len(seen) == 4
    words = keys.arrived.data_ptr()
    assert words in seen[2][1]
    assert words not in seen[3][1], "nothing is waited for twice"


def test_of_few_tiles_the_two_kernels_make_gradients_and_the_others_leave_between_them(
    backend, seen, looked
):
    left, (rows, keys) = [], inputs()
    own, landed = (Keys(*(x.float() for x in pair)) for pair in keys[:2])
    backend.gathered_backward(
        rows, keys, own, landed, where_of(), SCORE, own_first=True,
        leave=lambda: left.append(list(looked)),
    )  # fmt: skip

    assert left == [["dkdv_call"]]
    assert looked == ["dkdv_call", "dq_call"]


def test_a_backward_that_adds_takes_its_sums_of_dq_and_what_they_are_rounded_to(monkeypatch):
    problem = Problem(1, WORLD * TOKENS, 4, 2, 64, 64, "float16", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    gpu = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    where = where_of()

    assert adding.scratch_bytes(problem, where) == 0
    monkeypatch.setattr(table, "GATHERED_TURNS", 0)
    assert adding.scratch_bytes(problem, where) == TOKENS * 4 * 64 * (4 + 2)
    assert adding.scratch_bytes(replace(problem, deterministic=True), where) == 0
    assert adding.scratch_bytes(problem, replace(where, place=object())) == 0


def test_tables_with_room_for_other_batches_are_not_cut_in_two(monkeypatch):
    monkeypatch.setattr(table, "GATHERED_TURNS", 0)
    where, (rows, keys) = where_of(), inputs()

    assert calls.adds(rows, keys, where)
    assert not calls.adds(rows, keys, replace(where, place=object()))


@pytest.mark.parametrize("change", ["where", "own first", "heads apart", "nothing to wait for"])
def test_whatever_else_changes_is_looked_at_again(backend, seen, looked, change):
    where, (rows, keys) = where_of(), inputs()
    all_three(backend, rows, keys, where)
    if change == "where":
        where = where_of()
    if change == "heads apart":
        keys = keys._replace(head_groups=2, arrived=torch.zeros(5, dtype=torch.int32))
    if change == "nothing to wait for":
        keys = keys._replace(arrived=None)
    all_three(backend, rows, keys, where, own_first=change != "own first")

    again = ["dkdv_call"] if change == "own first" else ["forward_call", "dkdv_call", "dq_call"]
    assert looked == ["forward_call", "dkdv_call", "dq_call", *again]


def test_of_one_batch_s_documents_few_are_kept_and_their_tables_go_with_them(
    backend, seen, looked, monkeypatch
):
    monkeypatch.setattr(kept, "KEPT_OF_BATCHES", 4)
    for _ in range(3):
        all_three(backend, *inputs(), where_of(of_batch=True))

    assert not kept._kept
    assert 0 < len(kept._kept_of_batches) <= 4


def test_what_was_copied_is_copied_again(backend, seen, looked):
    where, (_, keys) = where_of(), inputs()
    for _ in range(2):
        wide = torch.zeros(1, TOKENS, 4, 65).half()[..., :64]
        backend.gathered_forward(wide, keys, where, SCORE)

    assert looked == ["forward_call", "forward_call"]
    assert not kept._kept
