"""A field of RingOptions is all that an option needs to be told apart from records to plots."""

from __future__ import annotations

from dataclasses import fields

import pytest

from ring_attn_bench.bench.grid import Grid
from ring_attn_bench.bench.messages import Prepare
from ring_attn_bench.records.record import append, read
from ring_attn_bench.report import csv, tables
from ring_attn_bench.report.columns import COLUMNS, MEANINGS, OPTIONS
from ring_attn_bench.report.groups import WHO, Naming, constants, heading, label, varying
from ring_attn_bench.report.plots.style import Style, variant
from ring_attn_bench.report.rows import rows
from ring_attn_bench.ring.options import RingOptions

OTHER = {
    "transport": "auto",
    "slots": 3,
    "grouping": (1, 2),
    "gradients": "input",
    "handshake": True,
    "schedule": "gather",
    "landing_tokens": 4096,
    "keep_keys": True,
}
"""By option, a value that `make_contestant` does not give."""
NAMES = [field.name for field in fields(RingOptions)]
every_option = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def both(make_record, make_contestant):
    """Rows of two contestants that differ in one option."""

    def made(name):
        who = make_contestant(), make_contestant(**{name: OTHER[name]})
        return rows(make_record(contestant=contestant) for contestant in who)

    return made


def test_what_is_tried_here_are_all_options():
    assert list(OTHER) == NAMES


@every_option
def test_it_says_what_its_column_holds_and_suites_have_it_as_an_axis(name):
    assert name in Grid.model_fields
    assert name in COLUMNS
    assert MEANINGS[name]
    assert name in WHO


@every_option
def test_contestants_that_differ_in_it_have_two_names_labels_and_looks(both, name):
    one, other = both(name)

    assert one.contestant != other.contestant
    assert varying([one, other]) == ("backend", name)
    assert label(one, WHO) != label(other, WHO)
    assert Naming.of([one, other]).cells(one) != Naming.of([one, other]).cells(other)
    assert Naming(("backend",), WHO[2:]).cells(one) != Naming(("backend",), WHO[2:]).cells(other)
    assert variant(one) != variant(other)
    style = Style.of([one, other])
    assert style.fill(one) != style.fill(other)


@every_option
def test_a_record_and_a_message_to_a_worker_keep_it(
    name, make_record, make_case, make_contestant, tmp_path
):
    who = make_contestant(**{name: OTHER[name]})
    append(tmp_path / "records.jsonl", record := make_record(contestant=who))
    command = Prepare(case=make_case(), contestant=who, directions=(), seed=0)

    assert list(read(tmp_path / "records.jsonl")) == [record]
    assert Prepare.model_validate_json(command.model_dump_json()) == command


@every_option
def test_results_csv_keeps_it(both, name, tmp_path):
    csv.write(both(name), tmp_path / "results.csv")
    again = csv.read(tmp_path / "results.csv")

    assert again == both(name)
    assert again[0].word(name) != again[1].word(name)


def test_names_hold_what_is_not_the_default_only(make_contestant):
    assert make_contestant().name == "triton/zigzag/p2p"
    kept = {"landing_tokens": None, "keep_keys": True}
    assert make_contestant(**kept).name == "triton/zigzag/p2p/keep_keys-true"
    others = OTHER | {"schedule": "grouped", "keep_keys": False}
    assert make_contestant(**others).name == (
        "triton/zigzag/auto/3slots/grouping-1+2/gradients-input/handshake-true/schedule-grouped/"
        "4096landing_tokens"
    )


def test_captions_say_nothing_of_what_is_left_to_the_library(make_record):
    found = constants(rows([make_record()]))

    assert found == ("partition zigzag", "transport p2p", "slots 2", "gradients float32")


def test_a_heading_says_options_of_ours_alone_where_other_rings_stand_beside(
    make_record, make_contestant
):
    ours = make_record()
    theirs = make_record(contestant=make_contestant(backend="peer:their[s]"))

    assert heading(rows([ours])).endswith(
        "; partition zigzag; transport p2p; slots 2; gradients float32"
    )
    assert heading(rows([ours, theirs])).endswith(
        "; partition zigzag; our ring: transport p2p, slots 2, gradients float32"
    )
    assert heading(rows([theirs])).endswith("; partition zigzag; transport own")


def test_what_auto_took_is_a_cell(make_record, make_contestant):
    asked = make_contestant(schedule="grouped", slots="auto")
    took = RingOptions("p2p", 2, (1, 2), schedule="grouped")
    (row,) = rows([make_record(contestant=asked, took=took)])

    assert row.took == "slots 2, grouping 1+2"
    assert row.options["slots"] == "auto"


def test_what_auto_took_stands_below_the_table_and_for_whom_where_it_differs(
    make_record, make_contestant
):
    asked = {name: make_contestant(backend=name, transport="auto") for name in ("triton", "aten")}
    fast = RingOptions("copy_engine", 2, (3,), schedule="one_launch")
    slow = RingOptions("p2p", 2, None, schedule="steps")
    one, same, other = (
        make_record(contestant=asked[name], took=took)
        for name, took in (("triton", fast), ("aten", fast), ("aten", slow))
    )
    (alike,), (apart,) = (tables.speed(rows([one, x])) for x in (same, other))

    whole = "auto took transport copy_engine, grouping 3, schedule one_launch"
    assert alike.remarks == (f"{whole}.",)
    assert set(apart.remarks) == {
        f"{whole} for triton.",
        "auto took transport p2p, grouping 1 each, schedule steps for aten.",
    }
    assert max(map(len, apart.terminal(80).splitlines())) <= 80
    assert whole in " ".join(apart.terminal(80).split())
    assert f"{whole} for triton." in apart.markdown().replace("\\", "")


def test_a_peer_has_no_options_and_none_of_its_cells_tells_it_apart(make_record, make_contestant):
    theirs = make_record(contestant=make_contestant(backend="peer:their[s]"))
    found = rows([make_record(), theirs])

    (peer,) = (row for row in found if row.backend == "peer:their[s]")
    assert {peer.options[name] for name in OPTIONS} == {None}
    assert varying(found) == ("backend",)
