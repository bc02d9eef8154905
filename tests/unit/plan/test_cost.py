"""What the cost model says of rings that were measured, and how far it is from that.

The committed tables are the truth: every row of our rings of 4 GPUs by messages, and of 2 GPUs over
copy engines and by messages. Below 4k tokens the host is what is timed, and no row is judged.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import median

import pytest

from ring_attn_bench.plan import cost
from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.cost import (
    Host,
    ToPredict,
    one_call_seconds,
    percent_of_one_call,
    seconds,
)
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.measured import H200, MACHINES
from ring_attn_bench.plan.memory import ShardShape
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import plans
from ring_attn_bench.plan.problem import Mask

RESULTS = Path(__file__).parents[3] / "results"
RUNS = ("2026-11-20_4xH200_hopper", "2026-11-21_4xH200_peers")
BLOCKS = Abilities(frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW}), gathers=True)
CAUSAL = Mask(causal=True)
FROM = 4096
"""Tokens a rank: a forward of 2k takes 0.3 ms of a GPU and 1 of a host."""


@dataclass(frozen=True)
class Row:
    """A contestant and a direction of a case, and its milliseconds in some run."""

    run: str
    kernel: str
    partition: str
    direction: str
    tokens: int
    heads: tuple[int, int, int]
    mask: Mask
    measured: float
    one_call: float

    @property
    def what(self):
        return replace(self, run="", measured=0.0, one_call=0.0)

    @property
    def case(self):
        return self.run, self.direction, self.tokens, self.heads, self.mask

    @property
    def wanted(self):
        return {
            "forward": self.direction != "backward",
            "backward": self.direction != "forward",
        }

    @property
    def asked(self):
        heads_q, heads_kv, dim = self.heads
        return ToPredict(H200, self.kernel, "p2p", ShardShape(1, heads_q, heads_kv, dim, dim))

    @property
    def predicted(self):
        ring = ring_of(self.partition, 4, self.tokens, self.mask)
        return 1e3 * max(seconds(self.asked, one, **self.wanted) for one in ring)


@cache
def ring_of(partition, world_size, tokens, mask=CAUSAL, grouping=None, *, one=False):
    layout = Layout(
        PARTITIONS[partition], world_size, tokens, mask.band, 2, grouping, one_launch=one
    )
    return plans(layout, BLOCKS)


@cache
def rows():
    found = []
    for run in RUNS:
        with (RESULTS / run / "results.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if row["backend"] not in H200.kernels or row["status"] != "ok":
                    continue
                if row["backend"] == "triton" and run == RUNS[0]:
                    continue  # kernels of before Hopper's, which are no more
                heads = int(row["heads_q"]), int(row["heads_kv"]), int(row["head_dim"])
                left = int(row["window_left"]) if row["window_left"] else None
                found.append(
                    Row(
                        run, row["backend"], row["partition"], row["direction"],
                        int(row["seqlen_per_gpu"]), heads, Mask(row["causal"] == "true", left),
                        float(row["latency_ms"]), float(row["one_gpu_ms"]),
                    )
                )  # fmt: skip
    return [row for row in found if row.tokens >= FROM]


def errors(found):
    """By what was measured, of the nearer of its two runs: they differ by up to 90 %."""
    by = defaultdict(list)
    for row in found:
        by[row.what].append(abs(row.predicted / row.measured - 1))
    return [min(several) for several in by.values()]


def test_rings_of_four_by_messages_are_predicted():
    found = errors(rows())
    assert len(found) == 70
    assert median(found) < 0.03
    assert max(found) < 0.20
    long = errors([row for row in rows() if row.tokens >= 8192])
    assert len(long) == 57
    assert median(long) < 0.022
    assert max(long) < 0.11


def test_where_a_run_is_far_off_another_run_of_the_same_row_is_as_far():
    """Two forwards at 4k took twice as long a day later, in a host that was busy."""
    far = [row for row in rows() if abs(row.predicted / row.measured - 1) > 0.20]
    assert 0 < len(far) < 0.1 * len(rows())
    for row in far:
        runs = [other.measured for other in rows() if other.what == row.what]
        assert max(runs) > 1.25 * min(runs), row


def test_what_was_faster_by_a_tenth_is_said_to_be_faster():
    by_case = defaultdict(list)
    for row in rows():
        by_case[row.case].append(row)
    right = wrong = 0
    for case in by_case.values():
        for one, other in combinations(case, 2):
            if max(one.measured, other.measured) > 1.1 * min(one.measured, other.measured):
                agrees = (one.measured < other.measured) == (one.predicted < other.predicted)
                right, wrong = right + agrees, wrong + (not agrees)
    assert right > 150
    assert wrong <= 1  # flash_attn_4 and triton at 4k, on the day when the host was busy


def test_one_call_of_one_gpu_is_predicted():
    """Whose length is the square root of the ranks as long."""
    found = []
    for row in rows():
        if row.direction == "forward_backward" or row.mask.has_window:
            continue
        backward = row.direction == "backward"
        took = one_call_seconds(
            row.asked, 2 * row.tokens, causal=row.mask.causal, backward=backward
        )
        found.append(abs(1e3 * took / row.one_call - 1))
    assert len(found) > 50
    assert median(found) < 0.03
    assert max(found) < 0.09


LINE = re.compile(r"(?P<heads>\d+:\d+) L (?P<tokens>\d+): one f (\d+) fb (\d+)")
PASS = re.compile(r"(p2p steps|ce steps|ce one): f (\d+) us [\d.]+ ?%,? fb (\d+)")


@cache
def two_gpus():
    """(way, schedule, heads, tokens, direction), microseconds measured and predicted.

    From a full queue. Of one launch the lines before its heads came in groups are left out.
    """
    log = (RESULTS / "2026-11-29_2xH200_one_launch" / "log.txt").read_text()
    now, _, before = log.partition("(before heads came in groups)")
    found = []
    for text, schedules in ((now, ("ce one",)), (before, ("p2p steps", "ce steps"))):
        for line in filter(LINE.match, text.splitlines()):
            where = LINE.match(line)
            tokens = int(where["tokens"])
            for name, *measured in PASS.findall(line):
                if name not in schedules or tokens < FROM:
                    continue
                way = "p2p" if name == "p2p steps" else "copy_engine"
                shape = ShardShape(1, *map(int, where["heads"].split(":")), 128, 128)
                one = name == "ce one"
                ring = ring_of("zigzag", 2, tokens, grouping=(1,) if one else None, one=one)
                for microseconds, backward in zip(map(int, measured), (False, True), strict=True):
                    took = 1e6 * max(
                        seconds(
                            ToPredict(H200, "triton", way, shape),
                            each,
                            backward=backward,
                            queued=True,
                        )
                        for each in ring
                    )
                    found.append((name, where["heads"], tokens, backward, microseconds, took))
    return found


def test_rings_of_two_over_copy_engines_and_by_messages_are_predicted():
    found = [abs(took / measured - 1) for *_, measured, took in two_gpus()]
    assert len(found) == 28
    assert median(found) < 0.06
    assert max(found) < 0.20


def test_rings_of_two_from_8k_on_are_predicted():
    found = [abs(took / float(row["latency_ms"]) - 1) for row, took in ring_suite()]
    assert len(found) == 32
    assert median(found) < 0.04
    assert max(found) < 0.17


def ring_suite():
    """Rows of the suite `ring`, and milliseconds predicted of ours from 8k tokens on."""
    with (RESULTS / "2026-11-30_2xH200_ring" / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            tokens, schedule = int(row["seqlen_per_gpu"]), row["schedule"]
            plain = row["causal"] == "true" and not row["window_left"]
            ours = schedule in ("steps", "one_launch") and row["keep_keys"] == "false"
            if tokens < 2 * FROM or not plain or not ours:
                continue
            rounds = row["backend"] == "flash_attn_4"  # its shares are bf16, and travel so
            travels = 2 if rounds or row["gradients"] == "input" else 4
            heads = int(row["heads_q"]), int(row["heads_kv"])
            shape = ShardShape(1, *heads, 128, 128, travels=travels)
            asked = ToPredict(H200, row["backend"], row["transport"], shape)
            one = schedule == "one_launch"
            ring = ring_of(row["partition"], 2, tokens, grouping=(1,) if one else None, one=one)
            yield row, 1e3 * slowest(asked, ring, backward="backward" in row["direction"])


def test_of_two_gpus_what_was_faster_by_a_tenth_is_said_to_be_faster():
    compared = 0
    for one, other in combinations(two_gpus(), 2):
        if one[1:4] != other[1:4] or one[4:] == other[4:]:
            continue
        if max(one[4], other[4]) > 1.1 * min(one[4], other[4]):
            assert (one[4] < other[4]) == (one[5] < other[5]), (one, other)
            compared += 1
    assert compared >= 5


SHAPE = ShardShape(1, 32, 8, 128, 128)
FA4 = ToPredict(H200, "flash_attn_4", "copy_engine", SHAPE)


def slowest(asked, ring, **wanted):
    return max(seconds(asked, one, **wanted) for one in ring)


def test_percent_of_one_call_is_what_the_tables_say():
    """README's at 16k on 4 GPUs: of one GPU 90 % forward, 93 % forward and backward."""
    asked = replace(FA4, way="p2p")
    one = ring_of("zigzag", 4, 16384)[0]
    forward = percent_of_one_call(asked, one, causal=True, backward=False)
    both = percent_of_one_call(asked, one, causal=True)
    assert forward == pytest.approx(90, abs=6)
    assert both == pytest.approx(93, abs=6)
    alone = ring_of("zigzag", 1, 16384)[0]
    assert percent_of_one_call(asked, alone, causal=True) == pytest.approx(100, abs=3)


