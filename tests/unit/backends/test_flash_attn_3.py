"""FlashAttention-3's adapter over fakes with the signatures of three versions of the package."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ring_attn_backends.flash_attn_3 import FlashAttn3Backend

from ring_attn_bench.conformance.cases import FULL, LOCAL
from ring_attn_bench.conformance.documents import PackedCase
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.block import Form
from ring_attn_bench.plan.problem import Mask
from tests.flash_attn_cases import DOCUMENTS, SOME
from tests.unit.backends.fake_kernels.conformance import (
    Asks,
    Direction,
    answer,
    made,
    module,
    questions,
)
from tests.unit.backends.fake_kernels.flash_attn_3 import (
    VERSIONS,
    Of2024,
    Of2025August,
    Of2025February,
    Of2026,
)

PACKAGE = "flash_attn_interface"
every_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda kind: kind.__name__)


class OnCpu(FlashAttn3Backend):
    """The adapter as it is, but that it takes CPU tensors: the fakes have no others."""

    def unsupported(self, problem):
        return super().unsupported(replace(problem, device="cuda"))


def flags(*off):
    """What a build writes down, flash_attn_config.py, with these left out."""
    names = ("BACKWARD", "LOCAL", "SOFTCAP", "FP16", "VARLEN", "HDIM64", "HDIM96", "HDIM128",
             "HDIM192", "HDIM256", "SM8x")  # fmt: skip
    config = {"build_flags": {f"FLASHATTENTION_DISABLE_{name}": name in off for name in names}}
    return module("flash_attn_config", CONFIG=config)


def backend_of(package, monkeypatch, *off, **options):
    monkeypatch.setattr(OnCpu, "__init__", lambda self: FlashAttn3Backend.__init__(self, **options))
    return made(OnCpu, monkeypatch, PACKAGE, fake=package, flash_attn_config=flags(*off))


@every_version
@pytest.mark.parametrize(("asks", "case", "direction"), questions("bfloat16"))
def test_it_answers_the_conformance_suite(version, asks, case, direction, monkeypatch):
    answer(backend_of(version(), monkeypatch), asks, case, direction)


@every_version
def test_every_argument_is_given_and_none_by_accident(version, monkeypatch):
    package = version()
    backend = backend_of(package, monkeypatch, sm_margin=9)
    case = replace(LOCAL, mask=Mask(True, 17), softcap=2.5, **SOME)
    assert answer(backend, Asks.RESULTS, case, Direction.FORWARD) is None
    assert answer(backend, Asks.RESULTS, case, Direction.BACKWARD) is None
    forward, backward = package.calls
    asked = {"window_size_left": 17, "window_size_right": 0, "causal": False, "softcap": 2.5,
             "softmax_scale": 64**-0.5, "sm_margin": 9}  # fmt: skip
    for call in (forward, backward):
        assert {name: call[name] for name in asked} == asked
    assert backward["deterministic"] is False
    defaults = {"num_splits": 1, "pack_gqa": None, "attention_chunk": 0, "sink_token_length": 0,
                "rotary_interleaved": True}  # fmt: skip
    given = {
        *asked,
        *["q", "k", "v", "dout", "out", "softmax_lse", "dq", "dk", "dv", "deterministic"],
    }
    for call in (forward, backward):
        left = {name: x for name, x in call.items() if name not in given and x is not None}
        assert left == {name: x for name, x in defaults.items() if name in left}


@every_version
def test_causal_blocks_are_causal_calls_and_documents_come_with_their_lengths(version, monkeypatch):
    package = version()
    backend = backend_of(package, monkeypatch)
    answer(backend, Asks.RESULTS, replace(LOCAL, **SOME), Direction.FORWARD)
    assert package.calls[-1]["causal"] is True
    assert package.calls[-1]["sm_margin"] == 0
    packed = PackedCase("", ((40, 50), (0, 3), (9, 9)), Mask(True, 12), **SOME)
    for direction in (Direction.FORWARD, Direction.BACKWARD):
        assert answer(backend, Asks.RESULTS, packed, direction) is None
        call = package.calls[-1]
        assert (call["max_seqlen_q"], call["max_seqlen_k"]) == (40, 50)
        assert call["cu_seqlens_k"].tolist() == [0, 50, 53, 62]
        assert (call["window_size_left"], call["causal"]) == (12, False)


@pytest.mark.parametrize("direction", [Direction.FORWARD, Direction.BACKWARD])
@pytest.mark.parametrize("case", DOCUMENTS, ids=str)
def test_documents(case, direction, monkeypatch):
    assert answer(backend_of(Of2026(), monkeypatch), Asks.RESULTS, case, direction) is None


# refusals


def refused(backend, **changes):
    problem = replace(replace(FULL, dtype="bfloat16").problem("cuda"), **changes)
    return backend.unsupported(problem)


def test_what_it_cannot_do_is_refused(monkeypatch):
    backend = backend_of(Of2026(), monkeypatch)
    assert refused(backend) is None
    assert "CUDA" in FlashAttn3Backend.unsupported(backend, FULL.problem("cpu"))
    assert "float16" in refused(backend, dtype="float64")
    assert "dropout" in refused(backend, dropout_p=0.1)
    assert "ALiBi" in refused(backend, alibi=True)
    assert "256" in refused(backend, head_dim=8, head_dim_v=264)
    assert refused(backend, deterministic=True, head_dim=192, head_dim_v=32) is None
    assert "above 192" in refused(backend, deterministic=True, head_dim=200)
    assert refused(backend, deterministic=True, heads_kv=1) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (10, 0))
    assert "sm_10x" in refused(backend)


@pytest.mark.parametrize("version", [Of2025February, Of2025August])
def test_old_deterministic_kernels_of_few_key_heads_are_refused(version, monkeypatch):
    backend = backend_of(version(), monkeypatch)
    assert refused(backend, deterministic=True) is None
    assert "unset memory" in refused(backend, deterministic=True, heads_kv=1)


def test_what_a_build_left_out_is_refused(monkeypatch):
    off = ("LOCAL", "SOFTCAP", "FP16", "VARLEN", "HDIM192", "HDIM256", "SM8x")
    backend = backend_of(Of2026(), monkeypatch, *off)
    assert backend.forms == {Form.FULL, Form.CAUSAL}
    assert refused(backend) is None
    assert "SOFTCAP" in refused(backend, softcap=1.0)
    assert "FP16" in refused(backend, dtype="float16")
    assert "VARLEN" in refused(backend, packed=True)
    assert "LOCAL, VARLEN" in refused(backend, packed=True, mask=Mask(True, 4))
    assert "136" in refused(backend, head_dim=130)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    assert "SM8x" in refused(backend)


def test_without_small_kernels_small_head_dims_take_the_large_ones(monkeypatch):
    backend = backend_of(Of2026(), monkeypatch, "HDIM64", "HDIM96", "HDIM128", "HDIM192")
    assert refused(backend) is None
    assert "above 192" in refused(backend, deterministic=True)


def test_a_beta_version_is_unavailable(monkeypatch):
    with pytest.raises(BackendUnavailable, match="older than 2025"):
        backend_of(Of2024(), monkeypatch)


def test_without_the_package_it_is_unavailable():
    with pytest.raises(BackendUnavailable, match="pip install"):
        FlashAttn3Backend()
