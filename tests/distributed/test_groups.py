"""Rings over parts of the ranks, side by side and one after the other, and how they end."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import ring_attn_bench
from ring_attn_bench import RingContext
from ring_attn_bench.ring.context import context_for
from tests.distributed.pool import RankPool, Ring, join_group
from tests.distributed.truth import Case, attend, faults
from tests.patience import limit

CHECKOUT = Path(__file__).parents[2]
SMALL = Case(2, "zigzag", 6, heads=4, dtype=torch.float32)
LARGE = Case(2, "striped", 40, heads=6, batch=2, form="kvpacked", causal=False, seed=1)


def ring_of(ranks: list[int], rank: int) -> Ring | None:
    """A ring over some ranks, if this is one of them; every rank must ask for it."""
    group = dist.new_group(ranks)
    return Ring(ranks.index(rank), len(ranks), group) if rank in ranks else None


def side_by_side(ring: Ring, calls: list[int], own_contexts: bool) -> list[object]:
    pair = ring.rank // 2
    mine = [ring_of([0, 1], ring.rank), ring_of([2, 3], ring.rank)][pair]
    context = RingContext(mine.group) if own_contexts else None
    return [attend(mine, [SMALL, LARGE][pair], context) for _ in range(calls[pair])]


@pytest.mark.parametrize("own_contexts", [False, True], ids=["cached", "own"])
@pytest.mark.parametrize("calls", [[1, 6], [5, 2]], ids=str)
def test_two_rings_of_two_inside_four_ranks_do_not_mix(ranks, calls, own_contexts):
    answers = ranks.run(side_by_side, calls, own_contexts)
    for pair, case in ((0, SMALL), (1, LARGE)):
        for results in zip(*answers[2 * pair : 2 * pair + 2], strict=True):
            assert faults(case, results) == []


def crossing(ring: Ring) -> list[object]:
    """Every rank is in two rings, as rows and columns of a mesh are."""
    rings = [ring_of(members, ring.rank) for members in ([0, 1], [2, 3], [0, 2], [1, 3])]
    row, column = [mine for mine in rings if mine]
    return [attend(row, SMALL), attend(column, LARGE), attend(row, SMALL)]


def test_a_rank_in_two_rings_gets_both_right(ranks):
    answers = ranks.run(crossing)
    for members, case, call in (
        ((0, 1), SMALL, 0), ((2, 3), SMALL, 2), ((0, 2), LARGE, 1), ((1, 3), LARGE, 1),
    ):  # fmt: skip
        assert faults(case, [answers[rank][call] for rank in members]) == []


def some_ranks(ring: Ring, members: list[int]) -> object:
    mine = ring_of(members, ring.rank)
    return mine and attend(mine, SMALL)


@pytest.mark.parametrize("members", [[1, 3], [0, 3], [1, 2]], ids=str)
def test_a_ring_of_ranks_that_are_not_neighbours_is_right(ranks, members):
    answers = ranks.run(some_ranks, members)
    assert faults(SMALL, [answers[rank] for rank in members]) == []


def unevenly_grouped(ring: Ring) -> object:
    kept = [dist.new_group([0]), dist.new_group([0, 2]), dist.new_group([1])]
    mine = ring_of([0, 1, 2], ring.rank)
    return (attend(mine, Case(3)) if mine else None), len(kept)


def test_ranks_that_belong_to_different_numbers_of_groups_find_each_other(ranks):
    answers = ranks.run(unevenly_grouped)
    assert faults(Case(3), [results for results, _ in answers[:3]]) == []


def made_and_destroyed(ring: Ring) -> list[object]:
    answers = []
    for _ in range(4):
        context = RingContext(ring.group)
        answers.append(attend(ring, SMALL, context))
        dist.destroy_process_group(context.group)
    return answers


def test_contexts_can_be_made_and_destroyed_one_after_the_other(ranks):
    for results in zip(*ranks.run(made_and_destroyed, world_size=2), strict=True):
        assert faults(SMALL, results) == []


def dies_with_its_group(ring: Ring) -> bool:
    mine = ring_of([0, 1], ring.rank)
    if mine is None:
        return True
    attend(mine, SMALL)
    context = weakref.ref(context_for(mine.group))
    alive = context() is not None
    dist.destroy_process_group(mine.group)
    del mine
    gc.collect()
    return alive and context() is None


def test_a_cached_context_dies_with_its_group(ranks):
    assert ranks.run(dies_with_its_group) == [True] * 4


@pytest.fixture
def two_ranks() -> Iterator[RankPool]:
    pool = RankPool(2)
    yield pool
    pool.close()


def twice(ring: Ring, folder: Path) -> list[object]:
    answers, contexts = [], []
    for attempt in range(3):
        answers.append(attend(ring, SMALL))
        contexts.append(weakref.ref(context_for(None)))
        dist.destroy_process_group()
        join_group(ring.rank, ring.world_size, folder / f"store-{attempt}")
    gc.collect()
    assert [context() for context in contexts] == [None] * 3
    return answers


def test_a_new_default_group_gets_a_new_context(two_ranks, tmp_path):
    # the groups that the pool made are gone with the first default group: none is used again
    for results in zip(*two_ranks.run(twice, tmp_path), strict=True):
        assert faults(SMALL, results) == []


PROGRAM = """
import sys, torch, torch.distributed as dist
from ring_attn_bench import ring_flash_attn_func
dist.init_process_group("gloo")
q = torch.randn(1, 8, 2, 8, requires_grad=True)
ring_flash_attn_func(q, q, q, causal=True, backend="aten").sum().backward()
if "leave" not in sys.argv:
    dist.destroy_process_group()
print("done", flush=True)
"""


@pytest.mark.parametrize("ending", ["destroy", "leave"])
def test_a_program_ends_with_exit_code_0(tmp_path, ending):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    package = str(Path(ring_attn_bench.__file__).parents[1])
    assert package == str(CHECKOUT)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(program), ending,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=limit(120))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done") == 2


GATHERED = """
import gc, sys, weakref
import torch
import torch.distributed as dist
from ring_attn_bench import unshard

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
group = weakref.ref(dist.group.WORLD)
gathered = unshard(torch.ones(1, 4, 1, 2, requires_grad=True), "zigzag")
dist.destroy_process_group()
gc.collect()
print(group() is None)
try:
    gathered.sum().backward()
except Exception as error:
    print(type(error).__name__)
"""


def test_what_was_gathered_does_not_keep_its_group(tmp_path):
    """A group that is freed after everything else may take its process along."""
    command = [sys.executable, "-c", GATHERED, str(tmp_path / "store")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=limit(60), cwd=CHECKOUT, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\nNoProcessGroup\n"), done.stderr
