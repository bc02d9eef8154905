"""Launches whose tables hold another batch than they were made for, interpreted on a CPU."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import documents, refill_documents
from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
from ring_attn_bench.plan.problem import Mask, Score
from tests.triton_interpreted.checking import BACKEND
from tests.unit.backends.test_triton_refilled import launch_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]

TOKENS, HEADS, DIM = 40, 2, 16
FIRST, SECOND = [0, 30, 80], [0, 7, 9, 44, 79, 80]


def tensors():
    random = torch.Generator().manual_seed(1)
    return [torch.randn(1, TOKENS, HEADS, DIM, generator=random) for _ in range(6)]


def computed(backend, where, score, rows=None):
    """out, lse, dq, dk and dv of own and of landed keys."""
    q, k, v, landed_k, landed_v, dout = tensors()
    keys = Gathering(Keys(k, v), Keys(landed_k, landed_v))
    out, lse = backend.gathered_forward(q, keys, where, score)
    delta = (dout * out).sum(-1).transpose(1, 2).contiguous()
    rows = Rows(q, dout, out, lse, delta)
    own, landed = (Keys(*(torch.full_like(k, torch.nan) for _ in "kv")) for _ in range(2))
    backend.gathered_dkdv(rows, keys, own, landed, where, score, own_first=False)
    return out, lse, backend.gathered_dq(rows, keys, where, score), *own, *landed


@pytest.mark.parametrize("mask", [Mask(True), Mask(False, 20, 3)], ids=str)
@pytest.mark.parametrize("partition", ["zigzag", "striped"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_launch_that_was_made_for_one_batch_computes_the_other(partition, mask, rank):
    value = documents(FIRST, partition, 2, capacity=6)
    captured, score = launch_of(value, rank, mask), Score(DIM**-0.5)
    right = computed(ReferenceBackend(), captured, score)
    for wanted, found in zip(right, computed(BACKEND, captured, score), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    refill_documents(value, documents(SECOND, partition, 2))
    other = computed(ReferenceBackend(), launch_of(value, rank, mask), score)
    assert not torch.allclose(right[0], other[0])
    for wanted, found in zip(other, computed(BACKEND, captured, score), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
