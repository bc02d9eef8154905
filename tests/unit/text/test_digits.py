"""Numbers are as people read them."""

import pytest

from ring_attn_bench.text.digits import digits, tokens


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
