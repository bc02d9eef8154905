"""The suites that come along hold what they say, and configs/README.md says what they hold."""

import re
import shlex
from pathlib import Path

import pytest

from ring_attn_bench.bench import suite_files
from ring_attn_bench.bench.forecast import seconds
from ring_attn_bench.bench.overrule import load_with
from ring_attn_bench.bench.run import EntrySelection
from ring_attn_bench.bench.setup import setups
from ring_attn_bench.bench.suite import load
from tests.source_tree import table_of

README = (Path(__file__).parents[3] / "configs" / "README.md").read_text(encoding="utf-8")
LINES = {
    name: cells
    for name, *cells in re.findall(
        r"^\| `([\w-]+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", README, re.MULTILINE
    )
}
"""By suite, what 1, 2 and 4 GPUs make of it."""
_WORDS = {"one": 1, "two": 2, "four": 4}
PARTS = {
    _WORDS[number]: [
        shlex.split(line)
        for line in re.findall(r"^ring-attn-bench bench .*--resume.*$", text, re.MULTILINE)
    ]
    for number, text in re.findall(r"^### On (\w+) GPUs?\n(.*?)(?=^###|\Z)", README, re.M | re.S)
}
"""By GPUs, the commands that cut suites."""
LONGER = {("long-context", 1), ("gather", 1)}
"""Suites of which some cases take longer than a part may, as the page says, on that many GPUs."""
GPUS = (1, 2, 4)


def suite(name):
    return load(suite_files.suite_path(name))


def entries(name, gpus, ranks=None):
    wanted = suite(name)
    rings = setups(gpus, ranks or wanted.world_size)
    return [e for ring in rings for e in wanted.entries(ring.world_size, ring.played)]


def test_the_table_has_a_line_for_every_suite():
    assert sorted(LINES) == sorted(suite_files.suite_names())


@pytest.mark.parametrize("name", suite_files.suite_names())
def test_records_are_counted_and_estimates_are_those_of_a_dry_run(name):
    for gpus, cell in zip(GPUS, LINES[name], strict=True):
        found = entries(name, gpus)
        records, _, takes = cell.partition(": ")
        assert int(records) == sum(len(e.directions) for e in found)
        about = round(seconds(found, suite(name), gpu=True) / 60)
        assert takes == f"~{max(1, about)} min"


@pytest.mark.parametrize("gpus", GPUS)
def test_what_takes_longer_than_eight_minutes_is_cut_into_parts(gpus):
    long = {
        name for name in LINES if seconds(entries(name, gpus), suite(name), gpu=True) > 8.5 * 60
    }  # fmt: skip

    assert long == {words[3] for words in PARTS[gpus]}


@pytest.mark.parametrize(
    ("gpus", "name"), sorted({(gpus, words[3]) for gpus in GPUS for words in PARTS[gpus]})
)
def test_parts_are_all_of_a_suite_and_each_has_whole_cases_and_eight_minutes(gpus, name):
    met = []
    for words in PARTS[gpus]:
        if words[3] != name:
            continue
        found, wanted = part(gpus, name, options(words))
        minutes = seconds(found, wanted, gpu=True) / 60
        one_case = len({entry.case for entry in found}) == 1
        assert minutes < 8.5 or (one_case and (name, gpus) in LONGER), words
        met += found
    assert sorted(map(str, met)) == sorted(map(str, entries(name, gpus)))


def part(gpus, name, given):
    """The entries of a part, and its suite."""
    changes = [given["--set"]] if "--set" in given else []
    wanted = load_with(suite_files.suite_path(name), changes)
    rings = setups(gpus, int(given.get("--ranks", 0)) or wanted.world_size)
    every = [e for ring in rings for e in wanted.entries(ring.world_size, ring.played)]
    return EntrySelection(cases=given.get("--case", "*")).of(every), wanted


def options(words):
    """Of a part, without what all of them have."""
    rest = [word for word in words[4:] if word != "--resume"]
    return dict(zip(rest[::2], rest[1::2], strict=True))


def test_smoke_takes_a_minute_on_any_machine():
    for gpus in (0, 1, 2, 4, 8):
        assert seconds(entries("smoke", gpus), suite("smoke"), gpu=gpus > 0) < 70


def test_correctness_asks_every_kernel_in_every_partition_and_times_nothing():
    wanted = suite("correctness")

    assert not wanted.timing.enabled
    assert wanted.backends == set(table_of("BACKENDS"))
    found = entries("correctness", 2)
    assert {e.contestant.partition for e in found} == {"contiguous", "zigzag", "striped"}
    assert {e.case.window != (-1, -1) for e in found} == {True, False}
    ratios = {e.case.heads_q // e.case.heads_kv for e in found}
    assert {1, 8} <= ratios


def test_what_is_heavy_on_communication_has_as_many_key_heads_as_query_heads():
    cases = {e.case for e in entries("comm-heavy", 4)}

    assert {case.heads_q == case.heads_kv for case in cases} == {True}
    assert {case.seqlen_per_gpu for case in cases} == {1024, 2048, 4096, 8192}


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_a_long_context_ends_at_a_million_tokens_whatever_the_number_of_gpus(gpus):
    assert max(e.case.seqlen_total for e in entries("long-context", gpus)) == 2**20
