"""The schedule on a group that is only pretended: turns, stops, failures, records."""

from collections import Counter

import pytest

from ring_attn_bench.bench.messages import (
    Envelope,
    Gauge,
    Judge,
    Look,
    Measure,
    Prepare,
    Release,
    Sample,
    Subject,
)
from ring_attn_bench.bench.sampling import BATCH
from ring_attn_bench.bench.suite import Suite
from ring_attn_bench.bench.suite_run import SuiteRun
from ring_attn_bench.bench.tracing import Traces
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Record
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.trace import in_folder
from ring_attn_bench.workers.reply import WorkerFailed
from tests.unit.bench.here import Watcher

RIGHT = {
    "max_abs": 1.0, "rmse": 1.0, "rel_l2": 1.0, "bound_max_abs": 2.0, "bound_rmse": 2.0,
    "pytorch_max_abs": 1.0, "pytorch_rmse": 1.0,
}  # fmt: skip
WRONG = RIGHT | {"rmse": 3.0}


class FakeGroup:
    """Two processes that always take 1 and 2 ms; fails on the command numbers it is told to."""

    def __init__(self, *, fail_at=(), refuse=None, error=RIGHT, status=Status.TIMEOUT, traced=True):
        self._traced = traced
        self.generation = 0
        self.log = []
        self._fail_at, self._refuse, self._error = set(fail_at), refuse, error
        self._status = status

    def ask(self, command, seconds):
        envelope = Envelope.model_validate_json(command)
        about, command = envelope.about, envelope.command
        self.log.append((about, command))
        if len(self.log) in self._fail_at:
            self.generation += 1
            raise WorkerFailed(self._status, "planted", ["last words"])
        return [self._answer(about, command, process) for process in range(2)]

    def _answer(self, about, command, process):
        match command:
            case Prepare():
                backward = any(d is not Direction.FORWARD for d in command.directions)
                if self._refuse == "all" or (self._refuse == "backward" and backward):
                    return {"refused": f"no {self._refuse}"}
                self._directions = command.directions
                return {"version": "1", "interpreted": False, "took": None}
            case Judge():
                found = {
                    d.value: {
                        "oracle": "full",
                        "oracle_rows": 8,
                        "tensors": dict.fromkeys(d.tensors, self._error),
                    }
                    for d in self._directions
                }
                return {"accuracy": found, "repeats": True}
            case Measure():
                return {
                    "peak_extra_bytes": 100 + process, "kept_bytes": 7 * process,
                    "useful_flops": 1000,
                    "executed_flops": 1000, "devices": 2, "imbalance": 1.0, "one_gpu_flops": 500,
                }  # fmt: skip
            case Sample():
                if command.subject is Subject.TWIN:
                    return {"milliseconds": None}
                return {"milliseconds": [1.0 + process] * command.count}
            case Gauge():
                return {"gauged": {"matmul_tflops": {"float32": 3.0 - process}, "copy_gbs": 9.0}}
            case Look():
                if not self._traced:
                    return {"looked": None}
                span = {"lane": "launches", "name": "x", "start": 1.0, "end": 2.0}
                return {
                    "looked": {
                        "rank": process, "clock": "a clock", "met": [0.0], "began": 1.0,
                        "ended": 3.0, "spans": [span],
                    }
                }  # fmt: skip
            case Release():
                return {}
        raise AssertionError(command)

    def close(self):
        pass


class LookedAtGroup(FakeGroup):
    """The same on GPUs that say how they are, with kernels of a compiler."""

    def _answer(self, about, command, process):
        facts = super()._answer(about, command, process)
        match command:
            case Measure():
                one = {"registers": 168, "spilled": 0, "shared_bytes": 98304, "warps": 8}
                names = ("a", "b") if process else ("a",)  # not every rank needs all of them
                facts |= {"look": {"sm_mhz": 1980}, "kernels": [{"name": n} | one for n in names]}
            case Sample() if facts["milliseconds"] is not None:
                facts["looks"] = [{"sm_mhz": 1700 + process}, {"sm_mhz": 1900}]
        return facts


def suite(**timing):
    table = {
        "name": "fake",
        "timing": {
            "min_samples": 6, "max_samples": 12, "warmup": 2, "ceilings": False, **timing
        },
        "grid": [
            {
                "backends": ["reference", "aten"], "seqlen_per_gpu": [8], "heads": ["2:1"],
                "head_dim": [8], "dtype": ["float32"],
            }
        ],
    }  # fmt: skip
    return Suite.model_validate(table)


def run(groups, traces=None, **timing):
    wanted, watcher = suite(**timing), Watcher()

    def make(*, entry, **fields):
        return Record(run="r", suite="s", case=entry.case, contestant=entry.contestant, **fields)

    entries = wanted.entries(2, "real")
    SuiteRun(wanted, entries, lambda e: groups[e.contestant.backend], make, watcher, traces).run()
    return watcher.records


