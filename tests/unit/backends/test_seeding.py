"""Seeds of dropout: functions of what is asked, on every machine, and of nothing else."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import torch
from ring_attn_backends.shared.calls import FlashCall
from ring_attn_backends.shared.seeding import derived, drawing_from, philox_state

from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Documents, Mask, Score

CPU = torch.device("cpu")
SCORE = Score(1.0, dropout_p=0.5, dropout_seed=2**63 - 1)
BLOCK = Block((Span(8, 4),), (Span(0, 4),), Band(low=0))


def test_seeds_fit_63_bits_and_differ():
    seeds = {derived(seed, at) for seed in (0, 1, 2**63 - 1) for at in range(1000)}
    assert len(seeds) == 3000
    assert min(seeds) >= 0
    assert 2**61 < max(seeds) < 2**63, "all of the bits are used"


def test_a_seed_is_the_same_in_every_process():
    code = (
        "import sys; sys.path[:0] = ['.', 'backends']\n"
        "from ring_attn_backends.shared.seeding import derived\n"
        "from ring_attn_bench.plan.positions import Span\n"
        "print(derived(7, (Span(8, 4),), (Span(0, 4, 2),)))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    }  # fmt: skip
    assert found == {f"{derived(7, (Span(8, 4),), (Span(0, 4, 2),))}\n"}


def test_a_block_has_a_seed_of_its_own():
    seed = FlashCall.of_block(BLOCK, SCORE).seed
    assert FlashCall.of_block(replace(BLOCK), replace(SCORE, softmax_scale=2.0)).seed == seed
    others = [
        FlashCall.of_block(replace(BLOCK, rows=(Span(9, 4),)), SCORE),
        FlashCall.of_block(replace(BLOCK, keys=(Span(1, 4),)), SCORE),
        FlashCall.of_block(replace(BLOCK, rows=(Span(8, 4, 2),), keys=(Span(0, 4, 2),)), SCORE),
        FlashCall.of_block(replace(BLOCK, rows=BLOCK.keys, keys=BLOCK.rows), SCORE),
        FlashCall.of_block(BLOCK, replace(SCORE, dropout_seed=0)),
        FlashCall.of_documents(Documents(torch.zeros(1), torch.zeros(1), 1, 1, Mask()), SCORE),
    ]
    assert len({seed, *(call.seed for call in others)}) == 7
    assert FlashCall.of_block(BLOCK, replace(SCORE, dropout_p=0.0)).seed == 0, "not worth a hash"


def test_drawing_from_a_seed_leaves_no_trace():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with drawing_from(derived(1, 2), CPU):
        first = torch.rand(9)
    torch.testing.assert_close(torch.rand(3), expected)
    with drawing_from(derived(1, 2), CPU):
        assert torch.equal(torch.rand(9), first)
    state = torch.default_generator.get_state()
    try:
        with drawing_from(3, CPU):
            raise KeyError
    except KeyError:
        assert torch.equal(torch.default_generator.get_state(), state)


def test_a_kernels_state_is_its_seed_and_no_offset():
    for seed in (0, 1, 2**53 + 1, 2**63 - 1, random.Random(1).getrandbits(63)):
        assert philox_state(seed, CPU).tolist() == [seed, 0]
