"""One launch over own and landed keys, interpreted on a CPU: what it gives, and what it waits for.

The truth is attention in float64 over all keys at once, as for a block.
"""

import math
import os
import threading
import time
from dataclasses import replace

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_bench.contract.backend import gathering as gathers
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.positions import Band, Range
from tests.triton_interpreted.checking import BACKEND, CAUSAL, Case, judge, row_sum
from tests.triton_interpreted.rings import PLAIN, Ring, computed, gathering

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


@pytest.mark.parametrize("name", ["zigzag, window", "ALiBi, striped"])
def test_without_words_and_with_own_keys_last_the_bits_are_the_same(name):
    ring, dtype = RINGS[name]
    tensors = ring.block.tensors(dtype)
    waiting = computed(ring, tensors, ring.words())
    for got, expected in zip(computed(ring, tensors, own_first=False), waiting, strict=True):
        assert torch.equal(got, expected)


# waiting

WAITING = Ring(tokens=40, case=CAUSAL_CASE)


def calls(ring, q, k, v, dout, words):
    """Each of the three calls, on keys in buffers of their own, with how to fill a piece of them.

    Rows know their lse and delta. What comes back is what the call has written.
    """
    score, where = ring.case.score, ring.where
    out, lse, *_ = computed(ring, (q, k, v, dout))
    delta = row_sum(dout, out, torch.float32)
    rows = Rows(q, dout, out, lse, delta)
    keys = gathering(ring, k, v, words)
    own, landed = (Keys(*(torch.zeros_like(x) for x in pair)) for pair in keys[:2])

    def dkdv():
        BACKEND.gathered_dkdv(rows, keys, own, landed, where, score, own_first=True)
        return *own, *landed

    return keys, {
        "forward": lambda: BACKEND.gathered_forward(q, keys, where, score),
        "dq": lambda: (BACKEND.gathered_dq(rows, keys, where, score),),
        "dkdv": dkdv,
    }


@pytest.mark.timeout(60)
@pytest.mark.parametrize("call", ["forward", "dq", "dkdv"])
def test_a_piece_is_not_read_before_its_word(call):
    """It is NaN when the kernel starts, and written while the kernel waits for it."""
    tensors = WAITING.block.tensors(SINGLE)
    expected = calls(WAITING, *tensors, WAITING.words())[1][call]()
    words = torch.zeros(3, dtype=torch.int32)
    keys, found = calls(WAITING, *tensors, words)
    arriving = [x.clone() for x in keys.landed]
    for x in keys.landed:
        x.fill_(math.nan)
    waited = []

    def arrive():
        for piece in (1, 2):
            time.sleep(0.2)
            for x, data in zip(keys.landed, arriving, strict=True):
                tokens = slice(40 * (piece - 1), 40 * piece)
                x[:, tokens] = data[:, tokens]
            waited.append(not ended.is_set())
            words[piece] = 1

    ended, sender = threading.Event(), threading.Thread(target=arrive)
    sender.start()
    got = found[call]()
    ended.set()
    sender.join()
    assert waited == [True, True]
    for x, true in zip(got, expected, strict=True):
        assert torch.equal(x, true)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("call", ["forward", "dq", "dkdv"])
def test_what_never_comes_is_not_waited_for_and_makes_everything_nan(call, when):
    words = torch.zeros(3, dtype=torch.int32)
    _, found = calls(WAITING, *WAITING.block.tensors(SINGLE), words)

    def lose():
        words[0] = 7

    late = threading.Timer(0.2, lose)
    late.start() if when == "meanwhile" else lose()
    got = found[call]()
    late.cancel()
    for x in got:
        if when == "before":
            assert x.isnan().all()
        elif call != "dkdv":  # whose own tiles were finished
            assert x.isnan().any()
    if call == "dkdv":
        assert all(x.isnan().all() for x in got[2:])


@pytest.mark.timeout(60)
def test_a_tile_does_not_wait_for_a_piece_of_which_it_sees_nothing():
    """Of a contiguous ring, where rows see nothing of later ranks."""
    ring = Ring("contiguous", rank=1, tokens=40, case=CAUSAL_CASE)
    tensors = ring.block.tensors(SINGLE)
    expected = calls(ring, *tensors, None)[1]
    words = torch.tensor([0, 1, 0], dtype=torch.int32)  # rank 2's never come
    found = calls(ring, *tensors, words)[1]
    for call in ("forward", "dq"):
        for x, true in zip(found[call](), expected[call](), strict=True):
            assert torch.equal(x, true)


def test_gradients_of_any_dtype_and_tensors_with_any_strides():
    ring, dtype = RINGS["grouped heads, batch"]
    q, k, v, dout = ring.block.tensors(dtype)
    out, lse, _, *expected = computed(ring, (q, k, v, dout), ring.words())
    keys = gathering(ring, k, v, ring.words())
    rows = Rows(q, dout, out, lse, row_sum(dout, out, torch.float32))
    own, landed = (Keys(*(torch.empty(x.shape, dtype=to) for x in pair))
                   for pair, to in ((keys.own, dtype), (keys.landed, SINGLE)))  # fmt: skip
    BACKEND.gathered_dkdv(rows, keys, own, landed, ring.where, ring.case.score, own_first=False)
    for mine, theirs, both in zip(own, landed, expected, strict=True):
        assert torch.equal(mine, both[:, : ring.tokens])
        assert torch.equal(theirs.to(dtype), both[:, ring.tokens :])


def test_the_backend_takes_gathered_keys():
    assert gathers(BACKEND) is BACKEND
