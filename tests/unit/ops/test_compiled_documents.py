"""Packed documents on a ring that no graph can take: a sentence, before there is a ring."""

from __future__ import annotations

import pytest
import torch

from ring_attn_bench import documents, ring_attn_varlen_func
from ring_attn_bench.plan.documents import DealtDocuments
from ring_attn_bench.plan.partition import get_partition

BALANCED = documents([0, 3, 16], "balanced", 2)
REFUSED = {
    "a partition as data": (
        (torch.tensor([0, 3, 16]), BALANCED.partition),
        r"partition is Dealt.*pass documents\(cu_seqlens, partition, \.\.\.\)",
    ),
    "a value that documents(...) did not make": (
        (DealtDocuments((0, 16), get_partition("zigzag"), 2, 8), None),
        r"have no tensor that a graph could take; make them by documents\(\.\.\.\)",
    ),
    "a value made inside": (
        (lambda: documents([0, 3, 16], "zigzag", 2), None),
        "make the value outside and pass it in",
    ),
    "no starts": ((None, "zigzag"), "cu_seqlens is None; it must be a tensor of shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_graph_can_take_is_a_sentence(name):
    (starts, partition), sentence = REFUSED[name]
    torch._dynamo.reset()

    def call(q):
        given = starts() if callable(starts) else starts
        return ring_attn_varlen_func(q, q, q, given, partition=partition)

    with pytest.raises(Exception, match=sentence):
        torch.compile(call, fullgraph=True, backend="eager")(torch.randn(8, 2, 16))
