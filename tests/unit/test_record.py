"""A record is written at once, reads back as it was, and never claims what was not shown."""

import gzip

import pytest
from pydantic import ValidationError

from ring_attn_bench.bench.record import Case, Direction, Record, Status, append, read
from ring_attn_bench.errors import InvalidArgument


def test_records_read_back_as_they_were_written(tmp_path, sweep_records):
    path = tmp_path / "records.jsonl"
    for record in sweep_records:
        append(path, record)

    assert list(read(path)) == list(sweep_records)


def test_a_compressed_file_reads_the_same(tmp_path, tiny_records):
    path = tmp_path / "records.jsonl"
    for record in tiny_records:
        append(path, record)
    zipped = tmp_path / "records.jsonl.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))

    assert list(read(zipped)) == list(tiny_records)


def test_a_line_cut_off_by_a_crash_costs_only_itself(tmp_path, tiny_records):
    path = tmp_path / "records.jsonl"
    for record in tiny_records:
        append(path, record)
    path.write_bytes(path.read_bytes()[:-40])

    assert list(read(path)) == list(tiny_records)[:-1]


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path, tiny_records):
    path = tmp_path / "records.jsonl"
    append(path, tiny_records[0])
    with path.open("a") as file:
        file.write("{}\n")
    append(path, tiny_records[1])

    with pytest.raises(InvalidArgument, match="line 2: not a record"):
        list(read(path))


def test_a_wrong_result_carries_no_speed(sweep_records):
    right = next(r for r in sweep_records if r.speed is not None)

    with pytest.raises(ValidationError, match="must not carry a speed"):
        Record.model_validate(right.model_dump() | {"status": "wrong", "reason": "it is"})


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.OK])
def test_what_is_not_right_has_a_reason(status, tiny_records):
    fields = tiny_records[0].model_dump() | {"status": status, "speed": None, "reason": ""}

    with pytest.raises(ValidationError, match="needs its reason"):
        Record.model_validate(fields)


def test_only_wrong_results_errors_and_timeouts_are_failures():
    assert {s.value for s in Status if s.is_failure} == {"wrong", "error", "timeout"}


def test_case_names_tell_all_cases_apart():
    case = Case(
        batch=1, seqlen_total=64, world_size=2, heads_q=4, heads_kv=2, head_dim=8,
        dtype="float32", causal=True,
    )  # fmt: skip
    changes = [
        {"batch": 2}, {"seqlen_total": 128}, {"world_size": 4}, {"heads_q": 8}, {"heads_kv": 4},
        {"head_dim": 16}, {"dtype": "float16"}, {"causal": False}, {"window": (3, -1)},
        {"softcap": 5.0}, {"deterministic": True}, {},
    ]  # fmt: skip

    assert len({case.model_copy(update=change).name for change in changes}) == len(changes)


def test_each_direction_names_its_tensors():
    assert Direction.FORWARD_BACKWARD.tensors == ("out", "lse", "dq", "dk", "dv")
    assert Direction.BACKWARD.tensors == ("dq", "dk", "dv")
