"""A suite file is right, or one sentence says what is not."""

from itertools import groupby

import pytest

from ring_attn_bench import registry
from ring_attn_bench.bench import suite_files
from ring_attn_bench.bench.grid import Grid
from ring_attn_bench.bench.start import Request, read
from ring_attn_bench.bench.suite import load
from ring_attn_bench.errors import InvalidArgument, SuiteError
from ring_attn_bench.ring.options import DEFAULTS, RingOptions

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


@pytest.mark.parametrize("name", suite_files.suite_names())
def test_every_suite_that_comes_along_loads_and_can_be_dealt_to_1_2_and_4_ranks(name):
    suite = load(suite_files.suite_path(name))

    for ranks in (1, 2, 4):
        assert suite.entries(ranks, "real")


def test_a_grid_is_every_combination_of_its_lists(tmp_path):
    entries = loaded(tmp_path, GOOD).entries(2, "real")

    assert len(entries) == len({(e.case.name, e.contestant.name) for e in entries}) == 8
    assert {e.case.seqlen_total for e in entries} == {128, 256}


def test_lengths_of_all_ranks_together_stay_whatever_the_number_of_ranks(tmp_path):
    suite = loaded(tmp_path, GOOD.replace("seqlen_per_gpu", "seqlen_total"))

    for ranks in (1, 2, 4):
        assert {e.case.seqlen_total for e in suite.entries(ranks, "real")} == {64, 128}
    with pytest.raises(SuiteError, match=r"grid\.0: .*64 tokens cannot be dealt to 48 ranks"):
        suite.entries(48, "real")


@pytest.mark.parametrize("lengths", ["", "seqlen_per_gpu = [64]\nseqlen_total = [64]"])
def test_a_grid_has_lengths_of_one_kind(tmp_path, lengths):
    with pytest.raises(SuiteError, match="it must have one of the two"):
        loaded(tmp_path, GOOD.replace("seqlen_per_gpu = [64, 128]", lengths))


def test_lengths_of_both_kinds_count_toward_what_a_suite_may_have(tmp_path):
    listed = ", ".join(str(64 * (n + 1)) for n in range(10_001))

    with pytest.raises(SuiteError, match="20,000"):
        loaded(tmp_path, GOOD.replace("seqlen_per_gpu = [64, 128]", f"seqlen_total = [{listed}]"))


def test_what_two_grids_have_in_common_runs_once(tmp_path):
    twice = GOOD + GOOD[GOOD.index("[[grid]]") :]

    assert len(loaded(tmp_path, twice).entries(2, "real")) == 8


def test_contestants_of_a_case_are_together_whichever_grids_they_are_from(tmp_path):
    other = GOOD[GOOD.index("[[grid]]") :].replace("reference", "aten")
    entries = loaded(tmp_path, GOOD + other).entries(2, "real")

    cases = [name for name, _ in groupby(entry.case.name for entry in entries)]
    assert len(cases) == len(set(cases)) == 4


def test_a_peer_has_a_transport_of_its_own_and_none_of_our_settings(tmp_path):
    text = GOOD.replace('["reference"]', '["reference", "peer:torch_cp[math]"]')
    entries = loaded(tmp_path, f"{text}slots = [2, 3]\n").entries(2, "real")

    peers = [e.contestant for e in entries if e.contestant.backend == "peer:torch_cp[math]"]
    assert {(c.transport, c.options) for c in peers} == {("own", None)}
    assert len(peers) == len(entries) / 3  # ours twice, for their slots
    assert peers[0].name == "peer:torch_cp[math]/zigzag/own"
    by_loopback = loaded(tmp_path, text).entries(2, "loopback")
    assert {e.contestant.transport for e in by_loopback} == {"loopback"}


