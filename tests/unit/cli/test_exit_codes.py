"""What went wrong with a file is one sentence, and an exit code that is not that of `wrong`."""

import gzip
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ring_attn_bench import __version__
from ring_attn_bench.cli import exits, report
from ring_attn_bench.errors import FileError, NoAnswer
from ring_attn_bench.machine import plug_ins
from ring_attn_bench.probe.tasks import Task
from ring_attn_bench.records import finding
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import append, read
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.keeper import Keeper
from tests.patience import limit

ROOT = Path(__file__).parents[3]


@pytest.fixture
def records(tmp_path, make_record):
    folder = tmp_path / "run"
    folder.mkdir()
    append(folder / "records.jsonl", make_record())
    return folder / "records.jsonl"


def is_one_sentence(text):
    return len(text.splitlines()) == 1 and text.startswith("ring-attn-bench: ")


DAMAGE = {
    "a truncated .gz": lambda path: (
        path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(path.read_bytes())[:-20]),
        path.unlink(),
    ),
    "another encoding": lambda path: path.write_bytes(path.read_bytes() + b'{"run":"\xe9"}\n'),
    "a schema to come": lambda path: path.write_text('{"schema_version":99}\n'),
    "no records": lambda path: path.write_text(""),
    "no file": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_records_that_cannot_be_read_are_exit_code_4(program, records, what):
    DAMAGE[what](records)

    code, _, said = program("report", records.parent)

    assert code == exits.Exit.FILES == 4
    assert is_one_sentence(said)
    assert "records.jsonl" in said
    assert not (records.parent / "report.md").exists()


NO_RECORDS = {
    "a list": lambda record: [record],
    "a field of another kind": lambda record: record | {"case": record["case"] | {"batch": "two"}},
    "a status that does not fit": lambda record: record | {"status": "wrong"},
}


@pytest.mark.parametrize("what", NO_RECORDS)
def test_a_record_that_is_none_is_told_of_with_its_field_if_it_is_one(program, records, what):
    record = json.loads(records.read_text())
    records.write_text(json.dumps(NO_RECORDS[what](record)) + "\n")

    code, _, said = program("report", records)

    assert code == exits.Exit.FILES
    assert is_one_sentence(said)
    assert " at (" not in said
    if what == "a field of another kind":
        assert ", at case.batch). Mend the line" in said


def test_findings_and_outcomes_name_their_fields_too(program, tmp_path):
    (tmp_path / "coverage.csv").write_text("backend,feature,verdict\na,b,perhaps\n")
    code, _, said = program("coverage", "show", tmp_path)
    assert code == exits.Exit.FILES
    assert re.search(r", at \w+\)\.$", said.strip()), said


def test_a_report_of_wrong_results_has_done_its_work(program, records, make_record):
    append(records, make_record(status=Status.WRONG, reason="it is"))

    assert program("report", records)[0] == exits.Exit.RIGHT == 0


def test_what_was_cut_off_is_told_of_and_the_rest_is_drawn(program, records):
    records.write_bytes(records.read_bytes() + b'{"schema_version":2,"ru')

    code, said, warned = program("report", records.parent)

    assert code == 0
    assert "1 record" in said
    assert warned == f"{records}, line 2: half a record, cut off by a crash, which is left out.\n"


@pytest.mark.parametrize("newer", ["records.jsonl", "records.jsonl.gz"])
def test_of_two_files_the_newer_is_read_and_the_other_is_named(
    program, records, make_record, make_contestant, newer
):
    packed = records.parent / "records.jsonl.gz"
    packed.write_bytes(gzip.compress(records.read_bytes()))
    records.unlink()
    append(records, make_record(contestant=make_contestant(backend="aten")))
    before = time.time() - 1000
    os.utime(packed if newer == records.name else records, (before, before))

    code, said, warned = program("report", records.parent)

    assert code == 0
    assert ("triton" in said) == (newer == "records.jsonl.gz")
    assert f"the newer is read, {newer};" in warned
    assert str(packed if newer == records.name else records) in warned


def test_a_report_where_a_file_is_in_the_way_is_exit_code_4(program, records):
    code, _, said = program("report", records, "--out", records)

    assert code == exits.Exit.FILES
    assert is_one_sentence(said)
    assert "should be a folder" in said


