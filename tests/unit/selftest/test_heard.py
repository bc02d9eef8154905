"""A fault is named by the right status, results, words and rank, and by nothing less."""

import json
from dataclasses import replace

import pytest

from ring_attn_bench.bench.suite import load
from ring_attn_bench.machine.plug_ins import Inventory
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import (
    Accuracy,
    Case,
    Contestant,
    Record,
    Samples,
    Speed,
    TensorError,
)
from ring_attn_bench.records.status import Status
from ring_attn_bench.ring.options import RingOptions
from ring_attn_bench.selftest import as_json, run, terminal
from ring_attn_bench.selftest.heard import Heard
from ring_attn_bench.selftest.planted import EVERY, FAULTS, Fault, Names
from ring_attn_bench.selftest.suites import plug_in, suites

FAULT = Fault("a fault", "it", "backend", "Sound", Names(wrong=frozenset({"dk"}), words=("dk (",)))
REASON = "too far from float64: dk (max abs 1 of 0.1)"


def record(status=Status.OK, reason="", *, wrong=(), batch=1, times=None):
    def error(name):
        off = 1.0 if name in wrong else 0.0
        return TensorError(max_abs=off, rmse=off, rel_l2=off, bound_max_abs=0.1, bound_rmse=0.1,
                           pytorch_max_abs=0.1, pytorch_rmse=0.1)  # fmt: skip

    speed = None
    if status is Status.OK:
        speed = Speed(samples=Samples(ring=times or [[1.0, 1.0]]), useful_flops=1, devices=2)
    return Record(
        run="r", suite="s", direction=Direction.FORWARD, status=status, reason=reason, speed=speed,
        case=Case(batch=batch, seqlen_total=8, world_size=2, heads_q=1, heads_kv=1, head_dim=8,
                  dtype="float32", causal=True),
        contestant=Contestant(backend="planted", partition="zigzag", options=RingOptions()),
        accuracy=Accuracy(oracle="full", oracle_rows=8, tensors={n: error(n) for n in EVERY}),
    )  # fmt: skip


def test_what_was_said_as_it_had_to_be_is_named():
    found = Heard.of(FAULT, [record(Status.WRONG, REASON, wrong={"dk"})])

    assert found.is_named
    assert found.said == f"wrong: {REASON}"


@pytest.mark.parametrize(
    ("records", "missing"),
    [
        ([], "a record of each case"),
        ([record()], "status wrong"),
        ([record(Status.ERROR, REASON)], "status wrong"),
        ([record(Status.WRONG, REASON, wrong={"dk", "dv"})], "wrong in dk alone"),
        ([record(Status.WRONG, "dv (", wrong={"dk"})], "the words 'dk ('"),
    ],
)
def test_what_was_said_otherwise_is_not_named_and_says_what_is_missing(records, missing):
    found = Heard.of(FAULT, records, "Killed")

    assert not found.is_named
    assert missing in found.missing


def test_a_run_that_died_says_so():
    assert Heard.of(FAULT, [], "the run died").said == "0 of 1 records; the run died"


def test_a_fault_in_some_cases_leaves_the_others_right():
    names = replace(FAULT.names, cases="b2_")
    fault = replace(FAULT, names=names, grid={"batch": (1, 2)})
    spoilt = record(Status.WRONG, REASON, wrong={"dk"}, batch=2)

    assert Heard.of(fault, [record(), spoilt]).is_named
    other = record(Status.WRONG, REASON, wrong={"dk"})
    assert Heard.of(fault, [other, spoilt]).missing[0].startswith("ok in b1_s8")


def test_the_late_rank_has_to_be_the_one_that_sleeps():
    late = replace(FAULT, names=Names(Status.OK, slow_rank=1))

    assert Heard.of(late, [record(times=[[1.0, 9.0]])]).is_named
    for times in ([[9.0, 1.0]], [[1.0, 1.2]]):
        assert not Heard.of(late, [record(times=times)]).is_named


def test_every_fault_is_in_a_suite_that_can_be_read(tmp_path, monkeypatch):
    made = suites(FAULTS, 3)
    assert sorted(x.name for suite in made for x in suite.faults) == sorted(x.name for x in FAULTS)
    plug_in(FAULTS, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    for suite in made:
        path = tmp_path / "suite.toml"
        path.write_text(suite.text)
        entries = load(path).entries(suite.ranks, "real")
        counted = sum(len(entry.directions) for entry in entries)
        assert counted == sum(fault.records for fault in suite.faults)


def test_a_pattern_without_a_fault_is_refused_with_their_names():
    with pytest.raises(run.InvalidArgument, match=r"no fault matches 'nothing'; there are .*hang"):
        run.planted("cpu", ["nothing"])


def test_rings_that_the_gpus_are_too_few_for_are_left_out_with_a_reason(monkeypatch):
    monkeypatch.setattr(run.plug_ins, "ask", lambda: Inventory({"gpu_count": 2}))

    asked = run.planted("cuda")

    assert set(asked.left_out) == {"stale keys", "wrong order of steps"}
    assert {suite.ranks for suite in asked.suites} == {2}


def test_table_and_json_say_the_same():
    found = [
        Heard.of(FAULT, [record()]),
        Heard.of(replace(FAULT, names=Names(Status.OK)), [record()]),
    ]

    text, told = terminal.text(found, {"late": "too few"}, 80), json.loads(as_json.text(found, {}))

    assert "NO" in text
    assert "it should say: status wrong" in " ".join(text.split())
    assert "late is left out: too few." in text
    assert "0 of 1 faults are named, and 1 of 1 controls are right." in text
    assert [line["named"] for line in told["faults"]] == [False, True]
