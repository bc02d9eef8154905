"""Every backend's out, lse, dq, dk and dv in every case that it does not refuse."""

import pytest

from ring_attn_bench.records.direction import DIRECTIONS, Direction
from tests.conformance.questions import AT_FULL_SPEED, BACKENDS, GRID, QUESTIONS, asked

# numpy, which runs interpreted kernels, warns where hardware gives the -inf that is meant
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning")
WHAT = ("backend", "question", "direction")


@pytest.mark.parametrize(WHAT, asked(BACKENDS, QUESTIONS, Direction.FORWARD))
def test_out_is_right_and_lse_is_its_natural_logarithm(backend, question, direction):
    question.ask(backend, direction)


@pytest.mark.parametrize(WHAT, asked(BACKENDS, QUESTIONS, Direction.BACKWARD))
def test_gradients_are_right(backend, question, direction):
    question.ask(backend, direction)


@pytest.mark.full
@pytest.mark.parametrize(WHAT, asked(AT_FULL_SPEED, GRID, *DIRECTIONS))
def test_results_are_right_over_the_grid(backend, question, direction):
    question.ask(backend, direction)