def test_a_report_on_a_full_disk_is_exit_code_4(program, records):
    (records.parent / "results.csv").symlink_to("/dev/full")

    code, _, said = program("report", records)

    assert code == exits.Exit.FILES
    assert is_one_sentence(said)
    assert "No space left on device" in said


def test_a_folder_whose_name_is_no_text_is_reported_from_and_to(program, records):
    out = os.fsdecode(os.fsencode(records.parent) + b"\xe9")

    code, said, _ = program("report", records, "--out", out)

    assert code == 0
    assert "report.md" in said
    assert os.path.exists(os.path.join(out, "results.csv"))  # noqa: PTH110, PTH118 - as it is


def test_an_index_of_a_folder_without_runs_is_exit_code_4_and_beside_out_a_mistake(
    program, records
):
    code, said, _ = program("report", "--index", records.parent.parent)
    assert code == 0
    assert "index.html" in said

    code, _, said = program("report", "--index", records.parent)
    assert code == exits.Exit.FILES
    assert is_one_sentence(said)
    assert "holds records; name the one in which runs have theirs" in said

    code, _, said = program("report", "--index", records.parent.parent, "--out", records.parent)
    assert code == exits.Exit.MISTAKE
    assert "leave out --out and --json" in " ".join(said.split())


def test_bench_into_a_file_is_exit_code_4_before_anything_is_measured(program, records):
    before = records.read_bytes()

    code, _, said = program("bench", "--suite", "cpu", "--backend", "aten", "--out", records)

    assert code == exits.Exit.FILES
    assert is_one_sentence(said)
    assert records.read_bytes() == before


@pytest.mark.parametrize("verb", [("coverage", "show"), ("coverage", "diff", "missing.csv")])
def test_a_matrix_that_cannot_be_read_is_exit_code_4(program, tmp_path, verb):
    (tmp_path / "coverage.csv").write_bytes(b"backend,feature\n\xe9,1\n")

    code, _, said = program(*verb, tmp_path)

    assert code == exits.Exit.FILES
    assert is_one_sentence(said)


class Nobody:
    def done(self, task, findings):
        raise AssertionError("it is not on disk")


def test_a_matrix_that_cannot_be_written_ends_the_probe_with_a_sentence(tmp_path):
    path = tmp_path / "coverage.csv"
    path.symlink_to("/dev/full")
    task = Task("aten", "full", Direction.FORWARD)
    keeper = Keeper(path, [task.key], lambda found: found.key, finding.write, Nobody())
    keeper.check()

    found = finding.Finding(
        backend="aten", feature="full", direction=Direction.FORWARD, verdict=Status.OK
    )
    keeper.done(task, [found])

    with pytest.raises(FileError, match="No space left on device"):
        keeper.check()


def test_records_of_a_folder_whose_name_is_no_text_are_kept(tmp_path, make_record):
    folder = tmp_path / os.fsdecode(b"r\xe9sultats")
    folder.mkdir()

    append(folder / "records.jsonl", make_record(run=folder.name))

    (found,) = read(folder / "records.jsonl")
    assert found.run == "r\\udce9sultats"