def statuses(records):
    return Counter((r.contestant.backend, r.status.value) for r in records)


def test_every_direction_of_every_contestant_gets_one_record_with_all_ranks_samples():
    groups = {"reference": FakeGroup(), "aten": FakeGroup()}

    records = run(groups)

    assert statuses(records) == {("reference", "ok"): 3, ("aten", "ok"): 3}
    for record in records:
        assert record.speed.samples.ring == [[1.0, 2.0]] * len(record.speed.samples.ring)
        assert 6 <= len(record.speed.samples.ring) <= 12
        assert record.speed.samples.twin == []
        assert record.speed.samples.stop == "precise"
        assert record.memory.peak_extra_bytes == [100, 101]
        assert record.memory.kept_bytes == [0, 7]


class PredictingGroup(FakeGroup):
    """The same where plans say what calls take, if this process knows."""

    silent = ()

    def _answer(self, about, command, process):
        facts = super()._answer(about, command, process)
        if isinstance(command, Prepare) and process not in self.silent:
            sizes = {way.value: 90 + process for way in command.directions}
            facts["predicted"] = {"call_bytes": sizes, "with_kernel": process == 0}
        return facts


class HalfPredictingGroup(PredictingGroup):
    silent = (1,)


def test_what_a_call_should_take_is_on_record_with_what_it_took_and_where_it_did_not_fit():
    full = PredictingGroup(fail_at=[3], status=Status.OOM)  # when it is measured
    records = run({"reference": PredictingGroup(), "aten": full})

    assert {r.status for r in records} == {Status.OK, Status.OOM}
    for record in records:
        assert record.predicted.call_bytes == [90, 91]
        assert not record.predicted.with_kernel  # which every rank's kernel has to say
    unknown = run({"reference": HalfPredictingGroup(), "aten": FakeGroup()})
    assert [record.predicted for record in unknown] == [None] * 6


