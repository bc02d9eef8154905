"""Every public ring function, on 1 to 4 ranks, is attention over the whole sequence."""

from __future__ import annotations

import inspect
import random
from dataclasses import replace
from itertools import product

import pytest
import torch

import ring_attn_bench
from ring_attn_bench import RingContext, RingOptions
from ring_attn_bench.ring.context import context_for
from tests.distributed.pool import Ring
from tests.distributed.truth import (
    FORMS,
    PREFIXES,
    Case,
    attend,
    faults,
    joined,
    packed,
    shards,
    truth,
)

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TAIL = {
    "dropout_p": 0.0,
    "softmax_scale": None,
    "causal": False,
    "window_size": (-1, -1),
    "alibi_slopes": None,
    "deterministic": False,
    "return_attn_probs": False,
    "group": None,
}


def drawn(seed: int, world_size: int, backend: str) -> Case:
    """A random call that the backend does not refuse."""
    rng = random.Random(f"{seed} {world_size} {backend}")
    partition = rng.choice(list(PREFIXES))
    tokens = rng.choice([2, 3, 5, 8, 13, 21] + [1] * (world_size > 1)) * (
        2 if partition == "zigzag" else 1
    )
    form = rng.choice(list(FORMS))
    key_heads = rng.choice([1, 2, 3])
    heads = key_heads * (1 if form == "qkvpacked" else rng.choice([1, 2, 3]))
    has_window = backend != "aten" and rng.random() < 0.4
    return Case(
        world_size,
        partition,
        tokens,
        form,
        rng.choice([1, 1, 2, 3]),
        heads,
        key_heads,
        rng.choice([8, 16, 24, 32, 64]),
        rng.choice(DTYPES),
        backend,
        rng.random() < 0.6,
        (rng.choice([-1, 1, 4, 17]), rng.choice([-1, 0, 1, 4])) if has_window else (-1, -1),
        rng.choice([0.0, 0.0, 1.5]) if backend != "aten" else 0.0,
        rng.random() < 0.3 and backend != "aten",
        rng.choice([None, None, 0.2]),
        seed,
    )


