"""What NVML says of a GPU, as a planted module says it, and what of it a GPU may keep to itself."""

import os
import sys
from types import SimpleNamespace

import pytest

from ring_attn_bench.machine.gpus import SeenGpu, Unseen, limits, others, parent_of
from ring_attn_bench.records.gpus import GpuLook


class NVMLError(Exception):
    pass


class Nvml(SimpleNamespace):
    """A module `pynvml` with one GPU, which answers the questions that it is given answers to."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def nvmlInit(self):  # noqa: N802 - NVML calls it so
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802 - as above
        if uuid != self.uuid:
            raise NVMLError("Not Found")
        return "handle"


def asks(answer):
    def ask(handle, *about):
        assert handle == "handle"
        return answer(*about)

    return ask


def refuses(handle, *about):
    raise NVMLError("Not Supported")


ANSWERS = {
    "nvmlDeviceGetClockInfo": asks({1: 1755, 2: 3201}.get),
    "nvmlDeviceGetMaxClockInfo": asks({1: 1980}.get),
    "nvmlDeviceGetPowerUsage": asks(lambda: 648_123),
    "nvmlDeviceGetEnforcedPowerLimit": asks(lambda: 700_000),
    "nvmlDeviceGetTemperature": asks(lambda sensor: 61),
    "nvmlDeviceGetCurrentClocksEventReasons": asks(lambda: 0x4 | 0x20 | 0x1),
    "nvmlDeviceGetComputeRunningProcesses": asks(lambda: [SimpleNamespace(pid=os.getpid())]),
}


def nvml(uuid="GPU-1", **changes):
    return Nvml(uuid=uuid, **{**ANSWERS, **changes})


def look(module):
    return SeenGpu.of("1", module).look(os.getppid())


def test_a_look_is_all_that_the_gpu_says():
    assert look(nvml()) == GpuLook(
        sm_mhz=1755, memory_mhz=3201, watts=648.1, celsius=61,
        held_back=("sw_power_cap", "sw_thermal_slowdown"), others=0,
    )  # fmt: skip


@pytest.mark.parametrize("name", [n for n in ANSWERS if "Max" not in n and "Limit" not in n])
@pytest.mark.parametrize("how", ["it refuses", "it has no such question"])
def test_what_a_gpu_does_not_say_is_none_and_the_rest_is_there(name, how):
    module = nvml(**{name: refuses})
    if how == "it has no such question":
        delattr(module, name)
    whole, found = look(nvml()), look(module)

    lacking = {n for n in GpuLook.model_fields if getattr(found, n) != getattr(whole, n)}
    assert len(lacking) == (2 if name == "nvmlDeviceGetClockInfo" else 1)
    assert all(getattr(found, n) in (None, ()) for n in lacking)


def test_an_older_driver_is_asked_in_its_own_words():
    module = nvml(
        nvmlDeviceGetCurrentClocksEventReasons=refuses,
        nvmlDeviceGetCurrentClocksThrottleReasons=asks(lambda: 0x80),
    )

    assert look(module).held_back == ("hw_power_brake_slowdown",)


def test_a_part_of_a_gpu_is_found_by_its_own_name():
    assert SeenGpu.of("1", nvml("MIG-1")).handle == "handle"


def test_where_nvml_does_not_begin_or_has_no_such_gpu_the_reason_is_a_sentence(monkeypatch):
    with pytest.raises(Unseen, match="NVML does not answer: Not Found"):
        SeenGpu.of("2", nvml())
    none = nvml()
    monkeypatch.setattr(none, "nvmlInit", lambda: refuses(None), raising=False)
    with pytest.raises(Unseen, match="NVML does not answer: Not Supported"):
        SeenGpu.of("1", none)
    assert limits("2", nvml()) == {"gpu_most_sm_mhz": None, "gpu_most_watts": None}


def test_without_its_package_the_reason_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not there

    with pytest.raises(Unseen, match=r"nvidia-ml-py is not installed; try: pip install 'nvidia-ml"):
        SeenGpu.of("1")


def test_limits_are_facts_of_the_environment():
    assert limits("1", nvml()) == {"gpu_most_sm_mhz": 1980, "gpu_most_watts": 700.0}


FAMILY = {1: 0, 10: 1, 20: 10, 21: 10, 30: 20, 31: 21, 99: 1}
"""By process its parent: 10 is a run; 20 and 21 start its workers, 30 and 31; 99 is no child."""


@pytest.mark.parametrize(
    ("on_it", "strangers"),
    [([30], 0), ([30, 31], 0), ([30, 99], 1), ([30, 31, 99, 99], 1), ([30, 500], 0)],
)
def test_strangers_are_those_that_do_not_come_from_the_run(on_it, strangers):
    assert others(on_it, 10, 30, FAMILY.get) == strangers


def test_nobody_knows_whose_processes_have_numbers_of_another_container():
    assert others([20, 99], 10, 30, FAMILY.get) is None


def test_a_parent_is_told_whatever_a_process_is_called(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (a ) S 9 (b) S 3 7 7 0")

    assert parent_of(7, tmp_path) == 3
    assert parent_of(8, tmp_path) is None
    assert parent_of(os.getpid()) == os.getppid()
