"""What the Triton backend offers to a tuning run, as a machine with a Hopper GPU would see it."""

from collections import Counter

import pytest
import torch

from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.contract.tunable import TrialTensors, Tunable
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Score

triton = pytest.importorskip("triton")

from ring_attn_backends.triton import TritonBackend, tuning  # noqa: E402 - need Triton
from ring_attn_backends.triton.hopper import serves, table  # noqa: E402
from ring_attn_backends.triton.plain.table import CANDIDATES, TABLE  # noqa: E402


@pytest.fixture
def trials(monkeypatch):
    monkeypatch.setattr(serves, "refusal", lambda *_: None)
    return tuning.offer(interpreted=False).trials


def row(trial):
    return trial.kernel, trial.table, trial.head_dim, trial.dtypes


def test_every_row_of_every_table_is_tried_with_what_is_shipped_first(trials):
    shipped = [trial for trial in trials if trial.shipped]
    plain = {(kernel, *key) for kernel, rows in TABLE.items() for key in rows}

    assert {(kernel, *key) for kernel, rows in CANDIDATES.items() for key in rows} == plain
    assert set(table.CANDIDATES) == set(table.TABLE)
    assert [row(x) for x in shipped] == list(dict.fromkeys(map(row, trials)))
    assert len(shipped) == len(plain) + len(table.TABLE)
    first = {row(x): x for x in reversed(trials)}
    assert list(first.values())[::-1] == shipped


def test_every_row_has_a_rival_and_none_is_tried_twice(trials):
    assert min(Counter(map(row, trials)).values()) >= 3
    assert max(Counter((row(x), x.config) for x in trials).values()) == 1


def test_a_trials_words_stand_for_its_configuration(trials):
    for trial in trials:
        assert str(tuning.config_of(trial)) == trial.config


def test_a_launch_has_the_trials_configuration(trials):
    tokens = 256
    block = Block((Span(0, tokens),), (Span(0, tokens),), Band(low=0))
    backend = TritonBackend()
    for trial in trials:
        dtype = getattr(torch, trial.dtypes[0])

        def tensor(heads, dtype=dtype, width=trial.head_dim):
            return torch.empty(1, tokens, heads, width, dtype=dtype, device="meta")

        lse = torch.empty(1, 4, tokens, device="meta")
        wide = [tensor(heads, torch.float32) for heads in (4, 2, 2)]
        rows = Rows(tensor(4), tensor(4), tensor(4), lse, lse)
        tensors = TrialTensors(rows, Keys(tensor(2), tensor(2)), Sums(*wide))
        for add in (False, True):
            launch = backend.trial_launch(trial, tensors, block, Score(0.1), add=add).__self__
            assert str(launch.config) == trial.config
            if trial.table == "plain":
                given = launch.arguments
                assert (given["BLOCK_M"], given["BLOCK_N"]) == (
                    launch.config.rows, launch.config.keys,
                )  # fmt: skip


def test_where_nothing_can_be_timed_it_says_so_and_leaves_hoppers_kernels_out():
    interpreted = tuning.offer(interpreted=True)

    assert isinstance(TritonBackend(), Tunable)
    assert interpreted.untimed == "Triton interprets its kernels here"
    assert interpreted.left_out == ("the hopper kernels are left out: Triton interprets",)
    assert {x.table for x in interpreted.trials} == {"plain"}
    assert {x.dtypes for x in interpreted.trials} == {("float16",), ("float32",)}