AXES = {
    "transport": ["auto", "p2p"],
    "schedule": ["steps", "gather"],
    "slots": [1, "auto"],
    "grouping": [[1, 2], "auto"],
    "gradients": ["input", "float32"],
    "handshake": [True, False],
    "landing_tokens": [4096, "unset"],
    "keep_keys": [True, False],
}
"""By option two values, as a suite file says them."""


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_option_of_a_ring_is_an_axis_and_its_contestants_have_names_of_their_own(
    tmp_path, name
):
    listed = str(AXES[name]).replace("True", "true").replace("False", "false")
    entries = loaded(tmp_path, f"{GOOD}{name} = {listed}\n").entries(4, "real")

    plain = {"unset": None}
    wanted = [tuple(v) if isinstance(v, list) else plain.get(v, v) for v in AXES[name]]
    found = dict.fromkeys(entry.contestant for entry in entries)
    assert [getattr(c.options, name) for c in found if c.partition == "zigzag"] == wanted
    assert len({contestant.name for contestant in found}) == 4


def test_a_grid_that_says_nothing_of_options_is_the_ring_of_the_defaults_by_what_every_group_can_do(
    tmp_path,
):
    entries = loaded(tmp_path, GOOD).entries(2, "real")

    assert {e.contestant.options for e in entries} == {
        RingOptions(transport=registry.EVERYWHERE, slots=2)
    }
    assert {e.contestant.name for e in entries} == {
        "reference/zigzag/p2p", "reference/striped/p2p",
    }  # fmt: skip


def test_by_loopback_transports_are_one(tmp_path):
    text = f'{GOOD}transport = ["auto", "p2p"]\n'

    assert len(loaded(tmp_path, text).entries(2, "loopback")) == 8
    assert len(loaded(tmp_path, text).entries(2, "real")) == 16


def test_on_one_rank_schedules_are_one(tmp_path):
    text = f'{GOOD}schedule = ["steps", "gather"]\nslots = [2, 3]\n'

    assert len(loaded(tmp_path, text).entries(1, "real")) == 4


def test_a_grouping_that_does_not_add_up_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(InvalidArgument, match="add up to the 1 other ranks"):
        loaded(tmp_path, f"{GOOD}grouping = [[3]]\n").entries(2, "real")


