"""One launch over own and landed keys, interpreted on a CPU: what it gives, and what it waits for.

The truth is attention in float64 over all keys at once, as for a block.
"""

import os
from dataclasses import replace

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_bench.positions import Band, Range
from tests.triton_interpreted.checking import CAUSAL, Case, judge
from tests.triton_interpreted.rings import PLAIN, Ring, computed

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]

HALF, SINGLE = torch.float16, torch.float32
CAUSAL_CASE = replace(PLAIN, band=CAUSAL)
GROUPED = Case(batch=2, heads=4, groups=2, head_dim=16, head_dim_v=40, band=CAUSAL)
ODD = Case(heads=2, groups=1, head_dim=59, head_dim_v=24)
EVERYTHING = Case(
    batch=2, heads=2, groups=1, head_dim=16, softcap=3.0, alibi=True, dropout_p=0.3,
    band=Band(0, 120),
)  # fmt: skip

RINGS = {
    "zigzag, causal": (Ring(tokens=150, case=CAUSAL_CASE), HALF),
    "zigzag, last rank": (Ring(world=4, rank=3, case=CAUSAL_CASE), HALF),
    "zigzag, first rank": (Ring(world=2, rank=0, case=CAUSAL_CASE), SINGLE),
    "zigzag, full": (Ring(world=2), SINGLE),
    "zigzag, window": (Ring(case=replace(PLAIN, band=Band(0, 100))), HALF),
    "striped, causal": (Ring("striped", case=CAUSAL_CASE), HALF),
    "striped, window": (Ring("striped", case=replace(PLAIN, band=Band(-40, 90))), HALF),
    "contiguous, causal": (Ring("contiguous", rank=2, case=CAUSAL_CASE), SINGLE),
    "contiguous, nothing of others": (Ring("contiguous", rank=0, case=CAUSAL_CASE), HALF),
    "one rank": (Ring(world=1, rank=0, case=CAUSAL_CASE), HALF),
    "in another order": (Ring(world=4, order=(3, 0, 2), case=CAUSAL_CASE), HALF),
    "in part": (Ring(parts=(Range(3, 77), Range(50, 90)), case=CAUSAL_CASE), HALF),
    "grouped heads, batch": (Ring(tokens=70, case=GROUPED), HALF),
    "odd length and dims": (Ring("contiguous", tokens=71, case=ODD), SINGLE),
    "softcap": (Ring(case=replace(CAUSAL_CASE, softcap=2.0)), HALF),
    "ALiBi": (Ring(case=replace(CAUSAL_CASE, heads=2, alibi=True)), HALF),
    "ALiBi, striped": (Ring("striped", tokens=40, case=replace(PLAIN, alibi=True)), SINGLE),
    "dropout": (Ring(case=replace(CAUSAL_CASE, heads=2, dropout_p=0.2)), HALF),
    "dropout, striped": (Ring("striped", tokens=40, case=replace(PLAIN, dropout_p=0.2)), SINGLE),
    "everything": (Ring(tokens=70, case=EVERYTHING), HALF),
}


@pytest.mark.parametrize(("ring", "dtype"), RINGS.values(), ids=RINGS.keys())
def test_out_and_gradients_are_as_good_as_plain_torch(ring, dtype):
    tensors = ring.block.tensors(dtype)
    judge(ring.block, computed(ring, tensors, ring.words()), *tensors)


@pytest.mark.parametrize("name", ["zigzag, causal", "everything"])
def test_without_words_and_with_own_keys_last_the_bits_are_the_same(name):
    ring, dtype = RINGS[name]
    tensors = ring.block.tensors(dtype)
    waiting = computed(ring, tensors, ring.words())
    for got, expected in zip(computed(ring, tensors, own_first=False), waiting, strict=True):
        assert torch.equal(got, expected)
