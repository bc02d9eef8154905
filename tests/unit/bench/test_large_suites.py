"""What is too much of a suite: digits, lists in lists, combinations; a sentence, and at once."""

import time

import pytest

from ring_attn_bench.bench.setup import played_setup
from ring_attn_bench.bench.suite import load
from ring_attn_bench.errors import InvalidArgument, SuiteError
from tests.patience import limit

SMALL = """
name = "x"
[[grid]]
backends = ["aten"]
seqlen_per_gpu = [256]
heads = ["4:2"]
head_dim = [64]
dtype = ["float32"]
"""
TOO_MUCH = {
    "5000 digits": (SMALL.replace("256", "1" * 5000), "Exceeds the limit"),
    "lists in lists": (f"{SMALL}window = {'[' * 5000}{']' * 5000}", "nested too deep"),
    "5000 digits in a list": (f"{SMALL}grouping = [[{'9' * 5000}]]", "Exceeds the limit"),
    "4000 digits": (f"{SMALL}slots = [{'9' * 4000}]", "is more than the 2147483647"),
    "some lists in lists": (f"{SMALL}window = [{'[' * 300}{']' * 300}]", "valid integer"),
    "a large product": (
        SMALL.replace("[256]", str([2 * x for x in range(1, 1001)]))
        + f"batch = {list(range(1, 1001))}\nslots = {list(range(1, 101))}",
        "come to 100,000,000 combinations, and a suite has at most 20,000; shorten",
    ),
    "large options": (
        SMALL + f"slots = {list(range(1, 3001))}\nlanding_tokens = {list(range(1, 3001))}",
        "come to 9,000,000 combinations",
    ),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_more_than_can_be_read_or_run_is_a_sentence_at_once(tmp_path, what):
    text, sentence = TOO_MUCH[what]
    path = tmp_path / "large.toml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(SuiteError, match=sentence) as raised:
        load(path)
    assert len(str(raised.value)) < 1000
    assert time.monotonic() - began < limit(5)


def test_a_suite_of_many_grids_is_counted_over_all_of_them(tmp_path):
    grid = SMALL.partition("name")[2].partition("\n")[2] + f"batch = {list(range(1, 7001))}\n"
    path = tmp_path / "large.toml"
    path.write_text('name = "x"\n' + grid * 3)
    with pytest.raises(SuiteError, match="come to 21,000 combinations"):
        load(path)


def test_a_suite_that_begins_with_the_mark_of_an_editor_is_read(tmp_path):
    path = tmp_path / "marked.toml"
    path.write_text(f"\ufeff{SMALL}", encoding="utf-8")
    assert load(path).name == "x"


def test_ranks_of_5000_digits_are_no_ranks_to_play():
    with pytest.raises(InvalidArgument, match=r"playing is '9+\.\.\.; it must be"):
        played_setup(4, 2, f"{'9' * 5000}+1")
