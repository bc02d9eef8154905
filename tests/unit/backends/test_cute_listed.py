"""`cute` among the others: what it says where it cannot run, and what compiles it ahead."""

import pytest
import torch
from ring_attn_backends import BACKENDS, cute
from ring_attn_backends.cute import build, serves

from ring_attn_bench.contract.ahead import ahead
from ring_attn_bench.contract.backend import abilities, gathering
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.registry import backend_class

COMMAND = COMMANDS["nvidia_cutlass_dsl"]


@pytest.fixture
def compiler(monkeypatch):
    """Sets the version of the compiler that is installed, or None for none."""

    def installs(found):
        def version(name):
            assert name == build.COMPILER
            if found is None:
                raise serves.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(serves, "version", version)

    installs("4.8.1")
    return installs


@pytest.fixture
def gpus(monkeypatch):
    """Sets the compute capabilities of the GPUs that are here."""

    def plugs(*capabilities):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda at: capabilities[at])

    return plugs


def test_auto_asks_it_after_those_that_it_was_not_yet_measured_beside():
    order = list(BACKENDS)

    assert order.index("cute") > max(map(order.index, ("flash_attn_4", "cudnn", "triton")))


def test_it_is_made_where_there_is_a_hopper_gpu_whatever_else_there_is(compiler, gpus):
    gpus((8, 0), (9, 0))

    assert cute.CuteBackend().name == "cute"


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        (None, "nvidia-cutlass-dsl is not installed"),
        ("4.9.0", r"written for nvidia-cutlass-dsl 4\.8\.x, and 4\.9\.0 is installed"),
        ("4.7.2", r"written for nvidia-cutlass-dsl 4\.8\.x, and 4\.7\.2 is installed"),
    ],
)
def test_without_its_compiler_it_says_what_installs_it(compiler, gpus, installed, said):
    compiler(installed)
    gpus((9, 0))

    with pytest.raises(BackendUnavailable, match=said) as refused:
        cute.CuteBackend()
    assert refused.value.reason.endswith(f"; try: {COMMAND}")


def test_without_a_gpu_it_says_so(compiler, gpus):
    gpus()

    with pytest.raises(BackendUnavailable, match="no CUDA device that torch can use"):
        cute.CuteBackend()


@pytest.mark.parametrize("capability", [(8, 9), (10, 0), (12, 0)])
def test_on_other_gpus_it_says_what_serves_them(compiler, gpus, capability):
    gpus(capability)
    named = "sm_{}{}; use triton.* or cudnn there".format(*capability)

    with pytest.raises(BackendUnavailable, match=f"for sm_90a .*, not for {named}"):
        cute.CuteBackend()


def test_what_compiles_ahead_is_its_class_and_asks_for_no_gpu(compiler, gpus, monkeypatch):
    gpus()
    compiler("4.8.1")
    kind = ahead(backend_class("cute"))

    assert kind is not None
    assert kind.architectures == ("sm_90a",)
    assert kind.kernels_ahead("sm_90a") > 0
    assert iter(kind.compile_ahead("sm_90a", 1))


def test_rings_may_ask_it_for_one_launch(compiler, gpus):
    gpus((9, 0))
    made = cute.CuteBackend()

    assert gathering(made) is made
    assert abilities(made, alibi=False).gathers
