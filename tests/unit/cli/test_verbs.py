"""The verbs: --help in groups with nothing cut, and the forms that some of them had before."""

import shlex

import pytest
from typer.main import get_command

from ring_attn_bench import cli
from ring_attn_bench.bench import quick
from ring_attn_bench.cli import exits
from ring_attn_bench.cli.renamed import today
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.probe import run as probe_run
from ring_attn_bench.selftest.run import planted
from ring_attn_bench.tune import run as tune_run


@pytest.fixture
def program(program):
    """Runs a line as it is typed."""
    return lambda line: program(*line.split())


VERBS = get_command(cli.app).commands
ALL = ["", *VERBS, *(f"coverage {verb}" for verb in VERBS["coverage"].commands)]


@pytest.mark.parametrize("verb", VERBS)
def test_no_metavar_is_the_name_of_its_option(verb):
    """Typer 0.27 takes it for the option, `--SUITE`."""
    for option in (one for one in VERBS[verb].params if one.param_type_name == "option"):
        assert option.metavar is None or option.metavar.lower() != option.name, option.name


@pytest.mark.parametrize("verb", ALL)
def test_nothing_is_cut_where_help_has_80_columns(program, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "80")

    code, said, _ = program(f"{verb} --help")

    assert code == 0
    assert "…" not in said
    assert max(map(len, said.splitlines())) == 80


@pytest.mark.parametrize("verb", ALL[1:])
def test_help_says_of_each_option_and_argument_what_it_is_in_a_sentence(verb):
    command = VERBS[verb.split()[0]]
    for name in verb.split()[1:]:
        command = command.commands[name]

    for parameter in command.params:
        said = parameter.help or ""
        assert len(said.split()) > 2, parameter.name
        assert said[0].isupper() or said.startswith("RECORDS"), parameter.name
        assert said.endswith("."), parameter.name
        assert said.split()[0] not in {"Of", "For", "By", "In"}, f"{parameter.name}: of what?"


@pytest.mark.parametrize("verb", [name for name in ALL if name != "coverage"])
def test_help_says_which_exit_codes_there_are(program, verb):
    _, said, _ = program(f"{verb} --help")

    words = " ".join(said.replace("│", " ").split())
    assert "Exit code" in words
    assert not verb or "those of ring-attn-bench --help" in words


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_that_verbs_share_is_shown_alike(verb):
    """In one panel, with one text."""
    shown = {
        option.opts[0]: (option.rich_help_panel, option.help)
        for option in VERBS[verb].params
        if option.opts[0] in {"--json", "--quiet", "--resume"}
    }
    of_bench = {x.opts[0]: (x.rich_help_panel, x.help) for x in VERBS["bench"].params}

    assert shown.items() <= of_bench.items()


def test_who_is_run_and_where_it_is_written_have_one_panel_each():
    commands = [*VERBS.values(), *VERBS["coverage"].commands.values()]
    panels = {(x.opts[0], x.rich_help_panel) for command in commands for x in command.params}

    assert {panel for name, panel in panels if name == "--backend"} == {"What is run"}
    assert {panel for name, panel in panels if name == "--out"} == {"Where it is written"}


@pytest.mark.parametrize("verb", ALL)
def test_help_ends_with_an_example_of_the_verb(program, verb):
    _, said, _ = program(f"{verb} --help")

    last = " ".join(said.split()).rpartition("Example: ring-attn-bench ")[2]
    assert last.startswith(verb)
    assert last.split()[0] in VERBS
    typed = [line for _, _, line in cli.VERBS if line.split()[0] == verb]
    assert typed in ([], [last]), "as it is typed, with every star"


def test_the_faults_of_the_example_are_some():
    (typed,) = (line for _, _, line in cli.VERBS if line.startswith("selftest"))

    assert planted("cpu", [shlex.split(typed)[-1]]).faults


@pytest.mark.parametrize(
    ("verb", "module"), [("probe", probe_run), ("tune", tune_run)], ids=["probe", "tune"]
)
def test_help_says_how_many_processes_there_are_by_themselves(program, verb, module):
    _, said, _ = program(f"{verb} --help")

    words = " ".join(said.replace("│", " ").split())
    assert f"by itself one a core, at most {module.MOST_JOBS}." in words


def test_help_says_how_long_a_probe_waits(program):
    _, said, _ = program("probe --help")

    assert f"[default: {probe_run.ProbeRequest().seconds}]" in said


