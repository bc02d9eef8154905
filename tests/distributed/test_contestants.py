"""The harness's contestants are the library's ring with the options that a suite says."""

from __future__ import annotations

from unittest.mock import patch

import torch

from ring_attn_bench.bench import ring_contestant
from ring_attn_bench.bench.memory import kept_bytes
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.prepared import prepare
from ring_attn_bench.bench.ring_contestant import Contexts
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.context import RingContext
from ring_attn_bench.ring.options import RingOptions, resolved

CASE = Case(batch=1, seqlen_total=128, world_size=4, heads_q=4, heads_kv=2, head_dim=32,
            dtype="float32", causal=True)  # fmt: skip
WAYS = (
    RingOptions(),
    RingOptions("p2p", slots=1),
    RingOptions(schedule="gather", slots="auto", gradients="input"),
    RingOptions(schedule="grouped", slots="auto", handshake=True),
    RingOptions(grouping=(2, 1)),
)


def on_a_rank(ring):
    """For each way whether it is right, what was taken, how many handshakes there were."""
    place = WorkerPlace(
        ring.rank, ring.world_size, torch.device("cpu"), (ring.rank,), ring.world_size
    )
    contexts, answers, used = Contexts(place), [], []
    for options in WAYS:
        spec = Contestant(backend="aten", partition="zigzag", options=options)
        request = Prepare(case=CASE, contestant=spec, directions=tuple(Direction), seed=3)
        with patch.object(ring_contestant, "agree", wraps=ring_contestant.agree) as agreed:
            found = prepare(request, place, contexts)
            accuracy = found.judge(Check(invariants=False), 0)[Direction.FORWARD_BACKWARD.value]
        context = contexts.of(spec)
        assert found.contestant.transport is context
        assert context.options == options
        assert context is contexts.of(spec)
        used.append(context.group)
        steps = len(found.contestant.jobs[0].plan.steps)
        answers.append((accuracy.is_right, found.contestant.took, steps, agreed.call_count))
    assert len(set(used)) == len(WAYS)  # a communicator for each
    return answers


def test_contestants_of_all_kinds_of_options_are_right_in_one_worker_group(ranks):
    answers = ranks.run(on_a_rank, limit=60.0)

    assert answers == [answers[0]] * 4
    for options, (right, took, steps, handshakes) in zip(WAYS, answers[0], strict=True):
        chosen = resolved(options, 4)
        assert right
        assert (took.transport, took.schedule) == ("p2p", chosen.schedule)
        assert steps == 1 + (3 if chosen.grouping is None else len(chosen.grouping))
        assert handshakes == (2 if options.handshake else 0)  # of two calls that are judged


def kept_on_a_rank(ring):
    """What `kept_bytes` makes of two readings, and the groups that were made and used for it."""
    place = WorkerPlace(
        ring.rank, ring.world_size, torch.device("cpu"), (ring.rank,), ring.world_size
    )
    spec = Contestant(backend="aten", partition="zigzag", options=RingOptions())
    request = Prepare(case=CASE, contestant=spec, directions=tuple(Direction), seed=3)
    found = prepare(request, place, Contexts(place))
    made, passes = [], []

    def context(options):
        made.append(RingContext(options=options))
        return made[-1]

    def free():
        passes.append(len(made))
        return 1000 - 100 * len(made)

    assert kept_bytes(found, Direction.FORWARD) is None  # a CPU does not say
    with patch.object(ring_contestant, "RingContext", context):
        kept = [kept_bytes(found, direction, free) for direction in Direction]
    closed = [context._closed for context in made]
    right = found.judge(Check(invariants=False), 0)[Direction.FORWARD_BACKWARD].is_right
    return kept, passes, closed, right


def test_what_a_ring_keeps_is_seen_of_one_made_anew_which_is_closed_again(ranks):
    answers = ranks.run(kept_on_a_rank, limit=60.0)

    assert answers == [([100] * 3, [0, 1, 1, 2, 2, 3], [True] * 3, True)] * 4
