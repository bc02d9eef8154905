"""From a command line to a run: what is refused before anything starts, and what goes on later."""

import re
import shlex
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.main import get_command

import ring_attn_bench
from ring_attn_bench import cli, registry
from ring_attn_bench.bench import resume, start
from ring_attn_bench.bench.messages import QUIT
from ring_attn_bench.bench.suite import Timing, load
from ring_attn_bench.bench.team import Team
from ring_attn_bench.errors import InvalidArgument, MachineLacks, Terminated
from ring_attn_bench.records.finding import read as read_findings
from ring_attn_bench.records.lock import alone_in
from ring_attn_bench.records.record import append, read
from ring_attn_bench.records.status import Status
from tests.unit.bench.conftest import CANNOT, MACHINE, SUITE

ROOT = Path(__file__).parents[3]


def test_a_backend_that_the_suite_does_not_name_is_added_and_its_records_command_adds_it_too(
    machine, typed
):
    done = typed("ring-attn-bench bench --suite small.toml --backend aten --out out")

    assert done.exit_code == 0, done.output
    assert {backend for backend, _ in machine.ran} == {"aten"}
    first = next(read(Path("out/records.jsonl")))
    machine.ran = ()
    assert typed(f"{first.command} --out again").exit_code == 0
    assert {backend for backend, _ in machine.ran} == {"aten"}


def test_a_backend_that_the_suite_names_is_run_alone_and_its_command_is_the_suites(machine, typed):
    typed("ring-attn-bench bench --suite small.toml --backend reference --out out")

    first = next(read(Path("out/records.jsonl")))
    assert "--backend" not in first.command


def test_who_ends_a_run_is_told_what_is_kept_and_the_command_that_goes_on(machine, typed):
    machine.ends_after = 2
    ended = typed("ring-attn-bench bench --suite small.toml --out 'my runs'")

    assert ended.exit_code == 130
    assert "2 records are kept in my runs." in ended.output
    go_on, report = (
        next(line for line in ended.output.splitlines() if line.startswith(start))
        for start in ("To go on:", "A report of them:")
    )
    machine.ends_after = None
    before, machine.ran = machine.ran, ()
    done = typed(go_on.partition(":")[2])
    assert done.exit_code == 0, done.output
    assert "holds 2 of these already" in done.output
    assert len(machine.ran) == 1
    assert not set(machine.ran) & set(before)
    assert typed(report.partition(":")[2]).exit_code == 0


def test_a_folder_that_the_machine_chose_is_in_the_command_that_goes_on(machine, typed):
    machine.ends_after = 1
    ended = typed("ring-attn-bench bench --suite small.toml")

    (folder,) = Path("results").iterdir()
    assert f"bench --suite small.toml --out results/{folder.name} --resume" in ended.output


def test_a_run_into_a_folder_that_has_records_says_so_and_measures_again(machine, typed):
    line = "ring-attn-bench bench --suite small.toml --out out"
    assert "holds" not in typed(line).output

    again = typed(line)

    assert "out holds 3 records already" in again.output
    assert "--resume" in again.output
    assert len(machine.ran) == 6


def test_half_a_record_of_a_run_that_crashed_is_taken_out_and_said(machine, typed):
    line = "ring-attn-bench bench --suite small.toml --out out"
    typed(line)
    path = Path("out/records.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])

    again = typed(f"{line} --resume")

    assert again.exit_code == 0
    assert f"{path}: half a record at its end, cut off by a crash, was taken out." in again.output
    assert "out holds 2 of these already" in again.output
    assert len(list(read(path, pytest.fail))) == 3


def test_a_second_run_into_the_same_folder_is_refused_in_a_sentence(machine, typed):
    Path("out").mkdir()
    with alone_in(Path("out")):
        done = typed("ring-attn-bench bench --suite small.toml --out out")

    assert str(done.exception) == (
        "another run is writing into out; wait until it has ended, or name another folder with "
        "--out."
    )
    assert machine.ran == ()


def test_to_resume_what_was_only_checked_is_to_time_it(machine, typed, make_record):
    suite = load(Path("small.toml"))
    (entry,) = suite.entries(2, "real")
    keys = {}
    for direction in entry.directions:
        record = make_record(
            case=entry.case, contestant=entry.contestant, direction=direction, speed=None
        )
        keys[record.key] = record

    assert resume._lacking(entry, keys, suite) == entry
    untimed = suite.model_copy(update={"timing": Timing(enabled=False)})
    assert resume._lacking(entry, keys, untimed).directions == ()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("bench --suite nope", "unknown suite 'nope'"),
        ("bench --suite nope.toml", "cannot read suite nope.toml"),
        ("bench --suite ./mine", "'./mine', a file whose name does not end in .toml, as those of"),
        ("bench --suite cpu --backend atten", "Did you mean 'aten'"),
        ("bench --backend atten", "Did you mean 'aten'"),
        ("bench --suite small.toml --ranks 2 --case nothing", "contestants reference/zigzag/p2p"),
    ],
)
def test_a_mistake_is_told_before_the_machine_is_looked_at(machine, typed, line, sentence):
    Path("mine").write_text(SUITE)

    done = typed(f"ring-attn-bench {line}")

    assert sentence in str(done.exception)
    assert machine.asked == 0


