"""A speed is on record only where the results were right before it was taken and after."""

import pytest
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import registry
from ring_attn_bench.bench.messages import Judge, Prepare, Sample, Subject
from ring_attn_bench.bench.suite import Suite
from ring_attn_bench.bench.suite_run import SuiteRun
from ring_attn_bench.contract.tensors import Sums
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Record
from ring_attn_bench.records.status import Status
from tests.unit.bench.here import HereGroup, Watcher

RIGHT_CALLS = 6


class RightForSixCalls(ReferenceBackend):
    """Is 5 % off from its seventh call on."""

    calls = 0

    def _counted(self):
        self.calls += 1
        return 1.05 if self.calls > RIGHT_CALLS else 1.0

    def forward(self, *arguments):
        out, lse = super().forward(*arguments)
        return out * self._counted(), lse

    def backward(self, *arguments, **options):
        scale = self._counted()
        return Sums(*(x * scale for x in super().backward(*arguments, **options)))


class RightOnInputsItKnows(ReferenceBackend):
    """Answers what it answered to the first queries of that shape, whatever they are now."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def forward(self, q, keys, block, score):
        key = q.shape, block
        if key not in self.known:
            self.known[key] = super().forward(q, keys, block, score)
        return self.known[key]


class RightInMemoryItKnows(RightOnInputsItKnows):
    """Answers what it answered to queries and keys that lay there, whatever lies there now."""

    def forward(self, q, keys, block, score):
        key = q.data_ptr(), keys.k.data_ptr(), q.shape, block
        if key not in self.known:
            self.known[key] = (q, *ReferenceBackend.forward(self, q, keys, block, score))
        return self.known[key][1:]


def run(monkeypatch, kind, group, directions=("forward", "backward"), **timing):
    table = {
        # the invariants would find these faults before anything is timed
        "name": "later", "check": {"invariants": False},
        "timing": {"min_samples": 6, "max_samples": 6, "warmup": 1, **timing},
        "grid": [
            {
                "backends": ["reference"], "seqlen_per_gpu": [16], "heads": ["2:1"],
                "head_dim": [8], "dtype": ["float32"], "directions": list(directions),
            }
        ],
    }  # fmt: skip
    monkeypatch.setattr(registry, "load", lambda name: kind())
    suite, watcher = Suite.model_validate(table), Watcher()

    def make(*, entry, **fields):
        return Record(run="r", suite="s", case=entry.case, contestant=entry.contestant, **fields)

    SuiteRun(suite, suite.entries(1, "loopback"), lambda entry: group, make, watcher).run()
    return {record.direction.value: record for record in watcher.records}


def judged(group):
    return [command for command in group.log if isinstance(command, Judge)]


def test_a_kernel_that_stays_right_has_a_speed_and_was_judged_on_two_inputs(monkeypatch):
    group = HereGroup()

    records = run(monkeypatch, ReferenceBackend, group)

    assert {d: r.status.value for d, r in records.items()} == {"forward": "ok", "backward": "ok"}
    assert all(len(record.speed.samples.ring) == 6 for record in records.values())
    before, after = judged(group)  # one pass for all directions
    assert before.seed != after.seed
    assert isinstance(group.log[group.log.index(after) - 1], Sample)


@pytest.mark.parametrize("kind", [RightForSixCalls, RightOnInputsItKnows, RightInMemoryItKnows])
@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
def test_a_kernel_that_goes_wrong_later_is_wrong_and_has_no_speed(monkeypatch, kind, direction):
    records = run(monkeypatch, kind, HereGroup(), [direction])

    record = records[direction]
    assert record.status is Status.WRONG
    assert record.speed is None
    assert record.reason.startswith(
        "right before it was timed, and wrong afterwards on other inputs: too far from float64: out"
    )
    assert not record.accuracy.is_right


def test_what_is_not_timed_is_judged_once(monkeypatch):
    group = HereGroup()

    run(monkeypatch, ReferenceBackend, group, enabled=False)

    assert len(judged(group)) == 1


def test_a_group_that_is_lost_when_it_is_judged_again_says_when(monkeypatch):
    group = HereGroup(lambda command, log: isinstance(command, Judge) and len(log) > 3)

    records = run(monkeypatch, ReferenceBackend, group)

    assert {r.status for r in records.values()} == {Status.OOM}
    assert {r.reason for r in records.values()} == {
        "when it was judged again after timing: planted"
    }


def test_a_direction_that_was_timed_is_kept_where_another_is_lost(monkeypatch):
    """It is judged again in new processes, which are not asked for what has failed."""

    def other_is_done(command, log):
        if not isinstance(command, Sample):
            return False
        (other,) = {Direction.FORWARD, Direction.BACKWARD} - {command.direction}
        calls = [x.count for x in log if isinstance(x, Sample) and x.direction is other
                 if x.subject is not Subject.TWIN]  # fmt: skip
        return sum(calls) == 12

    group = HereGroup(other_is_done)

    records = run(monkeypatch, ReferenceBackend, group)

    by_status = {record.status: record.direction for record in records.values()}
    assert set(by_status) == {Status.OK, Status.OOM}
    asked = [command.directions for command in group.log if isinstance(command, Prepare)]
    assert asked[1:] == [(by_status[Status.OK],)]
