"""On a GPU, in bfloat16: what tests/triton_interpreted asks of the same kernels on a CPU.

Nearly all of the time goes into compiling; in processes side by side it is a quarter:

    asked="-m pytest -qp no:cacheprovider tests/gpu/test_triton_kernels.py"
    for part in index position dropout any_lengths any_chunks finite "reaches or thousand or public"
    do
        python3 $asked -k "$part" >"/tmp/kernels-$part.log" 2>&1 &
    done; wait; tail -qn 1 /tmp/kernels-*.log
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.triton_interpreted.cases import (
    DROPPED,
    GRID_DIMS,
    INDICES,
    POSITIONS,
    bands_of_indices,
    bands_of_positions,
    grid,
)
from tests.triton_interpreted.checking import CAUSAL, Case, assert_as_good_as_plain_torch
from tests.triton_interpreted.edges import (
    SPOILT,
    assert_goes_where_the_references_does,
    assert_nothing_comes_of_nothing,
    assert_ten_thousand_is_no_trouble,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # Triton compiles, in processes side by side
]

HEAD_DIMS = (64, 80, 128, 256)  # of which Hopper's kernels have tiles of 64, 128 and 256
CASES = {
    f"{kind}: {name}": case
    for kind, cases in (("index", INDICES), ("position", POSITIONS), ("dropout", DROPPED))
    for name, case in cases.items()
}


def assert_right(case, dtype=torch.bfloat16, seed=0):
    case = replace(case, device="cuda")
    assert_as_good_as_plain_torch(case, *case.tensors(dtype, seed))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_out_and_gradients_are_as_good_as_plain_torch(case):
    assert_right(case)


@given(
    case=bands_of_indices(st.sampled_from([(dim, dim) for dim in HEAD_DIMS])),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_lengths_and_band_are_as_good_as_plain_torch(case, seed):
    assert_right(case, seed=seed)


def with_all_features_or_none(case):
    """Not every set of them: each would be compiled, for one chunk and two, to begin and go on."""
    on = case.alibi
    return replace(case, softcap=5.0 if on else 0.0, dropout_p=0.3 if on else 0.0)


@given(
    case=bands_of_positions((64,)).map(with_all_features_or_none),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_chunks_band_and_features_are_as_good_as_plain_torch(case, seed):
    assert_right(case, seed=seed)


@pytest.mark.full
@pytest.mark.parametrize("head_dim", [dim for dim in GRID_DIMS if dim > 128])
def test_the_wide_part_of_the_grid_is_as_good_as_plain_torch_in_float32(head_dim):
    """The rest of the grid is interpreted, on a CPU."""
    for case in grid(head_dim):
        assert_right(case, torch.float32)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize("spoilt", SPOILT, ids=str)
def test_what_is_not_finite_goes_where_the_references_does(spoilt, softcap, head_dim):
    case = Case(rows=70, keys=140, softcap=softcap, head_dim=head_dim, device="cuda")
    assert_goes_where_the_references_does(spoilt, case, torch.bfloat16)


@pytest.mark.parametrize("spoilt", [x for x in SPOILT if x.tensor in "qk"], ids=str)
@pytest.mark.parametrize("alibi", [False, True])
def test_under_a_causal_mask_it_reaches_no_row_before_its_key(spoilt, alibi):
    case = Case(rows=140, keys=140, band=CAUSAL, alibi=alibi, device="cuda")
    assert_goes_where_the_references_does(spoilt, case, torch.bfloat16, backward=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_of_ten_thousand_neither_overflow_nor_lose_the_softmax(sign, head_dim, dtype):
    case = Case(rows=200, keys=200, head_dim=head_dim, device="cuda")
    assert_ten_thousand_is_no_trouble(case, dtype, sign)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize(("rows", "keys"), [(0, 9), (9, 0), (0, 0)])
def test_a_public_call_without_queries_or_keys_gives_nothing(rows, keys, head_dim):
    assert_nothing_comes_of_nothing(rows, keys, torch.bfloat16, "cuda", head_dim)