def test_one_variable_of_torchruns_alone_is_not_torchrun(monkeypatch):
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "of somebody else")
    assert not start.under_torchrun()

    for name in names:
        monkeypatch.setenv(name, "0")
    assert start.under_torchrun()


def test_a_report_of_wrong_records_did_its_work(typed, make_record, tmp_path):
    append(tmp_path / "records.jsonl", make_record(status=Status.WRONG, speed=None, reason="so"))

    done = typed(f"ring-attn-bench report {tmp_path}")

    assert done.exit_code == 0
    assert "1 failure in 1 record" in done.output


def test_the_version_is_the_packages(typed):
    assert typed("ring-attn-bench --version").output == (
        f"ring-attn-bench {ring_attn_bench.__version__}\n"
    )


@pytest.mark.parametrize("verb", ["", "bench", "check", "report", "tune", "coverage diff"])
def test_h_is_help_with_the_suites_names_and_an_example(typed, verb):
    short, long = (typed(f"ring-attn-bench {verb} {option}") for option in ("-h", "--help"))

    assert short.exit_code == 0
    assert short.output == long.output
    if "coverage" not in verb:
        assert "Example: ring-attn-bench" in short.output
    if verb in ("bench", "check"):
        assert all(name in short.output for name in ("cpu", "hopper", "peers", "triton"))


def test_what_cannot_run_here_is_told_before_anything_is_measured(machine, typed):
    done = typed("ring-attn-bench bench --suite hopper --ranks 2 --out out")

    said = done.output.partition("ring-attn-bench report")[0]
    count, total = map(int, re.search(r"(\d+) of these (\d+) cannot run here", said).groups())
    assert 0 < count < total
    assert "\n  cudnn: there is no CUDA device.\n" in said
    assert "\n  flash_attn_4: it is not installed.\n" in said
    assert "no CUDA device: the rest runs on the CPU, with up to 32,768 tokens" in said


def test_a_backend_asked_for_by_name_is_loaded_by_other_processes_alone(
    machine, typed, monkeypatch
):
    """Its package may crash or hang when it is imported."""

    def loaded_here(name):
        raise AssertionError(name)

    monkeypatch.setattr(registry, "load_contestant", loaded_here)
    refused = typed("ring-attn-bench bench --suite small.toml --backend cudnn --out out")
    done = typed("ring-attn-bench bench --suite small.toml --backend aten --out out")

    assert isinstance(refused.exception, MachineLacks)
    assert "backend 'cudnn' is unavailable here: there is no CUDA device" in str(refused.exception)
    assert done.exit_code == 0, done.output


def test_where_everything_can_run_nothing_is_said_of_it(machine, typed):
    said = typed("ring-attn-bench bench --suite small.toml --out out").output

    assert "cannot run here" not in said
    assert "CUDA device" not in said


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def documented():
    """Every command of this program in README and docs, as it is written there."""
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    lines = re.findall(
        r"^ring-attn-bench .*|(?<=`)ring-attn-bench [a-z][^`\n]*", text, re.MULTILINE
    )
    return sorted(set(lines))


@pytest.mark.parametrize("line", documented())
def test_every_command_in_readme_and_docs_is_one_that_this_program_takes(line):
    _, verb, *words = shlex.split(line.replace("...", ""), comments=True)
    command = get_command(cli.app).commands[verb]
    while hasattr(command, "commands") and words:
        command = command.commands[words.pop(0)]

    command.make_context(verb, words, resilient_parsing=False)


