"""What a context takes over from the group it is given, and what becomes of its copies."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ring_attn_bench import InvalidArgument, RingBroken, RingContext, RingOptions
from ring_attn_bench.ring.carriers import timeout_of
from ring_attn_bench.ring.context import context_for
from tests.distributed.pool import Raised, Ring
from tests.distributed.truth import Case, attend, faults

SMALL = Case(2, "zigzag", 6, heads=4, dtype=torch.float32)
FOUR = Case(4, "zigzag", 6, heads=4, dtype=torch.float32)


def timeouts(ring: Ring) -> list[float]:
    mine = dist.new_group([0, 1, 2, 3], timeout=timedelta(seconds=47))
    contexts = [RingContext(), RingContext(mine), RingContext(mine, timeout=timedelta(seconds=5))]
    for context in contexts:
        assert timeout_of(context.group) == context.timeout
    return [context.timeout.total_seconds() for context in contexts]


def test_a_context_waits_as_long_as_the_group_it_is_given_unless_told_otherwise(ranks):
    # the ranks of the tests join with 60 s, where torch's own default is 30 minutes
    assert ranks.run(timeouts) == [[60.0, 47.0, 5.0]] * 4


def along_a_mesh(ring: Ring) -> list[object]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "cp"))
    own = RingContext(mesh["cp"])
    assert context_for(mesh["cp"]) is context_for(mesh["cp"].get_group())
    assert own.world_size == 2
    assert own.rank == ring.rank % 2
    pair = Ring(own.rank, 2, mesh["cp"])
    return [attend(pair, SMALL, own), attend(pair, SMALL)]


def test_a_mesh_of_one_dim_is_as_good_as_its_group(ranks):
    answers = ranks.run(along_a_mesh)
    for pair in (answers[:2], answers[2:]):
        for results in zip(*pair, strict=True):
            assert faults(SMALL, results) == []


def along_two_dims(ring: Ring, names: tuple[str, ...] | None) -> None:
    RingContext(init_device_mesh("cpu", (2, 2), mesh_dim_names=names))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("dp", "cp"), "has 2 dims ('dp', 'cp'), and a ring runs along one of them; pass that one, "
         "mesh['cp'] for instance"),
        (("a", "b"), "mesh['b']"),
        (None, "has 2 dims, and a ring runs along one of them; pass that one, mesh.get_group(0)"),
    ],
)  # fmt: skip
def test_a_mesh_of_two_dims_is_a_sentence_that_says_which_to_pass(ranks, names, sentence):
    for answer in ranks.outcomes(along_two_dims, names):
        assert isinstance(answer, Raised)
        assert "InvalidArgument" in answer.kinds
        assert sentence in answer.text


def outside_a_mesh(ring: Ring) -> object:
    mesh = DeviceMesh("cpu", [0, 1])
    return attend(Ring(ring.rank, 2, mesh), SMALL)


def test_a_rank_outside_the_mesh_is_told_so_and_the_others_are_right(ranks):
    answers = ranks.outcomes(outside_a_mesh)
    assert faults(SMALL, answers[:2]) == []
    assert all("this rank is not in the process group" in answer.text for answer in answers[2:])


class Layer(torch.nn.Module):
    """A module that keeps its ring."""

    def __init__(self, ring: RingContext) -> None:
        super().__init__()
        self.ring = ring
        self.weight = torch.nn.Parameter(torch.ones(1))


def copied(ring: Ring) -> object:
    layer = Layer(RingContext(ring.group, RingOptions(slots=3)))
    copies = copy.deepcopy(layer), copy.copy(layer)
    assert all(other.ring.group is layer.ring.group for other in copies)
    assert copies[0].weight is not layer.weight
    return attend(ring, SMALL, copies[0].ring)


def test_a_copied_module_shares_the_communicator(ranks):
    assert faults(SMALL, ranks.run(copied, world_size=2)) == []


def saved(ring: Ring, members: list[int] | None) -> bytes:
    """A pickled layer, of this rank's ring."""
    group = None if members is None else dist.new_group(members, timeout=timedelta(seconds=50))
    if members is not None and ring.rank not in members:
        return b""
    file = io.BytesIO()
    torch.save(Layer(RingContext(group, RingOptions(slots=3, gradients="input"))), file)
    return file.getvalue()


def loaded(ring: Ring, states: list[bytes]) -> object:
    """The ring of a rank that has a state; twice unpickled, and made once."""
    if not states[ring.rank]:
        return None
    own = torch.load(io.BytesIO(states[ring.rank]), weights_only=False).ring
    again = pickle.loads(pickle.dumps(own))  # not yet made, and pickled again
    assert again.options == RingOptions(slots=3, gradients="input")
    place = Ring(again.rank, again.world_size, None)
    return attend(place, SMALL, again), again.timeout.total_seconds(), again.transport


@pytest.mark.parametrize(("members", "seconds"), [([1, 3], 50.0), ([2, 1], 50.0)], ids=str)
def test_a_loaded_module_makes_its_ring_over_the_same_ranks_at_its_first_call(
    ranks, members, seconds
):
    states = ranks.run(saved, members)
    answers = ranks.run(loaded, states)
    made = [answers[rank] for rank in sorted(members)]
    assert faults(SMALL, [results for results, *_ in made]) == []
    assert [rest for _, *rest in made] == [[seconds, "p2p"]] * 2


