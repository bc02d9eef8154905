"""What GPUs said while a row was timed, kept look by look, and what of it is suspicious."""

import json

import pytest

from ring_attn_bench.contract.used import UsedKernel
from ring_attn_bench.records.gpus import GpuLook, GpuWatch
from ring_attn_bench.records.record import Record, append, read


def looks(clocks, **facts):
    """Before, while calls ran, and afterwards, on one GPU."""
    return [
        [GpuLook(sm_mhz=mhz, memory_mhz=3201, watts=600.0 + at, celsius=50 + at, **facts)]
        for at, mhz in enumerate((1980, *clocks, 1980))
    ]


STEADY = (1755, 1740, 1770, 1755)


def test_figures_are_of_the_looks_while_calls_ran_and_of_the_gpu_that_is_worst():
    first, second = looks(STEADY), looks((1500, 1515, 1500, 1500))
    both = GpuWatch.of([[*a, *b] for a, b in zip(first, second, strict=True)])

    assert (both.sm_mhz, both.memory_mhz, both.watts) == (1500, 3201, 602.5)
    assert both.celsius == 55  # after the last call, too
    assert [gpu.looks for gpu in both.gpus] == [4, 4]


def test_a_steady_gpu_at_its_power_cap_is_not_suspicious():
    watch = GpuWatch.of(looks(STEADY, held_back=("sw_power_cap",), others=0))

    assert watch.held_back == ("sw_power_cap",)
    assert watch.suspicions == ()


@pytest.mark.parametrize(
    ("reason", "who"),
    [
        ("hw_slowdown", "the hardware, which halves clocks or worse"),
        ("hw_thermal_slowdown", "the hardware, against heat"),
        ("sw_thermal_slowdown", "the driver, against heat"),
        ("hw_power_brake_slowdown", "the power supply's brake"),
    ],
)
def test_who_slowed_a_gpu_down_is_said(reason, who):
    watch = GpuWatch.of(looks(STEADY, held_back=("sw_power_cap", reason)))

    assert watch.suspicions == (f"GPU 0 was slowed down by {who} ({reason}, in 4 of 4 looks)",)


def test_several_gpus_are_one_sentence_and_the_finer_reason_is_the_one_that_is_told():
    both = ("hw_slowdown", "hw_thermal_slowdown")
    one, other = looks(STEADY, held_back=both, others=1), looks(STEADY, held_back=both)
    whole = [[*a, *b] for a, b in zip(one, other, strict=True)]

    assert GpuWatch.of(whole).suspicions == (
        "GPUs 0, 1 were slowed down by the hardware, against heat (hw_thermal_slowdown, in 4 of 4 "
        "looks)",
        "GPU 0 had a process of somebody else",
    )


def test_what_held_it_back_before_and_after_calls_does_not_count():
    whole = looks(STEADY)
    whole[0] = whole[-1] = [GpuLook(sm_mhz=1200, held_back=("hw_slowdown",))]

    assert GpuWatch.of(whole).suspicions == ()


def test_a_clock_that_moves_more_than_a_twentieth_is_said():
    falls = GpuWatch.of(looks((1980, 1980, 1965, 1980, 1700, 1710, 1700, 1725)))

    assert falls.suspicions == (
        "GPU 0's clock went from 1,980 to 1,705 MHz while it was timed",
    )  # fmt: skip


@pytest.mark.parametrize("clocks", [(1980, 1905, 1980, 1905), (1980, 1700), (1980, None, None)])
def test_a_clock_that_jitters_or_was_seen_too_seldom_says_nothing(clocks):
    assert GpuWatch.of(looks(clocks)).suspicions == ()


def test_a_stranger_that_comes_for_one_look_is_said():
    whole = looks(STEADY, others=0)
    whole[2] = [whole[2][0].model_copy(update={"others": 2})]

    assert GpuWatch.of(whole).suspicions == ("GPU 0 had 2 processes of somebody else",)


def test_a_gpu_that_says_nothing_is_kept_with_the_reason():
    whole = [[GpuLook(sm_mhz=1980), GpuLook(unseen="no NVML")]] * 3

    assert GpuWatch.of(whole) == GpuWatch(unseen="no NVML")
    assert GpuWatch.of(whole).suspicions == ()
    assert GpuWatch.of([[], []]) is None, "there are no GPUs on a CPU"


def test_a_record_keeps_its_gpus_and_kernels_and_one_of_before_has_none(tmp_path, make_record):
    kernel = UsedKernel("forward_kernel", 168, 0, 98304, 8)
    whole = make_record(gpus=GpuWatch.of(looks(STEADY, others=0)), kernels=(kernel,))
    path = tmp_path / "records.jsonl"
    append(path, whole)
    append(path, make_record())

    assert [*read(path)] == [whole, make_record()]
    line = json.loads(path.read_text().splitlines()[1])
    assert not {"gpus", "kernels"} & set(line)
    assert Record.model_validate({**line, "schema_version": 2}).gpus is None