@pytest.mark.parametrize("error", [KeyError("planted"), ConnectionResetError("planted")])
def test_a_bug_has_a_code_of_its_own_and_says_what_to_report(program, records, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(report, "show", fails)

    code, _, said = program("report", records)

    assert code == exits.Exit.BUG == 5
    sentence, trace = said.split("\n\n", 1)
    assert is_one_sentence(sentence)
    assert "Please report it" in sentence
    assert __version__ in sentence
    assert f"`ring-attn-bench report {records}`" in sentence
    assert trace.startswith("Traceback (most recent call last):")
    assert trace.rstrip().endswith(f"{type(error).__name__}: {error}")


def test_a_machine_that_gives_no_answer_is_no_bug(program, monkeypatch):
    def silent():
        raise NoAnswer("cannot find out what this machine has: no answer within 300 s.")

    monkeypatch.setattr(plug_ins, "ask", silent)

    code, _, said = program("env")

    assert code == exits.Exit.WRONG == 1
    assert is_one_sentence(said)


def test_ctrl_c_is_not_the_code_of_wrong(program, records, monkeypatch):
    def ends(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "show", ends)

    assert program("report", records)[0] == exits.Exit.INTERRUPTED == 130


def words(text):
    """Without the lines, and the frames of --help."""
    return " ".join(text.split())


def test_the_help_says_what_each_exit_code_means(program):
    _, said, _ = program("--help")

    assert set(exits.MEANINGS) == set(exits.Exit)
    assert all(f" {code.value}, {meaning}" in exits.told() for code, meaning in EACH)
    assert exits.told() in words(said)


EACH = exits.MEANINGS.items()


@pytest.mark.parametrize("verb", ["bench", "check", "quick", "probe"])
def test_a_verb_that_measures_refers_to_them(program, verb):
    _, said, _ = program(verb, "--help")

    assert "Exit codes are those of ring-attn-bench --help." in words(said).replace("`", "")


def test_the_script_says_them_alike_and_pages_refer_to_them():
    assert exits.told() in words((ROOT / "run_comparison_tests.sh").read_text())
    for page in ("README.md", "docs/coverage.md"):
        text = words((ROOT / page).read_text())
        assert re.search(r"[Ee]xit codes [^.]*`ring-attn-bench --help`", text), page
        assert not re.search(r"exit code (is )?[2-9]", text), page


SWALLOWS = {
    "nobody": "time.sleep(60)",
    "an except of all": """
try:
    time.sleep(60)
except BaseException:
    pass
time.sleep(60)
""",
    "a finaliser": """
class Slow:
    def __del__(self):
        time.sleep(60)
Slow()
time.sleep(60)
""",
    "a lazy import that is survived": """
from ring_attn_bench import registry
from ring_attn_bench.errors import BackendUnavailable
pathlib.Path(sys.argv[1], "planted_slow.py").write_text("import time\\ntime.sleep(60)")
sys.path.insert(0, sys.argv[1])
try:
    registry._imported("slow", "planted_slow:Kind", BackendUnavailable)
except BackendUnavailable:
    pass
""",
}


@pytest.mark.parametrize("who", SWALLOWS)
def test_sigterm_ends_the_program_whoever_swallows_it(tmp_path, who):
    body = textwrap.indent(SWALLOWS[who].strip(), "    ")
    source = (
        "import pathlib, sys, time\nfrom ring_attn_bench.cli import exits\n"
        f"def program():\n    print('ready', flush=True)\n{body}\nexits.run(program)\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", source, tmp_path],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout.readline() == "ready\n"
    time.sleep(0.3)
    program.terminate()
    _, said = program.communicate(timeout=limit(30))
    assert program.returncode == exits.Exit.TERMINATED == 143
    assert said.splitlines()[-1] == "ring-attn-bench: terminated; what was measured is kept."


IMPOSSIBLE = {
    "world_size": ("case", "world_size", 0),
    "batch": ("case", "batch", -1),
    "seqlen_total": ("case", "seqlen_total", 10**30),
    "window": ("case", "window", [-5, 10**30]),
    "head_dim": ("case", "head_dim", 0),
    "devices": ("speed", "devices", 0),
    "useful_flops": ("speed", "useful_flops", 10**400),
    "peak_extra_bytes": ("memory", "peak_extra_bytes", [10**30]),
    "ring": ("speed", "samples", {"ring": [[-1.0], [2.0]]}),
    "played": ("contestant", "played", f"{'9' * 5000}on2"),
}


@pytest.mark.parametrize("field", IMPOSSIBLE)
def test_a_record_of_a_number_that_cannot_be_is_none_and_told_with_its_line(
    program, records, field
):
    record = json.loads(records.read_text())
    part, key, value = IMPOSSIBLE[field]
    record[part][key] = value
    records.write_text(json.dumps(record) + "\n")

    code, _, said = program("report", records)

    assert code == exits.Exit.FILES
    assert is_one_sentence(said)
    assert "records.jsonl, line 1: not a record (" in said
    assert field in said


def test_records_that_begin_with_the_mark_of_an_editor_are_read(program, records):
    records.write_bytes(b"\xef\xbb\xbf" + records.read_bytes())

    code, said, warned = program("report", records)

    assert (code, warned) == (0, "")
    assert "1 record" in said
