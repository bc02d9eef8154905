"""A suite file is right, or one sentence says what is not."""

from itertools import groupby

import pytest

from ring_attn_bench import suites
from ring_attn_bench.bench.suite import load
from ring_attn_bench.errors import InvalidArgument, SuiteError

GOOD = """
name = "good"
[[grid]]
backends = ["reference"]
partitions = ["zigzag", "striped"]
seqlen_per_gpu = [64, 128]
heads = ["4:2"]
head_dim = [16]
dtype = ["float32"]
causal = [true, false]
"""


def loaded(tmp_path, text):
    path = tmp_path / "suite.toml"
    path.write_text(text)
    return load(path)


@pytest.mark.parametrize("name", suites.suite_names())
def test_every_suite_that_comes_along_loads_and_can_be_dealt_to_1_2_and_4_ranks(name):
    suite = load(suites.suite_path(name))

    for ranks in (1, 2, 4):
        assert suite.entries(ranks, "p2p")


def test_a_grid_is_every_combination_of_its_lists(tmp_path):
    entries = loaded(tmp_path, GOOD).entries(2, "p2p")

    assert len(entries) == len({(e.case.name, e.contestant.name) for e in entries}) == 8
    assert {e.case.seqlen_total for e in entries} == {128, 256}


def test_what_two_grids_have_in_common_runs_once(tmp_path):
    twice = GOOD + GOOD[GOOD.index("[[grid]]") :]

    assert len(loaded(tmp_path, twice).entries(2, "p2p")) == 8


def test_contestants_of_a_case_are_together_whichever_grids_they_are_from(tmp_path):
    other = GOOD[GOOD.index("[[grid]]") :].replace("reference", "aten")
    entries = loaded(tmp_path, GOOD + other).entries(2, "p2p")

    cases = [name for name, _ in groupby(entry.case.name for entry in entries)]
    assert len(cases) == len(set(cases)) == 4


def test_a_peer_has_a_transport_of_its_own_and_none_of_our_settings(tmp_path):
    text = GOOD.replace('["reference"]', '["reference", "peer:torch_cp[math]"]')
    entries = loaded(tmp_path, f"{text}slots = [2, 3]\n").entries(2, "p2p")

    peers = [e.contestant for e in entries if e.contestant.backend == "peer:torch_cp[math]"]
    assert {(c.transport, c.slots, c.gradients) for c in peers} == {("own", 2, "float32")}
    assert len(peers) == len(entries) / 3  # ours twice, for their slots
    assert peers[0].name == "peer:torch_cp[math]/zigzag/own"
    by_loopback = loaded(tmp_path, text).entries(2, "loopback")
    assert {e.contestant.transport for e in by_loopback} == {"loopback"}


def test_on_one_rank_all_partitions_are_one(tmp_path):
    entries = loaded(tmp_path, GOOD).entries(1, "p2p")

    assert {e.contestant.partition for e in entries} == {"contiguous"}
    assert len(entries) == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("causal", "casual"), "unknown key 'casual'. Did you mean 'causal'?"),
        (('"reference"', '"refrence"'), "unknown backend 'refrence'. Did you mean 'reference'?"),
        (('"reference"', '"peer:torchcp[math]"'), "Did you mean 'peer:torch_cp[math]'?"),
        (('"zigzag"', '"zig"'), "unknown partition 'zig'"),
        (("[64, 128]", "[64, -128]"), "grid.0.seqlen_per_gpu.1: Input should be greater than 0"),
        (("[64, 128]", "64"), "grid.0.seqlen_per_gpu: Input should be a valid list, got 64"),
        (('"4:2"', '"4:3"'), "the 4 query heads must be a multiple of the 3 key heads"),
        (('"4:2"', '"four"'), "grid.0.heads.0"),
        (('"float32"', '"float8"'), "'float16', 'bfloat16', 'float32' or 'float64'"),
        (("[true, false]", "[]"), "grid.0.causal: List should have at least 1 item"),
        (('name = "good"', ""), "name: Field required"),
        (("[[grid]]", "[[grid"), "not valid TOML"),
        (('name = "good"', 'name = "good"\ntiming.precision = 2'), "timing.precision"),
    ],
)
def test_a_mistake_is_a_sentence_with_the_file_and_the_key(tmp_path, change, sentence):
    with pytest.raises(SuiteError) as raised:
        loaded(tmp_path, GOOD.replace(*change))

    assert str(raised.value).startswith(str(tmp_path / "suite.toml"))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(SuiteError, match=r"cannot read suite .*: No such file"):
        load(tmp_path / "missing.toml")


def test_a_length_that_cannot_be_dealt_is_refused_before_anything_runs(tmp_path):
    suite = loaded(tmp_path, GOOD.replace("[64, 128]", "[63]"))

    with pytest.raises(InvalidArgument, match="multiple of 4"):
        suite.entries(2, "p2p")
