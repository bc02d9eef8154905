"""What crashes, copies and other programs do to a file of records costs no more than it must."""

import json
import re

import pytest

from ring_attn_bench.errors import FileError
from ring_attn_bench.records.record import Record, append, mend, read
from ring_attn_bench.records.status import Status


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


@pytest.fixture
def record(make_record):
    return make_record(status=Status.ERROR, reason="é is two bytes, ∞ three: 1.5e-3, true, null")


def test_wherever_a_crash_cuts_a_line_a_rerun_into_the_same_folder_is_read(path, record):
    append(path, record)
    line = path.read_bytes()
    for end in range(1, len(line) - 1):
        path.write_bytes(line + line[:end])
        append(path, record)
        told = []

        assert list(read(path, told.append)) == [record, record], line[:end]
        assert told == [f"{path}, line 2: half a record, cut off by a crash, which is left out."]


def test_a_whole_line_whose_end_was_lost_is_kept_by_a_rerun(path, record):
    append(path, record)
    path.write_bytes(path.read_bytes()[:-1])
    append(path, record)

    assert list(read(path)) == [record, record]


def test_a_record_behind_half_of_one_on_a_line_is_found(path, record):
    """As earlier versions wrote them."""
    append(path, record)
    line = path.read_bytes()
    for end in (5, len(line) // 2, line.index(b'"case":') + 7, len(line) - 3):
        path.write_bytes(line[:end] + line + line)
        told = []

        assert list(read(path, told.append)) == [record, record], line[:end]
        assert told == [
            f"{path}, line 1: begins with half a record, cut off by a crash, which is left out."
        ]


def test_zeros_that_a_file_system_leaves_are_no_line(path, record):
    append(path, record)
    path.write_bytes(path.read_bytes() + bytes(100))
    append(path, record)

    assert list(read(path)) == [record, record]


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"schema_version": 99}', "schema_version is 99, and 1 and 2 are known: a later version"),
        ('{"schema_version": true}', "schema_version is True"),
        ("{}", "not a record"),
        ("hello", None),
    ],
)
def test_a_last_line_that_was_not_cut_off_is_not_left_out_in_silence(
    path, record, line, sentence, end
):
    append(path, record)
    path.write_text(path.read_text() + line + end)
    told = []

    if sentence is None and not end:  # what else could it be
        assert list(read(path, told.append)) == [record]
        assert "line 2: half a record" in told[0]
    else:
        with pytest.raises(FileError, match=f"line 2: .*{re.escape(sentence or 'not a record')}"):
            list(read(path))


def test_a_file_that_is_not_utf_8_is_a_sentence_with_the_line(path, record):
    append(path, record)
    path.write_bytes(path.read_bytes() * 2 + '{"run": "é"}\n'.encode("latin-1"))

    with pytest.raises(FileError, match=r"line 3: not UTF-8 \(byte 0xe9\)"):
        list(read(path))


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1c", "\r", "\n", "\0"])
def test_no_letter_of_a_reason_ends_a_line(path, make_record, letter):
    record = make_record(status=Status.ERROR, reason=f"one{letter}two")
    append(path, record)
    append(path, record)

    assert list(read(path)) == [record, record]


@pytest.mark.parametrize("name", ["run", "suite", "reason", "backend_version", "command"])
def test_a_name_that_is_no_text_loses_no_record(path, make_record, name):
    latin = b"r\xe9sultats".decode(errors="surrogateescape")
    record = make_record(**{"status": Status.ERROR, "reason": "x", name: latin})
    append(path, record)

    assert list(read(path)) == [record]
    assert getattr(record, name) == "r\\udce9sultats"


def test_numbers_that_are_not_finite_are_read_back(path, make_record):
    whole = make_record()
    error = whole.accuracy.tensors["out"]
    wild = error.model_copy(update={"bound_max_abs": float("inf"), "pytorch_rmse": float("-inf")})
    accuracy = whole.accuracy.model_copy(update={"tensors": {"out": wild}})
    record = whole.model_copy(
        update={"accuracy": accuracy, "case": whole.case.model_copy(update={"softcap": 1e999})}
    )
    append(path, record)

    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert list(read(path)) == [record]


def test_a_bound_that_is_not_finite_allows_nothing(make_record):
    error = make_record().accuracy.tensors["out"]

    assert error.is_right
    for name in ("bound_max_abs", "bound_rmse"):
        assert not error.model_copy(update={name: float("inf")}).is_right
        assert not error.model_copy(update={name: float("nan")}).is_right


def test_a_record_of_no_schema_that_is_known_is_refused_whatever_else_it_holds():
    with pytest.raises(ValueError, match="schema_version is 99"):
        Record.model_validate({"schema_version": 99, "other": 1})


def test_half_a_record_at_the_end_is_taken_out_once_and_said(path, record):
    append(path, record)
    line = path.read_bytes()
    for end in (1, len(line) // 2, len(line) - 3):
        path.write_bytes(line + line[:end])
        told = []

        mend(path, told.append)
        mend(path, told.append)

        assert told == [f"{path}: half a record at its end, cut off by a crash, was taken out."]
        assert path.read_bytes() == line


@pytest.mark.parametrize("cut", [slice(None), slice(None, -1)], ids=["whole", "end lost"])
def test_a_file_whose_last_record_is_whole_is_left_as_it_is(path, record, cut):
    append(path, record)
    data = path.read_bytes()[cut]
    path.write_bytes(data)

    mend(path, pytest.fail)

    assert path.read_bytes() == data
