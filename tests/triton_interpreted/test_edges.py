"""Numbers at the edge and public calls, interpreted on a CPU."""

import os
from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("a process of its own: pytest tests/triton_interpreted", allow_module_level=True)

from tests.flash_attn_grid import KEY_HEADS, Question, documents, wrong
from tests.triton_interpreted.checking import CAUSAL, DTYPES, Case
from tests.triton_interpreted.edges import (
    SPOILT,
    assert_goes_where_the_references_does,
    assert_nothing_comes_of_nothing,
    assert_ten_thousand_is_no_trouble,
)

pytestmark = [
    # NumPy inside the interpreter: -inf scores, infinite scores, and Triton 3.6's loop bounds
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
]


@pytest.mark.parametrize(
    ("softcap", "dtype"),
    [
        (0.0, torch.float32),
        (5.0, torch.float16),
        pytest.param(0.0, torch.float16, marks=pytest.mark.full),
        pytest.param(5.0, torch.float32, marks=pytest.mark.full),
    ],
    ids=str,
)
@pytest.mark.parametrize("spoilt", SPOILT, ids=str)
def test_what_is_not_finite_goes_where_the_references_does(spoilt, softcap, dtype):
    case = Case(rows=70, keys=140, softcap=softcap)
    assert_goes_where_the_references_does(spoilt, case, dtype)


@pytest.mark.parametrize("spoilt", [x for x in SPOILT if x.tensor in "qk"], ids=str)
def test_under_a_causal_mask_it_reaches_no_row_before_its_key(spoilt):
    case = Case(rows=140, keys=140, band=CAUSAL, alibi=True)
    assert_goes_where_the_references_does(spoilt, case, torch.float32, backward=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_of_ten_thousand_neither_overflow_nor_lose_the_softmax(sign, dtype):
    assert_ten_thousand_is_no_trouble(Case(rows=70, keys=70), dtype, sign)


@pytest.mark.parametrize(("rows", "keys"), [(0, 9), (9, 0), (0, 0)])
def test_a_public_call_without_queries_or_keys_gives_nothing(rows, keys):
    assert_nothing_comes_of_nothing(rows, keys, torch.float16, "cpu")


@st.composite
def calls(draw):
    """flash-attn's grid at lengths that the interpreter can do."""
    lengths = draw(st.tuples(st.integers(0, 70), st.integers(0, 70)))
    on = [draw(st.booleans()) for _ in range(5)]
    question = Question(
        draw(st.sampled_from((16, 40, 59, 64))),
        draw(st.sampled_from(sorted(KEY_HEADS))),
        (lengths,) * 2,
        *on,
    )
    # a score of 50, as the softcap's are, is known to 4e-6 in float32, and so is a probability;
    # plain torch, which takes the same score off it, has that of a single key exactly
    dtypes = ("float16",) if question.softcap else ("float16", "float32")
    question = replace(question, dtype=draw(st.sampled_from(dtypes)))
    return documents(replace(question, packed=True)) if draw(st.booleans()) else question


@given(question=calls())
# to shrink a fault, interpreted, would take ten minutes
@settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate])
def test_any_public_call_is_right(question):
    assert wrong([question], "cpu", "triton") == []