def test_a_pass_takes_no_less_than_its_transfers_and_no_less_than_its_launches():
    narrow = replace(H200, ways={"copy_engine": replace(H200.ways["copy_engine"], bandwidth=1e9)})
    ring = ring_of("zigzag", 4, 8192)
    moved = SHAPE.packed(max(one.fetched_tokens for one in ring), 2)
    assert slowest(replace(FA4, machine=narrow), ring, backward=False) > moved / 1e9
    flops = SHAPE.flops(max(one.area for one in ring), backward=False)
    assert (
        slowest(FA4, ring, backward=False) > flops / H200.kernels["flash_attn_4"].forward[128].flops
    )


@pytest.mark.parametrize("backward", [False, True])
def test_what_makes_a_pass_longer_makes_its_prediction_longer(backward):
    ring = ring_of("zigzag", 4, 8192)
    base = slowest(FA4, ring, backward=backward)
    worse = {
        "more tokens": (FA4, ring_of("zigzag", 4, 16384)),
        "a slower link": (
            replace(FA4, machine=replace(H200, ways={"copy_engine": replace(
                H200.ways["copy_engine"], bandwidth=20e9)})), ring,
        ),
        "a slower kernel": (replace(FA4, kernel="aten"), ring),
        "slower merges": (replace(FA4, machine=replace(H200, memory=1e12)), ring),
        "a slow host": (replace(FA4, machine=replace(H200, host=Host(1, 1, 1))), ring),
        "a contiguous ring": (FA4, ring_of("contiguous", 4, 8192)),
        "wider gradients": (replace(FA4, shape=replace(SHAPE, heads_kv=32)), ring),
    }  # fmt: skip
    for name, (asked, of) in worse.items():
        assert slowest(asked, of, backward=backward) > base, name