@pytest.mark.parametrize("backend", ["reference", "aten", "auto"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(10))
def test_a_random_call_is_right(ranks, seed, world_size, backend):
    case = drawn(seed, world_size, backend)
    assert faults(case, ranks.run(attend, case, world_size=world_size)) == [], case


@pytest.mark.full
@pytest.mark.parametrize("backend", ["reference", "aten", "auto"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(10, 110))
def test_a_random_call_is_right_over_the_grid(ranks, seed, world_size, backend):
    test_a_random_call_is_right(ranks, seed, world_size, backend)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("partition", PREFIXES)
def test_every_function_is_exact_in_float64(ranks, partition, form, causal):
    for world_size, backend in product((2, 3), ("reference", "aten")):
        case = Case(world_size, partition, 8, form, backend=backend, causal=causal)
        assert faults(case, ranks.run(attend, case, world_size=world_size)) == [], case


@pytest.mark.parametrize("partition", PREFIXES)
@pytest.mark.parametrize("change", [{}, {"window": (3, -1)}, {"heads": 4, "softcap": 1.5}], ids=str)
def test_a_sink_takes_its_share_of_every_row_and_gets_its_gradient(ranks, partition, change):
    for world_size in (1, 3):
        case = replace(Case(world_size, partition, sink=True, batch=2), **change)
        results = joined(case, ranks.run(attend, case, world_size=world_size))
        for name, right in truth(case).items():
            torch.testing.assert_close(results[name], right, rtol=0, atol=1e-12)


def with_options(ring: Ring, case: Case, options: RingOptions) -> dict[str, torch.Tensor]:
    return attend(ring, case, RingContext(ring.group, options))


@pytest.mark.parametrize("partition", PREFIXES)
@pytest.mark.parametrize(
    "options",
    [
        *(RingOptions(slots=slots) for slots in (1, 2, 3, 4)),
        RingOptions(grouping=(3,)),
        RingOptions(grouping=(1, 2)),
        RingOptions(grouping=(2, 1), slots=1),
        RingOptions(transport="p2p", grouping=None),
        RingOptions(schedule="gather", slots="auto"),
        RingOptions(schedule="grouped", slots="auto"),
        RingOptions(schedule="steps", slots="auto"),
        RingOptions(schedule="one_launch"),
    ],
    ids=str,
)
def test_how_data_moves_does_not_change_what_comes_out(ranks, options, partition):
    for causal in (True, False):
        case = Case(4, partition, 10, heads=4, causal=causal, batch=2)
        assert faults(case, ranks.run(with_options, case, options)) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_that_travel_in_the_dtype_of_the_inputs_are_right(ranks, dtype):
    for world_size, partition in product((2, 4), PREFIXES):
        case = Case(world_size, partition, 16, dim=32, dtype=dtype, causal=False)
        answers = ranks.run(
            with_options, case, RingOptions(gradients="input"), world_size=world_size
        )
        assert faults(case, answers) == []


def explicit_and_cached(ring: Ring, case: Case) -> bool:
    cached = attend(ring, case)
    explicit = attend(ring, case, RingContext(ring.group))
    same = attend(ring, case, context_for(ring.group))
    return all(
        torch.equal(cached[name], x) and torch.equal(same[name], x) for name, x in explicit.items()
    )


def test_an_explicit_context_gives_the_results_of_the_cached_one(ranks):
    for partition in PREFIXES:
        case = Case(3, partition, 8, heads=4, dtype=torch.float32)
        assert ranks.run(explicit_and_cached, case, world_size=3) == [True] * 3


def by_partition_name(ring: Ring, case: Case) -> bool:
    q, k, v, _ = shards(case, ring.rank)
    named = ring_attn_bench.ring_attn_func(
        q, k, v, group=ring.group, partition=case.partition, **case.options
    )
    return torch.equal(named, attend(ring, case)["out"])


@pytest.mark.parametrize("partition", PREFIXES)
def test_ring_attn_func_takes_the_partition_by_name(ranks, partition):
    assert ranks.run(by_partition_name, Case(2, partition), world_size=2) == [True, True]


def positional(ring: Ring, case: Case) -> bool:
    q, k, v, _ = shards(case, ring.rank)
    tail = (0.0, case.scale, case.causal, case.window, case.slopes, True, True, ring.group)
    right = attend(ring, case)
    answers = []
    for form in FORMS:
        function = getattr(ring_attn_bench, replace(case, form=form).function)
        out, lse, nothing = function(*packed(form, q, k, v), *tail, backend="reference")
        answers += [nothing is None, torch.equal(out, right["out"]), torch.equal(lse, right["lse"])]
    return all(answers)


def test_arguments_by_position_are_those_of_flash_attn(ranks):
    case = Case(2, "zigzag", 8, window=(5, 3), alibi=True, scale=0.3)
    assert ranks.run(positional, case, world_size=2) == [True, True]


def lse_dtype(ring: Ring, case: Case) -> tuple[torch.dtype, tuple[int, ...]]:
    lse = attend(ring, case)["lse"]
    return lse.dtype, tuple(lse.shape)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_lse_is_float32_heads_first(ranks, dtype):
    case = Case(2, tokens=5, heads=4, batch=3, dtype=dtype, backend="aten")
    assert ranks.run(lse_dtype, case, world_size=2) == [(torch.float32, (3, 4, 5))] * 2


@pytest.mark.parametrize("prefix", [*PREFIXES.values(), "triton_ring"])
@pytest.mark.parametrize("form", FORMS.values())
def test_signatures_are_the_ones_people_know(prefix, form):
    tensors = {"": ["q", "k", "v"], "kvpacked_": ["q", "kv"], "qkvpacked_": ["qkv"]}[form]
    function = getattr(ring_attn_bench, f"{prefix}_flash_attn_{form}func")
    assert function.__name__ == f"{prefix}_flash_attn_{form}func"
    parameters = inspect.signature(function).parameters
    by_position = {n: p.default for n, p in parameters.items() if p.kind is not p.KEYWORD_ONLY}
    assert list(by_position) == [*tensors, *TAIL]
    assert {name: by_position[name] for name in TAIL} == TAIL
    by_keyword = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    others = ("backend", "dropout_seed", "sink", "context")
    assert by_keyword == {"softcap": 0.0} | dict.fromkeys(others)


def test_ring_attn_func_has_the_same_tail_and_needs_a_partition():
    parameters = inspect.signature(ring_attn_bench.ring_attn_func).parameters
    assert list(parameters)[3:11] == list(TAIL)
    assert {name: parameters[name].default for name in TAIL} == TAIL
    assert parameters["partition"].default is inspect.Parameter.empty
    assert replace(Case(1), partition="striped").function == "stripe_flash_attn_func"
