"""Every backend's out, lse, dq, dk and dv in every case that it does not refuse."""

import pytest

from ring_attn_bench.bench.record import Direction
from ring_attn_bench.conformance.ask import DIRECTIONS
from tests.conformance.questions import GRID, QUESTIONS

# numpy, which runs interpreted kernels, warns where hardware gives the -inf that is meant
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning")


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_out_is_right_and_lse_is_its_natural_logarithm(backend, question):
    question.ask(backend, Direction.FORWARD)


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_gradients_are_right(backend, question):
    question.ask(backend, Direction.BACKWARD)


@pytest.mark.full
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("question", GRID, ids=str)
def test_results_are_right_over_the_grid(backend, question, direction):
    question.ask(backend, direction)
