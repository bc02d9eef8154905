"""The adapters of torch's own CUDA kernels, over fakes of the operators that they call."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ring_attn_backends import aten, cudnn
from ring_attn_backends.shared import flash_2, flash_2_limits

from ring_attn_bench.conformance.cases import FULL, LOCAL, BlockCase
from ring_attn_bench.plan.block import Form
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask
from tests.unit.backends.fake_kernels.conformance import Asks, Direction, answer, made, questions
from tests.unit.backends.fake_kernels.torch_operators import CudnnOperators, FlashOperators

BOTH = (Direction.FORWARD, Direction.BACKWARD)


class AtenOnCuda(aten.AtenBackend):
    """The adapter's calls on CUDA, with CPU tensors."""

    def unsupported(self, problem):
        if problem.softcap or problem.alibi:
            return super().unsupported(problem)
        return flash_2_limits.unsupported(problem) or flash_2_limits.build_refusal(self, problem)

    def run_forward(self, q, keys, call):
        return flash_2.forward(self, q, keys, call)

    def run_backward(self, *arguments, deterministic):
        return flash_2.backward(self, *arguments, deterministic=deterministic)


class CudnnOnCpu(cudnn.CudnnBackend):
    def unsupported(self, problem):
        return super().unsupported(replace(problem, device="cuda"))


@pytest.fixture
def operators():
    return FlashOperators()


@pytest.fixture
def on_cuda(operators, monkeypatch):
    monkeypatch.setattr(aten, "_ops", operators)
    monkeypatch.setattr(aten, "_takes_windows", lambda: True)
    return made(AtenOnCuda, monkeypatch)


@pytest.mark.parametrize(("asks", "case", "direction"), questions("bfloat16"))
def test_torchs_flash_attention_answers_the_conformance_suite(on_cuda, asks, case, direction):
    answer(on_cuda, asks, case, direction)


def test_determinism_is_asked_for_and_the_switch_is_put_back(on_cuda, operators):
    case = replace(LOCAL, dtype="bfloat16", heads=4)
    assert answer(on_cuda, Asks.REPEATS, case, Direction.BACKWARD) is None
    assert operators.calls[-1].deterministic
    assert not torch.are_deterministic_algorithms_enabled()
    assert answer(on_cuda, Asks.RESULTS, case, Direction.BACKWARD) is None
    assert not operators.calls[-1].deterministic


def test_windows_are_as_the_operators_of_this_torch_have_them(monkeypatch):
    assert aten._takes_windows(), "torch 2.11 and later have them in both directions"
    assert Form.WINDOW not in aten.AtenBackend().forms, "there is no CUDA here"
    assert Form.WINDOW in made(aten.AtenBackend, monkeypatch).forms
    monkeypatch.setattr(aten, "_takes_windows", lambda: False)
    assert Form.WINDOW not in made(aten.AtenBackend, monkeypatch).forms


@pytest.mark.parametrize("mask", [Mask(True), Mask(True, 9), Mask(False, 25, 22), Mask(False, 8)],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("direction", BOTH)
def test_a_cpu_tensor_beside_a_gpu_gets_its_windows_too(mask, direction, monkeypatch):
    """There, `forms` has a window, and the CPU kernel is given one as a mask to add."""

    class Unasked(aten.AtenBackend):
        def unsupported(self, problem):
            return None

    case = BlockCase("", (Span(0, 80),), (Span(30, 20),), mask, heads=4, key_heads=2)
    assert answer(made(Unasked, monkeypatch), Asks.RESULTS, case, direction) is None


# cuDNN


@pytest.fixture(params=[3, 4], ids=["lse of 3 dims", "lse of 4 dims"])
def cudnn_operators(request, monkeypatch):
    found = CudnnOperators(request.param)
    monkeypatch.setattr(cudnn, "_cudnn", found)
    cudnn._lse_dims.cache_clear()
    yield found
    cudnn._lse_dims.cache_clear()


@pytest.fixture
def on_cudnn(cudnn_operators, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    return made(CudnnOnCpu, monkeypatch)


@pytest.mark.parametrize(("asks", "case", "direction"), questions("bfloat16"))
def test_cudnn_answers_the_conformance_suite(on_cudnn, asks, case, direction):
    answer(on_cudnn, asks, case, direction)


@pytest.mark.parametrize("rows", [1, 2, 70])
@pytest.mark.parametrize("dim", [64, 20])
@pytest.mark.parametrize("direction", BOTH)
def test_a_single_key_is_exact_and_no_error_of_one_rank(
    on_cudnn, cudnn_operators, rows, dim, direction
):
    some = {"dim": dim, "heads": 4, "key_heads": 2, "dtype": "bfloat16"}
    for case in (
        BlockCase("all rows after it", (Span(5, rows),), (Span(3, 1),), **some),
        BlockCase("its own row", (Span(3, 1),), (Span(3, 1),), LOCAL.mask, **some),
    ):
        assert answer(on_cudnn, Asks.RESULTS, case, direction) is None
    assert set(cudnn_operators.keys) <= {2, 64}


def test_a_single_key_beside_others_adds_up(on_cudnn):
    case = BlockCase("", (Span(1, 40),), (Span(0, 41),), LOCAL.mask, heads=4, dtype="bfloat16")
    assert answer(on_cudnn, Asks.TWO_BLOCKS, case, Direction.BACKWARD) is None


def test_what_cudnn_cannot_do_is_refused(on_cudnn):
    def refused(**changes):
        return on_cudnn.unsupported(
            replace(replace(FULL, dtype="bfloat16").problem("cpu"), **changes)
        )

    assert refused() is None
    assert refused(head_dim=20, head_dim_v=63) is None
    assert "128" in refused(head_dim=64, head_dim_v=129)
    assert "single row" in refused(dropout_p=0.1)
    assert "packed" in refused(packed=True)
    assert "determinism" in refused(deterministic=True)
    assert "CUDA" in cudnn.CudnnBackend.unsupported(on_cudnn, FULL.problem("cpu"))
