"""Nothing here is made on torch's default device, which a program may have set to another one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from ring_attn_bench import (
    flash_attn_func,
    flash_attn_varlen_func,
    join_shards,
    shard,
)
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.truth.oracle import sample_rows
from tests.source_tree import CHECKOUT

FACTORIES = {
    "arange", "as_tensor", "empty", "empty_strided", "eye", "full", "linspace", "ones", "rand",
    "randint", "randn", "randperm", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip


def deviceless(path: Path) -> list[str]:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [
        f"{path.name}:{call.lineno}"
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "torch"
        and call.func.attr in FACTORIES
        and "device" not in {keyword.arg for keyword in call.keywords}
    ]


def test_every_tensor_is_made_on_a_device_that_is_named():
    sources = [x for top in ("ring_attn_bench", "backends") for x in (CHECKOUT / top).rglob("*.py")]
    assert len(sources) > 100
    assert [place for path in sources for place in deviceless(path)] == []


X = torch.randn(1, 8, 2, 16, requires_grad=True)
STARTS = torch.tensor([0, 3, 8], dtype=torch.int32)
OPTIONS = [
    {},
    {"causal": True},
    {"window_size": (2, 0)},
    {"dropout_p": 0.3},
    {"alibi_slopes": torch.tensor([0.5, 0.25])},
    {"softcap": 3.0},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("backend", ["auto", "aten", "flex", "reference"])
def test_a_call_is_computed_on_its_tensors_device_whatever_the_default_is(backend, options):
    def computed() -> list[torch.Tensor]:
        torch.manual_seed(3)
        out = flash_attn_func(X, X, X, backend=backend, **options)
        return [out, *torch.autograd.grad(out.square().sum(), X)]

    try:
        expected = computed()
    except Unsupported:
        pytest.skip("this backend does not do it")
    with torch.device("meta"):
        found = computed()
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", ["auto", "aten", "reference"])
def test_packed_documents_are_too(backend):
    def computed() -> torch.Tensor:
        return flash_attn_varlen_func(
            *[X[0]] * 3, STARTS, STARTS, 5, 5, causal=True, backend=backend
        )

    expected = computed()
    with torch.device("meta"):
        assert torch.equal(computed(), expected)


def test_what_is_made_of_documents_on_the_way_is_too():
    used = torch.tensor([2, 5], dtype=torch.int32)

    def computed() -> tuple[torch.Tensor, ...]:
        return flash_attn_varlen_func(
            *[X[0]] * 3, STARTS, STARTS, 5, 5, 0.3, seqused_k=used, dropout_seed=3,
            return_attn_probs=True, backend="reference",
        )  # fmt: skip

    expected = computed()
    with torch.device("meta"):
        assert all(map(torch.equal, computed(), expected))


def test_shards_are_put_together_on_their_own_device():
    with torch.device("meta"):
        parts = [shard(X, rank, 2, "zigzag") for rank in range(2)]
        assert torch.equal(join_shards(parts, "zigzag"), X)


def test_rows_are_sampled_on_the_cpu():
    expected = sample_rows(64, 8, [16, 32], 1)
    with torch.device("meta"):
        assert torch.equal(sample_rows(64, 8, [16, 32], 1), expected)
