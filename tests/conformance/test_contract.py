"""What every backend says about itself, and what it must refuse."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from ring_attn_bench.conformance.cases import FULL
from ring_attn_bench.contract.backend import abilities
from ring_attn_bench.plan.block import Form
from ring_attn_bench.plan.lower import chunks, lower
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import DTYPES, Mask
from ring_attn_bench.registry import backends
from tests.conformance.questions import BACKENDS, MISSING


@pytest.mark.parametrize("name", sorted(backends()))
def test_a_backend_has_its_name_in_the_registry(name):
    if name in MISSING:
        pytest.skip(MISSING[name])  # the one skip of a backend that cannot run here
    assert BACKENDS[name].name == name


def test_a_backend_declares_what_the_ring_asks_for(backend):
    assert backend.version()
    assert {Form.FULL, Form.CAUSAL} <= backend.forms <= set(Form)
    assert isinstance(backend.needs_delta, bool)
    assert all(isinstance(v, Mapping) for v in backend.worker_environment.values())
    assert type(backend).__doc__, "its first line is its summary in the listing"


@pytest.mark.parametrize(
    "change",
    [
        {"dropout_p": 0.1},
        {"softcap": 2.0},
        {"alibi": True},
        {"deterministic": True},
        {"dtype": "float64"},
        {"head_dim": 20, "head_dim_v": 20},
        {"head_dim": 512, "head_dim_v": 512},
        {"head_dim": 64, "head_dim_v": 32},
        {"heads_kv": 1},
        {"backward": False},
        {"packed": True},
    ],
    ids=str,
)
def test_a_refusal_is_a_sentence(backend, change, device):
    for dtype in DTYPES:
        problem = replace(replace(FULL, dtype=dtype).problem(device), **change)
        reason = backend.unsupported(problem)
        assert reason is None or len(reason.split()) > 3


def test_the_other_device_is_refused_or_has_a_kernel_too(backend, device):
    other = "cpu" if device == "cuda" else "cuda"
    reason = backend.unsupported(replace(FULL.problem(device), device=other))
    assert reason is None or len(reason.split()) > 3


def test_a_window_is_lowered_to_windows_or_refused_before_anything_runs(backend):
    tokens = chunks((Span(0, 96),))
    lowered = lower(
        tokens, tokens, Mask(causal=True, window_left=10).band, abilities(backend, alibi=False)
    )
    if backend.forms & {Form.WINDOW, Form.GENERAL}:
        assert not isinstance(lowered, str)
        assert all(piece.block.form in backend.forms for piece in lowered)
    else:
        assert isinstance(lowered, str)
        assert "window" in lowered
