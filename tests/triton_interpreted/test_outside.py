"""Starts of documents made sound, and what is outside filled in: the kernel does what torch does.

On a CPU a call takes torch for it; here the kernel that a GPU gets is interpreted.
"""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from ring_attn_bench.one_device import outside, outside_triton
from ring_attn_bench.one_device.outside import Results

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]

POISON = 7.0
PROGRAMS = 2
"""Of a call: each looks at all starts, which takes the interpreter long."""
HEADS, KEY_HEADS, DIM, DIM_V = 3, 1, 5, 2


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(outside_triton, "PROGRAMS", PROGRAMS)
        yield


def results(rows, keys):
    """Views with strides of their own, in a dtype each."""
    out = torch.full((rows, 2, HEADS, DIM_V), POISON, dtype=torch.float16)[:, 1]
    return Results(
        out,
        torch.full((HEADS, rows + 3), POISON)[:, :rows],
        torch.full((KEY_HEADS, keys, DIM), POISON).transpose(0, 1),
        torch.full((keys, KEY_HEADS, DIM_V), POISON, dtype=torch.float64),
    )


def by_both(starts, rows, keys, longest):
    """The sound starts and the results, by torch and by the kernel."""
    given = tuple(torch.tensor(side, dtype=torch.int32) for side in starts)
    by_torch, by_kernel = results(rows, keys), results(rows, keys)
    found = outside.settled(given, (rows, keys), longest, by_torch)
    sound = tuple(torch.full_like(side, -9) for side in given)
    outside_triton.settle(given, sound, (rows, keys), longest, by_kernel)
    again = results(rows, keys)
    outside_triton.fill(sound, again)
    return [*found, *by_torch], [*sound, *by_kernel], again


numbers = st.one_of(st.integers(-3, 45), st.sampled_from([-(2**31), 2**31 - 1]))
sides = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9)


@given(sides, st.integers(0, 40), st.integers(0, 40), st.tuples(*[st.integers(0, 45)] * 2))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_kernel_does_what_torch_does(starts, rows, keys, longest):
    by_torch, by_kernel, again = by_both(tuple(zip(*starts, strict=True)), rows, keys, longest)

    for a, b in zip(by_torch, by_kernel, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(by_torch[2:], again, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("count", [127, 128, 1024])
def test_any_number_of_documents(count):
    drawn = torch.Generator().manual_seed(count)
    starts = torch.randint(0, 5, (2, count + 1), generator=drawn).cumsum(1)
    starts[:, count // 2] -= 40  # a start that falls, in the middle of all
    by_torch, by_kernel, _ = by_both(starts.tolist(), 3 * count, 3 * count, (60, 60))

    assert by_torch[0].diff().max() > 0
    for a, b in zip(by_torch, by_kernel, strict=True):
        assert torch.equal(a, b)


def test_what_is_sound_is_what_it_was_and_nothing_is_filled_in():
    starts = ([0, 4, 4, 9], [0, 0, 8, 10])
    by_torch, by_kernel, _ = by_both(starts, 9, 10, (5, 8))

    assert [x.tolist() for x in by_kernel[:2]] == list(starts)
    assert all((x == POISON).all() for x in (*by_torch[2:], *by_kernel[2:]))


def test_a_document_that_is_too_long_ends_all():
    (rows, keys, out, lse, dk, dv), _, _ = by_both(([2, 4, 8, 9], [0, 3, 4, 6]), 10, 7, (3, 3))

    assert rows.tolist() == [2, 4, 4, 4]
    assert keys.tolist() == [0, 3, 3, 3]
    assert (out == 0).all(2).all(1).tolist() == [True] * 2 + [False] * 2 + [True] * 6
    assert lse.isneginf().all(0).tolist() == [True] * 2 + [False] * 2 + [True] * 6
    assert (dk == 0).all(2).all(1).tolist() == [False] * 3 + [True] * 4
    assert (dv == 0).all(2).all(1).tolist() == [False] * 3 + [True] * 4