def test_a_host_that_is_ahead_does_not_count():
    ring = ring_of("zigzag", 4, 1024)
    slow = replace(FA4, machine=replace(H200, host=Host(1, 1, 1)))
    assert slowest(slow, ring, queued=True) == slowest(FA4, ring, queued=True)
    assert slowest(slow, ring) > 8  # a second for each of four steps, twice


def test_a_kernel_that_accumulates_merges_nothing():
    triton = replace(FA4, kernel="triton")
    ring = ring_of("zigzag", 4, 8192)
    fast, slow = (replace(triton, machine=replace(H200, memory=x)) for x in (1e11, 1e15))
    assert slowest(fast, ring, backward=False) == slowest(slow, ring, backward=False)


def test_the_table_is_whole():
    for machine in MACHINES.values():
        for kernel in machine.kernels.values():
            for paces in (kernel.forward, kernel.backward):
                assert all(1e13 < pace.flops < 1e15 and pace.half > 1 for pace in paces.values())
        assert all(
            0 < way.bandwidth < 1e12 and 0 <= way.steals < 1 for way in machine.ways.values()
        )
    assert not ToPredict(H200, "reference", "p2p", SHAPE).known
    assert not ToPredict(H200, "aten", "all_gather", SHAPE).known
    assert cost.ToPredict(H200, "aten", "p2p", SHAPE).known
