"""One launch over the keys of all ranks, by the public functions."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from ring_attn_bench import RingContext, RingOptions
from tests.distributed.pool import Raised, Ring
from tests.distributed.truth import PREFIXES, Case, attend, faults, joined, truth

WHOLE = RingOptions(schedule="one_launch")


def with_options(ring: Ring, case: Case, options: RingOptions = WHOLE) -> dict[str, torch.Tensor]:
    with RingContext(ring.group, options) as context:
        return attend(ring, case, context)


CHANGES = {
    "causal, where a contiguous ring's first rank fetches nothing": {},
    "full, grouped heads": {"causal": False, "heads": 6, "batch": 2},
    "window on both sides": {"window": (4, 1), "causal": False},
    "softcap, packed": {"softcap": 1.5, "form": "qkvpacked"},
    "dropout": {"dropout_p": 0.3, "batch": 2},
    "narrow window, ALiBi": {"window": (1, 0), "alibi": True, "key_heads": 1},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("partition", PREFIXES)
def test_a_call_is_right(ranks, partition, change):
    for world_size in (1, 2, 3):
        case = replace(Case(world_size, partition, 6), **change)
        assert faults(case, ranks.run(with_options, case, world_size=world_size)) == [], case


@pytest.mark.parametrize("partition", PREFIXES)
def test_a_sink_takes_its_share_and_gets_its_gradient(ranks, partition):
    case = Case(3, partition, 6, sink=True, batch=2, window=(5, -1))
    results = joined(case, ranks.run(with_options, case, world_size=3))
    for name, right in truth(case).items():
        torch.testing.assert_close(results[name], right, rtol=0, atol=1e-12)


def test_gradients_travel_in_the_dtype_of_the_inputs(ranks):
    options = replace(WHOLE, gradients="input")
    for partition, dtype in product(PREFIXES, (torch.bfloat16, torch.float32)):
        case = Case(3, partition, 8, dim=16, dtype=dtype)
        assert faults(case, ranks.run(with_options, case, options, world_size=3)) == []


@pytest.mark.parametrize("partition", PREFIXES)
def test_keys_that_do_not_fit_come_in_windows_and_the_call_is_right(ranks, partition):
    for tokens, slots in ((6, "auto"), (12, "auto"), (12, 1)):
        options = replace(WHOLE, landing_tokens=tokens, slots=slots)
        case = Case(4, partition, 6, heads=4)
        assert faults(case, ranks.run(with_options, case, options, world_size=4)) == [], options
    small = replace(WHOLE, landing_tokens=5)
    for answer in ranks.outcomes(with_options, case, small, world_size=4):
        assert isinstance(answer, Raised)
        assert "InvalidArgument" in answer.kinds, answer.traceback
        assert "allow 6 or more" in answer.text


def one_after_another(ring: Ring, cases: list[Case]) -> list[dict[str, torch.Tensor]]:
    with RingContext(ring.group, WHOLE) as context:
        return [attend(ring, case, context) for case in cases]


def test_calls_of_changing_shapes_and_masks_in_one_context_are_right(ranks):
    cases = [
        Case(3, partition, tokens, causal=causal, heads=heads)
        for tokens, heads in ((4, 2), (8, 4), (2, 2))
        for partition, causal in product(PREFIXES, (True, False))
    ]
    by_case = zip(*ranks.run(one_after_another, cases, world_size=3), strict=True)
    for case, found in zip(cases, by_case, strict=True):
        assert faults(case, found) == [], case


def differing(ring: Ring, case: Case) -> None:
    with_options(ring, case, RingOptions(schedule="gather") if ring.rank == 1 else WHOLE)


def test_another_schedule_on_one_rank_is_told_on_all(ranks):
    case = Case(3, "zigzag", 8)
    for answer in ranks.outcomes(differing, case, world_size=3):
        assert isinstance(answer, Raised)
        assert "InvalidArgument" in answer.kinds, answer.traceback
        assert "schedule is one_launch on ranks 0, 2, gather on rank 1" in answer.text
    assert faults(case, ranks.run(with_options, case, world_size=3)) == []


def test_a_kernel_that_does_not_gather_is_refused_on_all_ranks_with_what_to_do(ranks):
    case = Case(2, "zigzag", 8, backend="aten")
    for answer in ranks.outcomes(with_options, case, world_size=2):
        assert isinstance(answer, Raised)
        assert "Unsupported" in answer.kinds, answer.traceback
        assert "schedule 'gather' needs none" in answer.text
    works = replace(case, world_size=1)  # nothing is gathered there
    assert faults(works, ranks.run(with_options, works, world_size=1)) == []
