"""A record is written at once, reads back as it was, and never claims what was not shown."""

import gzip
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from pydantic import ValidationError

from ring_attn_bench.errors import FileError, InvalidArgument
from ring_attn_bench.records.cache_shape import CacheShape
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.predicted import PredictedMemory
from ring_attn_bench.records.record import Case, Record, append, read
from ring_attn_bench.records.status import Status
from ring_attn_bench.ring.options import NAMELESS, RingOptions

RESULTS = Path(__file__).parents[3] / "results"


def test_records_read_back_as_they_were_written(tmp_path, sweep_records):
    path = tmp_path / "records.jsonl"
    for record in sweep_records:
        append(path, record)

    assert list(read(path)) == list(sweep_records)


def test_a_prediction_is_read_back_and_lines_of_before_have_none(tmp_path, make_record):
    path, told = tmp_path / "records.jsonl", PredictedMemory(call_bytes=[5, 6], with_kernel=True)
    append(path, make_record(predicted=told))
    append(path, make_record())

    assert [record.predicted for record in read(path)] == [told, None]
    assert "predicted" not in path.read_text().splitlines()[1]


def test_a_cache_of_before_latent_keys_reads_as_one_whose_values_have_memory_of_their_own():
    cache = CacheShape(queries=1, head_dim_v=8)
    told = cache.model_dump()
    assert told.pop("latent") is False

    assert CacheShape.model_validate(told) == cache


@pytest.mark.parametrize(
    ("told", "said"),
    [({}, "head_dim_v does not say"), ({"head_dim_v": 8, "append": True}, "nothing is appended")],
)
def test_latent_keys_that_cannot_be_are_refused_in_a_sentence(told, said):
    with pytest.raises(ValidationError, match=said):
        CacheShape(queries=1, latent=True, **told)


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


OLD = {
    "triton/zigzag/p2p": ({"transport": "p2p"}, RingOptions(transport="p2p", slots=2), "real"),
    "triton/zigzag/p2p/3slots/gradients-input": (
        {"transport": "p2p", "slots": 3, "gradients": "input"},
        RingOptions(transport="p2p", slots=3, gradients="input"),
        "real",
    ),
    "triton/zigzag/loopback": ({"transport": "loopback"}, RingOptions(slots=2), "loopback"),
    "peer:their[s]/zigzag/own": ({"transport": "own", "backend": "peer:their[s]"}, None, "real"),
    "peer:their[s]/zigzag/loopback": (
        {"transport": "loopback", "backend": "peer:their[s]"}, None, "loopback",
    ),
}  # fmt: skip
"""By the name that it had, a contestant of schema 1, and its options and how it was played."""


@pytest.mark.parametrize("name", OLD)
def test_a_line_of_the_first_schema_keeps_its_name_and_its_settings(tmp_path, tiny_records, name):
    said, options, played = OLD[name]
    line = json.loads(tiny_records[0].model_dump_json(exclude_defaults=True))
    del line["schema_version"]
    line["contestant"] = {"backend": "triton", "partition": "zigzag", **said}
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(line) + "\n\n")

    (record,) = read(path)

    assert record.contestant.name == name
    assert (record.contestant.options, record.contestant.played) == (options, played)
    append(tmp_path / "again.jsonl", record)
    assert list(read(tmp_path / "again.jsonl")) == [record]


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("*/records.jsonl.gz")), ids=lambda p: p.parent.name
)
def test_every_committed_record_is_read_and_its_command_still_names_it(path):
    lines = len(gzip.decompress(path.read_bytes()).splitlines())
    records = list(read(path))

    assert len(records) == lines > 0
    for record in records:
        assert f"--contestant {record.contestant.name}".replace("'", "") in (
            record.command.replace("'", "")
        )


def test_a_record_holds_every_option_whatever_the_default(tmp_path, make_record):
    append(tmp_path / "records.jsonl", make_record())
    (line,) = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())

    assert line["schema_version"] == 2
    assert line["contestant"]["options"] == {**NAMELESS, "transport": "p2p"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"transprot": "p2p"}, "unknown ring option 'transprot'. Did you mean 'transport'?"),
        ({"slots": 0}, "slots is 0"),
        ({"schedule": "steps", "grouping": [3]}, "leave one of the two at 'auto'"),
    ],
)
def test_options_that_cannot_be_are_a_sentence(make_record, change, sentence):
    fields = make_record().model_dump()
    fields["contestant"]["options"] = {**asdict(RingOptions()), **change}

    with pytest.raises(ValidationError, match=re.escape(sentence)):
        Record.model_validate(fields)


def test_a_record_is_read_where_its_transport_is_not_installed(make_record):
    fields = make_record().model_dump()
    fields["contestant"]["options"]["transport"] = "theirs"

    assert Record.model_validate(fields).contestant.name == "triton/zigzag/theirs"


def test_a_record_of_a_later_schema_is_refused(make_record):
    with pytest.raises(ValidationError, match="schema_version is 3, and 1 and 2 are known"):
        Record.model_validate(make_record().model_dump() | {"schema_version": 3})


@pytest.mark.parametrize(
    ("played", "name"),
    [
        ("real", "triton/zigzag/p2p"), ("loopback", "triton/zigzag/loopback"),
        ("twin", "triton/zigzag/twin"), ("4on2", "triton/zigzag/p2p-4on2"),
    ],
)  # fmt: skip
def test_how_a_ring_was_played_is_in_its_name(make_contestant, played, name):
    assert make_contestant(played=played).name == name


def test_a_larger_ring_says_who_was_played_on_how_many(make_contestant):
    who = make_contestant(played="16on2", playing=(0, 15))

    assert who.name == "triton/zigzag/p2p-16on2-0+15"
    assert who.played_on == 2
    assert [make_contestant(played=word).played_on for word in ("real", "loopback", "twin")] == (
        [None] * 3
    )


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


@pytest.mark.parametrize("field", Case.model_fields)
def test_cases_that_differ_in_a_field_differ_in_their_names(make_record, field):
    other = {
        "dtype": "float64", "causal": False, "window": (3, 0), "softcap": 30.0,
        "deterministic": True, "cache": CacheShape(queries=1),
    }.get(field, 3)  # fmt: skip
    case = make_record().case
    assert getattr(case, field) != other

    assert case.model_copy(update={field: other}).name != case.name


@pytest.mark.parametrize("dtype", ["/../../x", "a\0", "float16\n", "f" * 10_000, "", "../x", "Ä"])
def test_a_dtype_that_could_name_another_file_is_no_dtype(make_case, dtype):
    with pytest.raises(ValidationError, match="dtype"):
        make_case(dtype=dtype)


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_contestant_has_a_name_that_can_be_shown(make_contestant, name):
    with pytest.raises(ValidationError, match="backend"):
        make_contestant(backend=name)


@pytest.mark.parametrize("name", ["backend", "transport"])
def test_a_line_that_says_schema_1_and_is_none_is_refused_with_its_number(
    tmp_path, make_record, name
):
    line = json.loads(make_record().model_dump_json())
    line["contestant"] = {"backend": "aten", "transport": "p2p", "partition": "zigzag"}
    del line["contestant"][name]
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps({**line, "schema_version": 1}))

    with pytest.raises(FileError, match=f"line 1: not a record .*have a {name}, and this has none"):
        list(read(path))
