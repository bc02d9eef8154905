"""Every backend's out and lse, against float64."""

import pytest

from tests.conformance.checking import CASES, GRID, forward_faults

# numpy, which runs interpreted kernels, warns where hardware gives the -inf that is meant
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_out_is_right_and_lse_is_its_natural_logarithm(question):
    assert forward_faults(*question) == []


@pytest.mark.full
@pytest.mark.parametrize("case", GRID, ids=str)
def test_out_and_lse_are_right_over_the_grid(question):
    assert forward_faults(*question) == []