def test_every_verb_is_in_a_group():
    groups = {name: command.rich_help_panel for name, command in VERBS.items()}

    assert groups == {
        **dict.fromkeys(
            ["bench", "check", "quick", "probe", "tune", "compile", "selftest", "longest"],
            "Measure",
        ),
        **dict.fromkeys(["list", "env", "report", "advise", "compare", "coverage"], "Look"),
    }


OLD = {
    "check --quick --backend aten": "quick --backend aten",
    "check --backend aten --quick": "quick --backend aten",
    "check --probe": "probe",
    "check --quick --probe --jobs=2 --resume --out here": (
        "probe --quick --jobs=2 --resume --out here"
    ),
    "check --suite cpu --resume": "check --suite cpu --resume",
    "bench --backend --probe": "bench --backend --probe",
    "": "",
}


@pytest.mark.parametrize(("old", "new"), OLD.items())
def test_an_old_form_is_the_new_verb_and_says_so(capsys, old, new):
    assert today(old.split()) == new.split()

    said = capsys.readouterr().err.splitlines()
    verb = new.partition(" ")[0]
    named = [f"`ring-attn-bench check --{verb}` is `ring-attn-bench {verb}` now."]
    assert said == ([] if old == new else named)


def test_an_old_form_runs_and_a_command_that_is_told_later_has_the_new_one(program, monkeypatch):
    def ends(backends, say):
        assert backends == ("aten",)
        raise KeyError("planted")

    monkeypatch.setattr(quick, "quick_check", ends)

    code, _, said = program("check --quick --backend aten")

    assert code == exits.Exit.BUG
    assert "`ring-attn-bench quick --backend aten`" in said


@pytest.mark.parametrize(("wrong", "code"), [(0, exits.Exit.RIGHT), (2, exits.Exit.WRONG)])
def test_quick_ends_with_what_it_found(program, monkeypatch, wrong, code):
    monkeypatch.setattr(quick, "quick_check", lambda *_: wrong)

    assert program("quick") == (code, "", "")
    assert program("check --quick")[:2] == (code, "")


def test_all_that_probe_was_given_is_asked_for(program, monkeypatch):
    def asks(request, _):
        raise InvalidArgument(str(request))

    monkeypatch.setattr(probe_run, "probe", asks)
    words = "--backend aten --feature gqa --jobs 3 --seconds 5 --quick --resume --out here"

    new, old = program(f"probe {words}"), program(f"check --probe {words}")

    assert new[2] in old[2]
    assert "('aten',)" in new[2]
    assert "quick=True, resume=True" in new[2]


REFUSED = {
    "check --probe --suite cpu": "--suite is for `check`, and `probe` has none.",
    "check --probe --case=*": "--case is for `check`, and `probe` has none.",
    "check --quick --ranks 4": "--ranks is for `check`, and `quick` has none.",
    "check --quick --jobs 4": "--jobs is for `probe`, and `quick` has none.",
    "check --feature gqa": "--feature is for `probe`, and `check` has none.",
}


@pytest.mark.parametrize("line", REFUSED)
def test_an_option_of_another_verb_is_refused_in_a_sentence(program, line):
    code, _, said = program(line)

    assert code == exits.Exit.MISTAKE
    assert said == f"ring-attn-bench: {REFUSED[line]}\n"


@pytest.mark.parametrize("line", ["check --quick --out here", "probe --suite cpu"])
def test_what_a_verb_does_not_have_is_a_mistake(program, line):
    code, _, said = program(line)

    assert code == exits.Exit.MISTAKE
    assert "No such option" in said


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("ben", ["bench"]),
        ("bench --suite ri", ["ring"]),
        ("bench --backend flash_attn_", ["flash_attn_4", "flash_attn_3", "flash_attn_2"]),
        ("check --backend peer:torch_cp[m", ["peer:torch_cp[math]"]),
        ("bench --dry", ["--dry-run"]),
    ],
)
def test_a_shell_completes_verbs_options_suites_and_backends(monkeypatch, capsys, line, completed):
    words = ["ring-attn-bench", *line.split()]
    monkeypatch.setenv("_RING_ATTN_BENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))

    with pytest.raises(SystemExit):
        cli.app([], prog_name="ring-attn-bench")

    assert capsys.readouterr().out.split() == completed
