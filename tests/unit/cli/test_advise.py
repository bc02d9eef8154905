"""`advise` on the command line."""

import json

import pytest

from ring_attn_bench.cli import exits
from ring_attn_bench.records.record import append

ASKED = ["advise", "--heads", "32:8", "--tokens", "64k", "--gpus", "2"]


def test_the_records_that_came_along_answer(program):
    code, said, _ = program(*ASKED)

    assert code == exits.Exit.RIGHT
    assert "Take backend " in said
    assert "Expected: " in said


def test_nothing_that_fits_ends_in_1(program):
    code, said, _ = program(*ASKED, "--memory", "100MiB")

    assert code == exits.Exit.WRONG
    assert "Nothing fits" in said


def test_ones_own_records_take_their_place(program, tmp_path, make_record):
    append(tmp_path / "records.jsonl", make_record())

    code, said, _ = program(*ASKED[:-1], "4", "--direction", "forward", "--records", tmp_path,
                            "--json")  # fmt: skip

    assert code == exits.Exit.RIGHT
    assert {each["from"][0]["run"] for each in json.loads(said)["ways"]} == {tmp_path.name}


def test_json_repeats_what_was_asked_in_the_words_of_the_command_line(program):
    _, said, _ = program(*ASKED, "--direction", "forward_backward", "--json")

    told = json.loads(said)
    assert told["schema"] == 1
    assert told["asked"]["tokens"] == 64 * 1024
    assert told["asked"]["gpus"] == 2
    assert told["asked"]["seqlen_per_gpu"] == 32 * 1024
    assert told["asked"]["direction"] == "forward_backward"


@pytest.mark.parametrize(
    "wrong", [["--direction", "backward"], ["--memory", "much"], ["--head-dim", "7"]]
)
def test_a_mistake_is_a_sentence(program, wrong):
    code, _, said = program(*ASKED, *wrong)

    assert code == exits.Exit.MISTAKE
    assert len(said.splitlines()) == 1
