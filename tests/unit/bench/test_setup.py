"""Which rings a machine runs when nobody says."""

import pytest

from ring_attn_bench.bench.setup import Setup, played_setups, setups
from ring_attn_bench.errors import InvalidArgument, MachineLacks


def test_without_a_gpu_two_ranks_run_on_the_cpu():
    assert setups(0, None) == (Setup(2, 2, "real"),)


def test_one_gpu_runs_one_rank_and_a_ring_of_four_by_loopback():
    assert setups(1, None) == (Setup(1, 1, "real"), Setup(4, 1, "loopback"))


def test_several_gpus_run_a_rank_each():
    assert setups(4, None) == (Setup(4, 4, "real"),)


def test_the_ranks_that_are_wanted_are_run():
    assert setups(4, 2) == (Setup(2, 2, "real"),)
    assert setups(1, 8) == (Setup(8, 1, "loopback"),)
    assert setups(0, 3) == (Setup(3, 3, "real"),)


def test_more_ranks_than_gpus_is_what_the_machine_lacks():
    with pytest.raises(MachineLacks, match="8 ranks were asked for, and this machine has 4 GPUs"):
        setups(4, 8)


def test_more_ranks_than_a_cpu_has_cores_for_is_what_the_machine_lacks(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert setups(0, 32) == (Setup(32, 32, "real"),)
    sentence = "33 ranks .* as many processes on a CPU, .* 4 cores; ask for at most 32"
    with pytest.raises(MachineLacks, match=sentence):
        setups(0, 33)
    with pytest.raises(MachineLacks, match="ask for at most 32"):
        played_setups(0, 34, [64], "ends")


def test_a_larger_ring_is_played_by_pairs_from_its_ends():
    assert played_setups(2, None, [4, 16, 4], "ends") == (
        Setup(4, 2, "4on2", (0, 3)),
        Setup(16, 2, "16on2", (0, 15)),
    )
    assert played_setups(4, None, [8], "ends") == (Setup(8, 4, "8on4", (0, 7, 1, 6)),)
    assert played_setups(8, 2, [16], "last") == (Setup(16, 2, "16on2", (15, 15)),)


def test_without_a_gpu_two_processes_play():
    assert played_setups(0, None, [4], "first") == (Setup(4, 2, "4on2", (0, 0)),)
    assert played_setups(0, None, [4], "1+2") == (Setup(4, 2, "4on2", (1, 2)),)


@pytest.mark.parametrize(
    ("gpus", "wanted", "size", "playing", "sentence"),
    [
        (1, None, 4, "ends", "a larger ring is played by 2 GPUs here, and this machine has 1"),
        (2, 4, 8, "ends", "a larger ring is played by 4 GPUs here, and this machine has 2"),
        (8, 3, 8, "ends", "3 processes cannot play a larger ring, because they do so in pairs"),
        (4, 4, 4, "ends", "a ring of 4 ranks need not be played on 4 processes"),
        (2, None, 4, "middle", "playing is 'middle'; it must be ends, first, last, or a rank of 0"),
        (2, None, 4, "0", "for each of the 2 processes, as 0[+]3"),
        (2, None, 4, "0+4", "a rank of 0 to 3"),
    ],
)
def test_what_cannot_be_played_is_a_sentence(gpus, wanted, size, playing, sentence):
    with pytest.raises((MachineLacks, InvalidArgument), match=sentence):
        played_setups(gpus, wanted, [size], playing)