def test_the_readme_counts_the_cells_that_the_matrix_has():
    found = read_findings(ROOT / "results" / "2026-12-01_1xH200_coverage")
    absent = sum(x.reason.startswith("unavailable") for x in found)
    counts = Counter(x.verdict for x in found)
    text = " ".join((ROOT / "README.md").read_text().split())

    assert f"{counts[Status.OK]} of {len(found):,} cells are right" in text
    assert f"{counts[Status.UNSUPPORTED] - absent} are refused with a reason" in text
    assert counts.keys() == {Status.OK, Status.UNSUPPORTED}, "README names none that is wrong"
    assert f"the other {absent} are those of flash_attn_3" in text
    assert {x.backend for x in found if x.reason.startswith("unavailable")} == {"flash_attn_3"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--ranks 100000000", "--ranks is 100000000; a ring has at most 1024 ranks here."),
        ("--as-ranks 4 --as-ranks 5000", "--as-ranks is 5000; a ring has at most 1024 ranks here."),
        ("--playing ''", "--playing says who plays a larger ring"),
    ],
)
def test_what_no_machine_can_run_is_told_before_the_machine_is_looked_at(
    machine, typed, words, sentence
):
    done = typed(f"ring-attn-bench bench --suite small.toml {words}")
    assert isinstance(done.exception, InvalidArgument)
    assert sentence in str(done.exception)
    assert not machine.asked


def test_an_empty_suite_is_no_suite_and_not_the_default(machine, typed):
    done = typed("ring-attn-bench bench --suite ''")
    assert "unknown suite ''. Known: comm-heavy," in str(done.exception)
    assert not machine.ran


@pytest.mark.parametrize(
    "line",
    ["report ''", "bench --suite cpu --out ''", "check --out ''", "coverage diff a ''",
     "coverage show ''", "tune triton --out ''"],
)  # fmt: skip
def test_an_empty_path_is_a_mistake_and_not_the_folder_one_is_in(machine, typed, line):
    done = typed(f"ring-attn-bench {line}")
    assert done.exit_code == 2
    assert "it is empty" in done.output


def test_who_ends_a_run_before_anything_is_finished_is_told_how_to_begin_again(machine, typed):
    machine.ends_after = 0
    done = typed("ring-attn-bench bench --suite small.toml --backend aten --out out")
    assert done.exit_code == 130
    assert "no records were finished, and none are kept in out" in done.stderr
    assert "A report" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("To begin again:  ")]
    machine.ends_after = None
    assert typed(line.removeprefix("To begin again:  ")).exit_code == 0


class _Team:
    place = SimpleNamespace(process=0)

    def __init__(self, raises):
        self.raises = raises

    def carry_out(self, envelope):
        raise self.raises


@pytest.fixture
def torchrun(machine, monkeypatch):
    """This process as process 0 of two that torchrun started; what ends the first command."""
    variables = {
        "TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def runs(run, left, group, progress):
        machine.execute(run, left, None, None, progress)
        group(left[0]).ask(QUIT, 1.0)

    def starts(raises, process=0):
        team = _Team(raises)
        team.place = SimpleNamespace(process=process)
        monkeypatch.setenv("RANK", str(process))
        monkeypatch.setattr(Team, "join", lambda *_: team)
        monkeypatch.setattr(start.env, "describe", lambda: MACHINE)
        monkeypatch.setattr(start, "_unavailable", lambda left: CANNOT)
        monkeypatch.setattr(start, "execute_on", runs)

    return starts


ENDS = [
    (KeyboardInterrupt(), "Interrupted", 130),
    (Terminated(), "Terminated", 143),
]


@pytest.mark.parametrize(("by", "word", "code"), ENDS)
def test_a_signal_under_torchrun_says_what_is_kept_and_how_torchrun_goes_on(
    machine, typed, torchrun, by, word, code
):
    torchrun(RuntimeError("Connection closed by peer"))  # the others were told too
    machine.ends_after, machine.ends_by = 2, by
    done = typed("ring-attn-bench bench --suite small.toml --backend aten --out out")
    assert done.exit_code == code
    assert f"{word}: 2 records are kept in out" in done.stderr
    assert "To go on:  torchrun --nproc-per-node=2 -m ring_attn_bench bench" in done.stderr
    assert "A report of them:  ring-attn-bench report out" in done.stderr


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_torchrun_ended_is_no_bug_of_the_others(machine, typed, torchrun, process):
    torchrun(RuntimeError("Connection closed by peer"), process)
    done = typed("ring-attn-bench bench --suite small.toml --backend aten --out out")
    assert isinstance(done.exception, SystemExit)
    assert f"process {process} has lost the others" in done.output + str(done.exception.code)
    if process == 0:
        assert "records are kept in out" in done.output + str(done.exception.code)


@pytest.mark.parametrize(("by", "word", "code"), ENDS)
def test_a_signal_says_what_is_kept_and_how_to_go_on(machine, typed, by, word, code):
    machine.ends_after, machine.ends_by = 2, by
    done = typed("ring-attn-bench bench --suite small.toml --backend aten --out out")
    assert done.exit_code == code
    assert f"{word}: 2 records are kept in out" in done.stderr
    assert "To go on:  ring-attn-bench bench" in done.stderr
