"""One launch over the keys of many ranks in plain torch: what it gives, and what it waits for."""

import math
import threading

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.contract.backend import accumulating, gathering
from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.gathered import gathered
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Score

BACKEND = ReferenceBackend()
CAUSAL = Band(low=0)
OWN, LANDED = Span(4, 4), Span(0, 3)
WHERE = gathered(
    chunks([OWN]), [(0, chunks([OWN])[0]), (1, chunks([LANDED])[0])], CAUSAL, join=False
)
SCORE = Score(0.5, 2.0, torch.tensor([0.5, 0.25]), 0.3, 7)


def tensors(dtype):
    """Rows but for out, lse and delta, own and landed keys."""
    random = torch.Generator().manual_seed(3)

    def made(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    own, landed = (Keys(made(2, n, 1, 8), made(2, n, 1, 6)) for n in (4, 3))
    return made(2, 4, 2, 8), made(2, 4, 2, 6), own, landed


def results(dtype, words=None, into=None):
    """out, lse, dq, then dk and dv of own and of landed keys."""
    q, dout, own, landed = tensors(dtype)
    keys = Gathering(own, landed, words)
    out, lse = BACKEND.gathered_forward(q, keys, WHERE, SCORE)
    delta = (dout * out).sum(-1).transpose(1, 2).to(lse.dtype)
    rows = Rows(q, dout, out, lse, delta)
    home, away = (
        Keys(*(torch.full_like(x, 9.0, dtype=into or dtype) for x in pair))
        for pair in (own, landed)
    )
    BACKEND.gathered_dkdv(rows, keys, home, away, WHERE, SCORE, own_first=True)
    return out, lse, BACKEND.gathered_dq(rows, keys, WHERE, SCORE), *home, *away


def test_it_is_the_block_over_all_keys():
    q, dout, own, landed = tensors(torch.float64)
    keys = Keys(*(torch.cat(both, 1) for both in zip(own, landed, strict=True)))
    block = Block((OWN,), (OWN, LANDED), CAUSAL)
    out, lse = BACKEND.forward(q, keys, block, SCORE)
    rows = Rows(q, dout, out, lse, (dout * out).sum(-1).transpose(1, 2))
    dq, dk, dv = BACKEND.backward(rows, keys, block, SCORE, deterministic=True)
    wanted = out, lse, dq, dk[:, :4], dv[:, :4], dk[:, 4:], dv[:, 4:]

    for found, right in zip(results(torch.float64), wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-14)


def test_gradients_of_keys_are_not_rounded_on_their_way_to_a_wider_dtype():
    out, lse, dq, *narrow = results(torch.bfloat16)
    *_, dk, dv, landed_dk, landed_dv = results(torch.bfloat16, into=torch.float32)

    assert (out.dtype, lse.dtype, dq.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    for wide, rounded in zip((dk, dv, landed_dk, landed_dv), narrow, strict=True):
        assert not torch.equal(wide, rounded.float())
        assert torch.equal(wide.bfloat16(), rounded)


@pytest.mark.parametrize("there", [0, 1], ids=["not landed", "landed"])
def test_what_never_comes_is_not_waited_for_and_makes_everything_nan(there):
    words = torch.tensor([7, there], dtype=torch.int32)

    assert all(x.isnan().all() for x in results(torch.float32, words))


@pytest.mark.timeout(60)
def test_a_piece_is_not_read_before_its_word():
    """Nor before those of all of its heads; further words are nobody's."""
    q, _, own, landed = tensors(torch.float64)
    right = BACKEND.gathered_forward(q, Gathering(own, landed), WHERE, SCORE)
    words, late = torch.tensor([0, 1, 0, 0], dtype=torch.int32), Keys(*(x.clone() for x in landed))
    for x in late:
        x.fill_(math.nan)

    def arrive():
        for x, data in zip(late, landed, strict=True):
            x.copy_(data)
        words[2] = 1

    sender = threading.Timer(0.1, arrive)
    sender.start()
    found = BACKEND.gathered_forward(q, Gathering(own, late, words, head_groups=2), WHERE, SCORE)
    sender.join()

    assert all(map(torch.equal, found, right))


def test_it_takes_gathered_keys_and_accumulates_nothing():
    assert gathering(BACKEND) is BACKEND
    assert accumulating(BACKEND) is None
