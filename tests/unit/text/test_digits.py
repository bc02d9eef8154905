"""Numbers are as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.text.digits import count_of, digits, tokens, tokens_of


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0"), (0.0012345, "0.00123"), (9.996, "10.0"), (642.4, "642"),
     (12345.6, "12,300"), (-1.5, "-1.50")],
)  # fmt: skip
def test_digits_are_significant_and_never_powers(value, text):
    assert digits(value) == text


@pytest.mark.parametrize(
    ("count", "text"), [(128, "128"), (2048, "2K"), (3000, "3,000"), (2**20, "1M")]
)
def test_tokens_are_short(count, text):
    assert tokens(count) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [("128k", 131072), (" 8 K ", 8192), ("1M", 2**20), ("16m", 2**24), ("1000", 1000),
     ("12x", None), ("-1", None), ("0", None), ("1.5k", None), ("k", None), ("1e3", None),
     ("8kk", None), ("\N{ARABIC-INDIC DIGIT ONE}", None), ("9" * 13, None), ("9" * 5000, None)],
)  # fmt: skip
def test_a_count_is_read_as_people_write_it(text, count):
    assert count_of(text) == count


@given(st.integers(1, 10**12 - 1))
def test_a_count_that_is_shown_is_read_as_the_same(count):
    assert count_of(tokens(count).replace(",", "")) == count


@pytest.mark.parametrize("text", ["8192x", "2000", "999999999999M", "9" * 5000, "", "0k"])
def test_what_is_no_number_of_tokens_or_too_many_is_one_sentence(text):
    with pytest.raises(
        InvalidArgument, match=r"^--most is '.*; it must be .* as 1000, 8k or 1M, and at most 9"
    ):
        tokens_of("--most", text, 999)
