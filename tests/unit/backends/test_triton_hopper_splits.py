"""How many programs share a key head's queries: where that is fast, and worth its memory."""

from __future__ import annotations

import pytest
from ring_attn_backends.shared.gpus import SMS
from ring_attn_backends.triton.hopper.splits import shares_bytes, splits_for

MIB = 2**20


@pytest.mark.parametrize(
    ("programs", "ragged", "splits"),
    [(32, False, 4), (64, False, 2), (64, True, 4), (128, True, 2), (128, False, 1)],
)
def test_key_heads_are_shared_where_multiprocessors_would_idle(programs, ragged, splits):
    assert splits_for(programs, 4, SMS, ragged=ragged) == splits


@pytest.mark.parametrize("programs", [1024, 2048, 4096, 16384])
@pytest.mark.parametrize("ragged", [False, True])
def test_many_turns_are_not_split_to_end_together(programs, ragged):
    # 2048 programs are 15.5 turns: of a quarter each, 15.75 and not 16, for 1 GiB of shares
    assert splits_for(programs, 4, SMS, ragged=ragged) == 1


def test_what_divides_the_group_only():
    assert {splits_for(n, 6, SMS, ragged=False) for n in range(1, 300)} <= {1, 2, 3, 6}
    assert {splits_for(n, 1, SMS, ragged=True) for n in range(1, 300)} == {1}


def test_shares_are_float32_of_all_keys_for_each_split():
    few = {"batch": 1, "heads_q": 16, "heads_kv": 4, "head_dim": 128, "head_dim_v": 128}
    assert shares_bytes(tokens=2048, **few, ragged=True) == 4 * 8 * MIB
    assert shares_bytes(tokens=32768, **few, ragged=False) == 0
