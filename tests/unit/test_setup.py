"""Which rings a machine runs when nobody says."""

import pytest

from ring_attn_bench.bench.setup import MachineLacks, Setup, setups


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