def test_a_record_has_its_gpus_before_at_each_batch_and_after_and_the_kernels_of_all_ranks():
    groups = {"reference": LookedAtGroup(), "aten": FakeGroup()}

    for record in run(groups, min_samples=12):
        if record.contestant.backend == "aten":
            assert record.gpus is None, "there are none on a CPU"
            assert record.kernels == ()
            continue
        batches = -(-len(record.speed.samples.ring) // BATCH)
        clocks = [gpu.sm_mhz for gpu in record.gpus.gpus]
        assert clocks == [(1980, *[1700 + n] * batches, 1900) for n in range(2)]
        assert [kernel.name for kernel in record.kernels] == ["a", "b"]


def test_contestants_of_a_case_take_turns_instead_of_one_after_the_other():
    order = []
    groups = {"reference": FakeGroup(), "aten": FakeGroup()}
    for name, group in groups.items():
        ask = group.ask

        def logged(command, seconds, ask=ask, name=name):
            if isinstance(Envelope.model_validate_json(command).command, Sample):
                order.append(name)
            return ask(command, seconds)

        group.ask = logged

    run(groups)

    first_of_aten, last_of_aten = order.index("aten"), len(order) - order[::-1].index("aten")
    assert "reference" in order[first_of_aten:last_of_aten]


def test_the_first_batch_warms_up_in_full_and_later_ones_once():
    group = FakeGroup()

    run({"reference": group, "aten": FakeGroup()})

    ring = [
        command.warmup
        for _, command in group.log
        if isinstance(command, Sample)
        and command.subject is Subject.RING
        and command.direction is Direction.FORWARD
    ]
    assert ring[0] == 2
    assert set(ring[1:]) == {1}


def test_a_wrong_result_is_never_timed():
    group = FakeGroup(error=WRONG)

    records = run({"reference": group, "aten": FakeGroup()})

    assert statuses(records) == {("reference", "wrong"): 3, ("aten", "ok"): 3}
    assert not any(isinstance(command, Sample) for _, command in group.log)
    wrong = next(r for r in records if r.status is Status.WRONG)
    assert "rmse 3 of 2 allowed" in wrong.reason


def test_a_backend_without_a_backward_still_goes_forward():
    records = run({"reference": FakeGroup(refuse="backward"), "aten": FakeGroup()})

    found = {r.direction.value: r.status.value for r in records if r.contestant.backend != "aten"}
    assert found == {
        "forward": "ok",
        "backward": "unsupported",
        "forward_backward": "unsupported",
    }


def test_a_backend_that_refuses_everything_gets_its_reason_on_each_row():
    records = run({"reference": FakeGroup(refuse="all"), "aten": FakeGroup()})

    refused = [r for r in records if r.contestant.backend == "reference"]
    assert [r.status.value for r in refused] == ["unsupported"] * 3
    assert {r.reason for r in refused} == {"no all"}


@pytest.mark.parametrize("at", [1, 2, 3, 5, 9])
def test_a_group_that_fails_at_any_point_costs_each_row_at_most_once_and_others_nothing(at):
    records = run({"reference": FakeGroup(fail_at=[at]), "aten": FakeGroup()})

    found = statuses(records)
    assert len(records) == 6
    assert found["aten", "ok"] == 3
    assert found["reference", "timeout"] + found["reference", "ok"] == 3
    assert found["reference", "timeout"] >= 1
    lost = next(r for r in records if r.status is Status.TIMEOUT)
    assert lost.stderr == ["last words"]
    assert lost.speed is None


def test_after_a_failure_the_contestants_of_the_same_group_are_prepared_again():
    shared = FakeGroup(fail_at=[8])

    records = run({"reference": shared, "aten": shared})

    prepared = Counter(about for about, command in shared.log if isinstance(command, Prepare))
    assert sorted(prepared.values()) == [1, 2]
    assert {r.status.value for r in records} == {"ok", "timeout"}


def test_without_timing_nothing_is_measured():
    group = FakeGroup()

    records = run({"reference": group, "aten": FakeGroup()}, enabled=False)

    assert {r.status.value for r in records} == {"ok"}
    assert all(r.speed is None for r in records)
    assert not any(isinstance(command, Sample | Measure) for _, command in group.log)


@pytest.mark.parametrize("batches", [1, 6, 12])
def test_what_is_refused_after_a_restart_is_a_row_and_no_crash(batches):
    """Its processes are lost while it is timed, and those that follow do not take it."""

    class Fickle(FakeGroup):
        def ask(self, command, seconds):
            found = super().ask(command, seconds)
            if sum(isinstance(x, Sample) for _, x in self.log) == batches and not self.generation:
                self.generation, self._refuse = 1, "all"
            return found

    records = run({"reference": FakeGroup(), "aten": Fickle()})

    assert statuses(records) == {("reference", "ok"): 3, ("aten", "error"): 3}
    reason = "it was refused when its processes had been started again: no all"
    assert all(r.reason.endswith(reason) for r in records if r.status is Status.ERROR)


def gauged(group):
    return [at for at, (_, command) in enumerate(group.log) if isinstance(command, Gauge)]


def test_ceilings_are_measured_once_before_anything_else_and_are_in_every_timed_record():
    groups = {"reference": FakeGroup(), "aten": FakeGroup()}

    records = run(groups, ceilings=True)

    assert sorted(map(gauged, groups.values())) == [[], [0]]
    assert {record.ceilings.matmul_tflops for record in records} == {(3.0, 2.0)}


def test_ceilings_that_fail_cost_no_row():
    groups = {"reference": FakeGroup(fail_at=[1]), "aten": FakeGroup()}

    records = run(groups, ceilings=True)

    assert statuses(records) == {("reference", "ok"): 3, ("aten", "ok"): 3}
    assert {record.ceilings.unmeasured for record in records} == {"planted"}


def test_without_timing_no_ceilings_are_measured():
    group = FakeGroup()

    records = run({"reference": group, "aten": group}, enabled=False, ceilings=True)

    assert gauged(group) == []
    assert {record.ceilings for record in records} == {None}


def test_each_row_that_was_timed_is_looked_at_once_when_its_record_is_kept(tmp_path):
    groups = {"reference": FakeGroup(), "aten": FakeGroup(traced=False)}

    records = run(groups, Traces(tmp_path, pytest.fail))

    rows = {record.key for record in records if record.contestant.backend == "reference"}
    assert {trace.key for trace in in_folder(tmp_path, pytest.fail)} == rows
    asked = [command for _, command in groups["aten"].log if isinstance(command, Look)]
    assert len(asked) == 3, "none of which has anything to show"


def test_without_traces_nobody_is_looked_at():
    group = FakeGroup()

    run({"reference": group, "aten": FakeGroup()})

    assert not any(isinstance(command, Look) for _, command in group.log)


def test_a_group_that_fails_when_it_is_looked_at_costs_the_trace_and_no_row(tmp_path):
    class Shy(FakeGroup):
        def ask(self, command, seconds):
            if isinstance(Envelope.model_validate_json(command).command, Look):
                self.generation += 1
                raise WorkerFailed(Status.ERROR, "it does not like to be looked at", [])
            return super().ask(command, seconds)

    told = []
    records = run({"reference": Shy(), "aten": FakeGroup()}, Traces(tmp_path, told.append))

    assert statuses(records) == {("reference", "ok"): 3, ("aten", "ok"): 3}
    assert ["be looked at; its times are kept." in line for line in told] == [True] * 3
    assert len(in_folder(tmp_path, pytest.fail)) == 3
