"""flash-attn's own tests by our functions: how a sample is taken, and that it can fail."""

import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from scripts.upstream_tests import Sample

SCRIPT = Path(__file__).parents[2] / "scripts" / "upstream_tests.py"
CASES = [f"tests/test_x.py::test_{name}[{case}]" for name in "ab" for case in range(50)]

THEIR_TESTS = """
import pytest
import torch
from flash_attn import flash_attn_func
from flash_attn.flash_attn_interface import _get_block_size_n, USE_TRITON_ROCM
from flash_attn.padding import padded

def attention_ref(q, k, v, causal=False):
    scores = torch.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    if causal:
        scores += torch.full(scores.shape[-2:], -torch.inf).triu(1)
    weights = scores.softmax(-1)
    return torch.einsum("bhts,bshd->bthd", weights, v), weights

def normalize_flash_attn_S(attn_unnorm, q, k, v, is_dropout=False, causal=False):
    return attn_unnorm / _get_block_size_n(q.device, 64, is_dropout, causal)

@pytest.mark.parametrize("scale", [1.0, SCALE])
@pytest.mark.parametrize("causal", [False, True])
def test_out(causal, scale):
    assert not USE_TRITON_ROCM
    q, k, v = padded(torch.randn(3, 1, 5, 2, 8))
    out = flash_attn_func(q, k, v, causal=causal)
    assert torch.allclose(out, scale * attention_ref(q, k, v, causal)[0], atol=1e-5)

def test_weights():
    q, k, v = torch.randn(3, 1, 5, 2, 8)
    _, _, dropped = flash_attn_func(q, k, v, 0.5, return_attn_probs=True)
    assert set(dropped.unique().tolist()) == {-1.0, 1.0}
    weights = normalize_flash_attn_S(dropped.abs(), q, k, v, True)
    assert torch.equal(weights, attention_ref(q, k, v)[1])
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text("raise ImportError('theirs, not built')")
    (tmp_path / "flash_attn" / "padding.py").write_text("padded = list")
    (tmp_path / "tests").mkdir()
    return tmp_path


def ran(checkout, *options, scale):
    (checkout / "tests" / "test_flash_attn.py").write_text(
        THEIR_TESTS.replace("SCALE", str(scale))
    )  # fmt: skip
    command = [sys.executable, SCRIPT, checkout, "--backend", "reference", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_their_tests_pass_by_our_functions_and_what_lies_beside_them_is_theirs(checkout):
    run = ran(checkout, "--processes", "2", scale=1.0)

    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("passed") == 2


def test_a_wrong_result_ends_in_a_failure_that_is_named(checkout):
    run = ran(checkout, "--processes", "2", scale=2.0)

    assert run.returncode == 1
    assert "FAILED" in run.stdout
    assert "test_out[True-2.0]" in run.stdout


def test_parts_are_the_whole_sample_and_nothing_twice():
    whole = Sample(7, 0, 0, 1).sample(CASES)
    parts = [Sample(7, 0, i, 3).sample(CASES) for i in range(3)]

    assert len(whole) == 14
    assert sorted(chain(*parts)) == sorted(whole)


def test_a_sample_follows_from_its_seed_and_not_from_where_a_checkout_lies():
    moved = [f"elsewhere/{name}" for name in CASES]
    first = Sample(7, 1, 0, 1).sample(CASES)

    assert [f"elsewhere/{name}" for name in first] == Sample(7, 1, 0, 1).sample(moved)
    assert Sample(7, 2, 0, 1).sample(CASES) != first