def test_on_one_rank_all_partitions_are_one(tmp_path):
    entries = loaded(tmp_path, GOOD).entries(1, "real")

    assert {e.contestant.partition for e in entries} == {"contiguous"}
    assert len(entries) == 4


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("causal", "casual"), "unknown key 'casual'. Did you mean 'causal'?"),
        (('"reference"', '"refrence"'), "unknown backend 'refrence'. Did you mean 'reference'?"),
        (('"reference"', '"peer:torchcp[math]"'), "Did you mean 'peer:torch_cp[math]'?"),
        (('"zigzag"', '"zig"'), "unknown partition 'zig'"),
        (
            ("causal = ", 'transport = ["twin"]\ncausal = '),
            "grid.0.transport.0: unknown transport 'twin'",
        ),
        (
            ("causal = ", 'schedule = ["gahter"]\ncausal = '),
            "grid.0.schedule.0: unknown schedule 'gahter'. Did you mean 'gather'?",
        ),
        (("causal = ", "slots = [0]\ncausal = "), "slots is 0, but a ring needs at least 1"),
        (("causal = ", "slot = [1]\ncausal = "), "unknown key 'slot'. Did you mean 'slots'?"),
        (
            ("causal = ", 'schedule = ["steps"]\ngrouping = [[3]]\ncausal = '),
            "but grouping is (3,)",
        ),
        (("[64, 128]", "[64, -128]"), "grid.0.seqlen_per_gpu.1: Input should be greater than 0"),
        (
            ("[64, 128]", "[64, 63]"),
            "seqlen_per_gpu.1 is 63, but partition 'zigzag' deals each rank 2",
        ),
        (("[16]", "[true]"), "grid.0.head_dim.0: Input should be a valid integer, got True"),
        (("[16]", f"[{10**20}]"), f"less than or equal to 2147483647, got {10**20}"),
        (('"4:2"', f'"{10**20}:1"'), "there cannot be more than 2147483647 heads"),
        (('name = "good"', f'name = "good"\nseed = {10**20}'), "seed: Input should be less than"),
        (('name = "good"', 'name = "good"\ncase_seconds = true'), "case_seconds: Input should be"),
        (("[true, false]", "[1]"), "grid.0.causal.0: Input should be a valid boolean, got 1"),
        (("causal = ", "window = [[true, 0]]\ncausal = "), "grid.0.window.0.0"),
        (("causal = ", "softcap = [inf]\ncausal = "), "softcap.0: Input should be a finite number"),
        (("causal = ", "slots = [true]\ncausal = "), "grid.0.slots.0: slots is True"),
        (("causal = ", f"slots = [{10**20}]\ncausal = "), "grid.0.slots.0: "),
        (
            ('name = "good"', 'name = "good"\ntiming = {min_samples = 10, max_samples = 9}'),
            "timing: max_samples is 9 and min_samples 10",
        ),
        (("[64, 128]", "64"), "grid.0.seqlen_per_gpu: Input should be a valid list, got 64"),
        (('"4:2"', '"4:3"'), "the 4 query heads must be a multiple of the 3 key heads"),
        (('"4:2"', '"four"'), "grid.0.heads.0"),
        (('"4:2"', '"2"'), "'2' must be query heads and key heads, as \"32:8\""),
        (('"4:2"', '"0:1"'), "'0:1' must be query heads and key heads, as \"32:8\""),
        (('"float32"', '"float8"'), "'float16', 'bfloat16', 'float32' or 'float64'"),
        (("[true, false]", "[]"), "grid.0.causal: List should have at least 1 item"),
        (('name = "good"', ""), "name: Field required"),
        (("[[grid]]", "[[grid"), "not valid TOML"),
        (("causal = ", "softcap = [inf]\ncausal = "), "grid.0.softcap.0: Input should be a finite"),
        (("causal = ", "softcap = [nan]\ncausal = "), "grid.0.softcap.0: Input should be a finite"),
        (
            ("causal = ", "softcap = [1e39]\ncausal = "),
            "grid.0.softcap.0: 1e+39 must be 0 (none)",
        ),
        (
            ("causal = ", "softcap = [1e-39]\ncausal = "),
            "grid.0.softcap.0: 1e-39 must be 0 (none)",
        ),
        (
            ("[[grid]]", "world_size = 2000\n[[grid]]"),
            "world_size: Input should be less than or equal to 1024",
        ),
        (
            ("[[grid]]", "as_ranks = [2000]\n[[grid]]"),
            "as_ranks.0: Input should be less than or equal to 1024",
        ),
        (('"good"', '"../good"'), "name: '../good' becomes part of a folder's name"),
        (('"good"', r'"a\\b"'), "becomes part of a folder's name"),
        (('"good"', r'"a\u2028b"'), "becomes part of a folder's name"),
        (('"good"', '".."'), "name: '..' becomes part of a folder's name"),
        (('"good"', '""'), "name: '' becomes part of a folder's name"),
        (('"good"', f'"{"x" * 65}"'), "name: String should have at most 64 characters"),
        (('name = "good"', 'name = "good"\ntiming.precision = 2'), "timing.precision"),
    ],
)
def test_a_mistake_is_a_sentence_with_the_file_and_the_key(tmp_path, change, sentence):
    with pytest.raises(SuiteError) as raised:
        loaded(tmp_path, GOOD.replace(*change))

    assert str(raised.value).startswith(str(tmp_path / "suite.toml"))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("window", ['"full"', "[128]", "[1, 2, 3]", '["all", 0]'])
def test_a_window_that_is_none_is_told_what_one_is(tmp_path, window):
    with pytest.raises(SuiteError, match=r"a window is \[before, after\], .*: \[-1, -1\]\."):
        loaded(tmp_path, f"{GOOD}window = [{window}]\n")


