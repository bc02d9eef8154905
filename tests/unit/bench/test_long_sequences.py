"""A long sequence is judged by sampled rows in memory that knows neither rows times keys nor heads.

Sizes are counted, of every tensor that anything makes: no machine has to be large or idle.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ring_attn_bench.bench import accuracy, inputs
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.suite import Check
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.ring.options import RingOptions

PLACE = WorkerPlace(0, 1, torch.device("cpu"), (0, 1), 2)
SPEC = Contestant(backend="aten", partition="zigzag", options=RingOptions(), played="loopback")
BUDGET = 2**18


class LargestTensor(TorchDispatchMode):
    """The most bytes that one tensor has which is made under it."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return made


def largest(tokens, rows, heads=(2, 1)):
    """Of what it takes to solve so many rows of a sequence, beyond its inputs."""
    case = Case(batch=1, seqlen_total=tokens, world_size=2, heads_q=heads[0], heads_kv=heads[1],
                head_dim=8, dtype="bfloat16", causal=True)  # fmt: skip
    chosen = accuracy.choose_rows(case, SPEC, PLACE, Check(full_up_to=1, sampled_rows=rows), 0)
    whole = accuracy.only_rows(inputs.make(case, 0, PLACE.device), chosen, PLACE)
    with LargestTensor() as seen:
        solved = accuracy.truth(case, SPEC, whole, chosen, PLACE, backward=True, budget=BUDGET)
    assert sum(x["out"].shape[1] for x in solved.exact.values()) == chosen.total
    return seen.bytes


def test_no_tensor_is_larger_than_the_budget_and_the_inputs_however_many_rows():
    few, many = (largest(2**13, rows) for rows in (16, 256))
    assert few == many
    keys = 2**13 * 8 * 8  # of one head, in float64
    assert many <= max(BUDGET, keys)
    assert 100 * BUDGET < 256 * 2 * 2**13 * 8  # what all scores at once would take


def test_memory_grows_by_length_alone():
    short, long = (largest(tokens, 64) for tokens in (2**12, 2**14))
    assert long <= 4 * short


@pytest.mark.parametrize("key_heads", [2, 4])
def test_memory_is_that_of_one_key_head_but_for_the_results(key_heads):
    one = largest(2**13, 32)
    results = key_heads * 2**13 * 8 * 8  # dk of all heads, in float64
    assert largest(2**13, 32, (2 * key_heads, key_heads)) <= max(one, results)
