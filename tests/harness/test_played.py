"""A larger ring on two processes, as a person starts it: marked, judged by loopback, or refused."""

import pytest

from ring_attn_bench.records.trace import in_folder
from ring_attn_bench.report import csv
from tests.harness.conftest import Finished, Program


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    program = Program(tmp_path_factory.mktemp("played"))
    suite = program.suite("wrong", "reference", "peer:planted[right]")
    return Finished(program, "bench", "--suite", str(suite), "--as-ranks", "4", "--trace")


def test_a_record_says_who_was_played_on_how_many(played):
    assert played.done.returncode == 1, played.done.stderr
    record = played.records["reference", "backward"]
    assert record.status.value == "ok"
    assert record.case.world_size == 4
    assert record.case.seqlen_total == 64
    who = record.contestant
    assert (who.name, who.played, who.played_on) == ("reference/zigzag/p2p-4on2-0+3", "4on2", 2)
    assert who.playing == (0, 3)
    assert record.accuracy.seqlen_total == 64
    assert record.took.transport == who.options.transport == "p2p"
    speed = record.speed
    assert speed.devices == 4
    assert 1 <= speed.imbalance < 1.2  # of all four ranks
    assert speed.executed_flops >= speed.useful_flops
    for times in (speed.samples.ring, speed.samples.twin, speed.samples.one_gpu):
        assert {len(call) for call in times} == {2}


def test_without_a_gpu_it_is_said_who_plays_and_that_times_say_nothing(played):
    said = "CPU processes play the ranks of the larger ring"
    without = played.records["reference", "backward"].environment["gpu"] is None
    assert (said in played.done.stdout) is without
    assert ("its times say nothing about GPUs" in played.done.stdout) is without


def test_wrong_numbers_are_found_by_the_ring_that_stands_in(played):
    record = played.records["wrong", "forward"]
    assert record.status.value == "wrong"
    assert record.speed is None
    assert "too far from float64" in record.reason


def test_a_peer_is_refused_with_a_sentence(played):
    record = played.records["peer:planted[right]", "forward"]
    assert record.status.value == "unsupported"
    assert "cannot be played on fewer processes than its 4 ranks" in record.reason


def test_each_timed_row_of_ours_was_looked_at_on_the_ranks_that_were_played(played):
    found = {trace.key[1:]: trace for trace in in_folder(played.out, pytest.fail)}
    assert found.keys() == {
        ("reference/zigzag/p2p-4on2-0+3", direction) for direction in ("forward", "backward")
    }
    for trace in found.values():
        assert [rank.rank for rank in trace.ranks] == [0, 3]
        lanes = {span.lane for rank in trace.ranks for span in rank.spans}
        assert lanes >= {"launches", "waits", "keys"}
        assert trace.ideal_ms > 0
    assert "Who waited when" in (played.out / "report.md").read_text()


def test_speeds_of_light_of_the_two_processes_are_in_every_timed_record(played):
    ceilings = played.records["reference", "forward"].ceilings
    for rates in (ceilings.matmul_tflops, ceilings.copy_gbs, ceilings.messages_gbs):
        assert len(rates) == 2
    assert ceilings.unmeasured == ""
    assert played.records["reference", "backward"].speed.link_bytes > 0
    assert played.records["wrong", "forward"].ceilings is None


def test_the_report_is_marked(played):
    report = (played.out / "report.md").read_text()
    assert "W = 4 played on 2 CPU processes, batch 1" in report
    assert (played.out / "plots" / "throughput_w4on2_b1_h2-1_d8_float32.png").exists()
    assert "W = 4 played on 2 CPU processes" in played.done.stdout
    marks = {
        (row.played, row.played_on, row.playing) for row in csv.read(played.out / "results.csv")
    }
    assert marks == {("4on2", 2, "0+3")}


def test_its_command_plays_it_again_and_torchrun_does_too(played):
    program = played.program
    words = played.records["reference", "forward"].command.split()[1:]
    assert words[3:9] == ["--ranks", "2", "--as-ranks", "4", "--playing", "0+3"]

    again = program.run(*words, "--out", str(program.folder / "again"), processes=2)

    assert again.returncode == 0, again.stderr
    assert "W = 4 played on 2" in again.stdout


def test_words_for_who_plays_need_a_ring_to_play(program):
    done = program.run("bench", "--suite", str(program.suite("reference")), "--playing", "first")
    assert done.returncode == 2
    assert "--as-ranks says how large" in done.stderr
