"""What records say that may be why a row changed."""

from ring_attn_bench.compare import as_json, terminal
from ring_attn_bench.compare.comparison import compared
from ring_attn_bench.compare.rows import Limits
from ring_attn_bench.compare.why import why
from ring_attn_bench.contract.used import UsedKernel
from ring_attn_bench.records.gpus import GpuLook, GpuWatch
from tests.unit.compare.synthetic_runs import side_of


def kernel(registers, spilled=0, name="forward_kernel"):
    return UsedKernel(name, registers, spilled, 98304, 8)


def test_another_compilers_kernel_is_told_with_what_it_was(make_record):
    before = make_record(kernels=(kernel(168), kernel(90, name="dq_kernel")))
    after = make_record(kernels=(kernel(255, 12), kernel(90, name="dq_kernel")))

    assert why([before], [after]) == (
        "forward_kernel had 168 registers, 0 spilled words and 8 warps, and has 255 registers, "
        "12 spilled words and 8 warps",
    )
    assert why([before], [before]) == ()


def test_kernels_that_one_side_does_not_tell_say_nothing(make_record):
    assert why([make_record()], [make_record(kernels=(kernel(255),))]) == ()


def test_a_side_whose_gpu_was_held_back_is_named_below_the_times_and_in_json(make_record):
    hot = GpuWatch.of([[GpuLook(held_back=("sw_thermal_slowdown",))]] * 4)
    before, cool = make_record(), make_record()
    ring = [[2.0 * time for time in times] for times in cool.speed.samples.ring]
    samples = cool.speed.samples.model_copy(update={"ring": ring})
    speed = cool.speed.model_copy(update={"samples": samples})
    after = cool.model_copy(update={"speed": speed, "gpus": hot})

    found = compared(
        side_of("old", {before.key: before}), side_of("new", {after.key: after}), Limits()
    )

    said = "in B, GPU 0 was slowed down by the driver, against heat (sw_thermal_slowdown"
    assert said in " ".join(terminal.text(found, 100).split())
    assert said in as_json.text(found)