def test_a_loaded_module_of_the_default_group_rings_over_the_default_group_there_is(ranks):
    (state,) = set(ranks.run(saved, None))
    answers = ranks.run(loaded_by_all, state)
    assert answers == [[4, 60.0]] * 4


def loaded_by_all(ring: Ring, state: bytes) -> list[float]:
    context = torch.load(io.BytesIO(state), weights_only=False).ring
    return [context.world_size, context.timeout.total_seconds()]


def elsewhere(ring: Ring, states: list[bytes]) -> object:
    context = torch.load(io.BytesIO(states[1]), weights_only=False).ring
    return context.world_size if ring.rank in (1, 3) else attend(ring, SMALL, context)


def test_a_loaded_module_of_other_ranks_says_so_when_it_is_called(ranks):
    states = ranks.run(saved, [1, 3])
    answers = ranks.outcomes(elsewhere, states)
    assert answers[1::2] == [2, 2]
    for rank in (0, 2):
        assert "InvalidArgument" in answers[rank].kinds
        assert f"a ring of ranks [1, 3], and this is rank {rank}" in answers[rank].text


ALONE = """
import pickle, sys, torch
context = pickle.loads(bytes.fromhex(sys.argv[1]))
print(context.options)
from ring_attn_bench import ring_flash_attn_func
q = torch.ones(1, 4, 2, 8)
try:
    ring_flash_attn_func(q, q, q, context=context)
except Exception as error:
    print(type(error).__name__, error)
"""


def pickled(ring: Ring) -> str:
    return pickle.dumps(RingContext(options=RingOptions(slots=3))).hex()


def test_where_there_is_no_group_it_loads_and_says_what_is_missing_at_its_first_call(ranks):
    state = ranks.run(pickled)[0]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, state],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    options, raised = done.stdout.splitlines()
    assert "slots=3" in options
    assert raised.startswith("NoProcessGroup a ring needs a process group")


def held() -> tuple[int, int, int]:
    """What this process holds: threads, open files, process groups."""
    gc.collect()
    groups = len(dist.distributed_c10d._world.pg_names)
    threads, files = (len(list(Path("/proc/self", kind).iterdir())) for kind in ("task", "fd"))
    return threads, files, groups


def made_and_destroyed(ring: Ring, times: int, by: str) -> bool:
    def once() -> None:
        group = dist.new_group([0, 1, 2, 3])
        if by == "close":
            with RingContext(group) as context:
                attend(Ring(ring.rank, 4, group), FOUR, context)
        else:
            attend(Ring(ring.rank, 4, group), FOUR)
        dist.barrier(group)
        dist.destroy_process_group(group)

    once()
    before = held()
    for _ in range(times):
        once()
    return held() == before


@pytest.mark.parametrize("by", ["close", "the group's end"])
def test_groups_and_contexts_that_come_and_go_leave_nothing(ranks, by):
    assert ranks.run(made_and_destroyed, 12, by) == [True] * 4


def closed(ring: Ring) -> list[str]:
    context = RingContext(dist.new_group([0, 1, 2, 3]))
    context.close()
    context.close()
    texts = []
    every = Ring(ring.rank, 4, None)
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(context))))
    assert again.options == context.options
    again.close()
    uses = (
        lambda: context.world_size, lambda: attend(every, FOUR, context), context.__enter__,
        lambda: copy.copy(context).begin(None), lambda: context.room, lambda: context.arrives,
        lambda: context.reserve(1, 1, torch.float32, torch.device("cpu")),
        lambda: again.world_size, lambda: attend(every, FOUR, again), again.__enter__,
    )  # fmt: skip
    for use in uses:
        try:
            use()
        except InvalidArgument as error:
            texts.append(str(error))
    return texts


def test_a_closed_context_stays_closed_and_says_so(ranks):
    for texts in ranks.run(closed):
        assert len(texts) == 10
        assert all("closed; make another one" in text for text in texts)


def made_by_some(ring: Ring, seconds: float | None) -> tuple[str, float, object]:
    """Rank 1 does not come at first; then all ranks make a context, and call it."""
    text, began = "", time.monotonic()
    group = dist.new_group([0, 1, 2, 3], timeout=timedelta(seconds=3))
    if ring.rank != 1:
        try:
            RingContext(group, timeout=None if seconds is None else timedelta(seconds=seconds))
        except RingBroken as error:
            text = str(error)
    taken = time.monotonic() - began
    dist.barrier()
    return text, taken, attend(ring, FOUR, RingContext(group))


@pytest.mark.parametrize("seconds", [0.5, None])
def test_a_context_that_a_rank_does_not_make_is_a_sentence_within_its_own_timeout(ranks, seconds):
    answers = ranks.run(made_by_some, seconds)
    for text, taken, _ in (answers[0], *answers[2:]):
        assert "waited for rank 1 to make the context of a ring over ranks [0, 1, 2, 3]" in text
        assert f"for {seconds or 3:g} s" in text
        assert taken < 20  # where the tests' default group waits for 60
    assert faults(FOUR, [results for *_, results in answers]) == []


def left_by_an_error(ring: Ring) -> float:
    started = time.monotonic()
    try:
        with RingContext(ring.group) as context:
            if ring.rank == 0:  # nobody sends it
                dist.irecv(torch.empty(4), group=context.group, group_src=1)
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    dist.all_reduce(torch.ones(1))
    return time.monotonic() - started


def test_an_error_leaves_a_context_whose_messages_nobody_answers(ranks):
    assert max(ranks.run(left_by_an_error)) < 30