def test_a_file_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(SuiteError, match=r"cannot read suite .*: No such file"):
        load(tmp_path / "missing.toml")


def test_every_mistake_is_said_and_not_the_first_alone(tmp_path):
    text = GOOD.replace("causal", "casual").replace('"zigzag"', '"zig"')
    text = text.replace('["reference"]', '["refrence", "atten"]').replace("[16]", "[0]")

    with pytest.raises(SuiteError, match="has 5 problems") as raised:
        loaded(tmp_path, text)

    _, *problems = str(raised.value).splitlines()
    for mistake in ("'casual'", "'zig'", "'refrence'", "'atten'", "head_dim.0"):
        assert sum(mistake in line for line in problems) == 1


def test_what_a_number_of_ranks_rules_out_names_the_file_and_its_grid(tmp_path):
    other = GOOD[GOOD.index("[[grid]]") :].replace("[16]", "[32]")
    suite = loaded(tmp_path, f"{GOOD}{other}grouping = [[3]]\n")

    for asked in (suite, suite.adding(("aten",))):
        with pytest.raises(SuiteError, match=r"add up to the 1 other ranks") as raised:
            asked.entries(2, "real")
        assert str(raised.value).startswith(f"{tmp_path / 'suite.toml'}: grid.1: grouping (3,)")


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_axis_can_list_the_default_that_it_has_without_being_named(tmp_path, name):
    default = Grid.model_fields[name].default[0]
    written = {None: '"unset"', False: "false"}.get(default, repr(default).replace("'", '"'))
    listed = loaded(tmp_path, f"{GOOD}{name} = [{written}]\n")

    assert listed.entries(2, "real") == loaded(tmp_path, GOOD).entries(2, "real")


def test_none_is_unset_where_an_option_can_be_that_and_lists_are_shown_where_they_are_meant(
    tmp_path,
):
    text = f'{GOOD}grouping = [[1, 2], "unset", "auto"]\nhandshake = [true, "unset"]\n'
    taken = {e.contestant.options for e in loaded(tmp_path, text).entries(4, "real")}

    assert {x.grouping for x in taken} == {(1, 2), None, "auto"}
    assert {x.handshake for x in taken} == {True, None}
    for wrong, sentence in (
        ("grouping = [3]", "in a suite a tuple is a list and None is 'unset'."),
        ("handshake = [0]", "in a suite None is 'unset'."),
        ('slots = ["unset"]', "slots is 'unset', but a ring needs at least 1"),
    ):
        with pytest.raises(SuiteError, match=sentence):
            loaded(tmp_path, f"{GOOD}{wrong}\n")


def test_a_backend_that_no_grid_names_is_added_to_each_and_one_that_is_named_is_not(tmp_path):
    other = GOOD[GOOD.index("[[grid]]") :].replace("reference", "aten").replace("[16]", "[32]")
    suite = loaded(tmp_path, GOOD + other)

    more = suite.adding(("flex", "aten"))

    assert [grid.backends for grid in more.grid] == [["reference", "flex"], ["aten", "flex"]]
    assert suite.adding(("aten",)) == suite


def test_a_suite_says_which_larger_rings_are_played(tmp_path):
    path = tmp_path / "suite.toml"
    path.write_text(GOOD.replace("[[grid]]", 'as_ranks = [4, 8]\nplaying = "last"\n[[grid]]', 1))

    by_suite = read(Request(str(path)))
    by_caller = read(Request(str(path), as_ranks=(16,), playing="0+3"))

    assert [str(ring) for ring in by_suite.rings(2)] == [
        "W = 4 played on 2 processes (ranks 3, 3)", "W = 8 played on 2 processes (ranks 7, 7)",
    ]  # fmt: skip
    assert [ring.playing for ring in by_caller.rings(0)] == [(0, 3)]
    played = by_suite.select(by_suite.rings(2))
    assert {entry.case.world_size for entry in played} == {4, 8}
    assert {entry.contestant.played for entry in played} == {"4on2", "8on2"}
