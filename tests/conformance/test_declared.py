"""What a backend declares and what is found: the same, feature by feature."""

from dataclasses import replace

import pytest

from ring_attn_bench.conformance.ask import ask
from ring_attn_bench.conformance.cases import FULL
from ring_attn_bench.conformance.feature import Asks
from ring_attn_bench.conformance.features import FEATURES
from ring_attn_bench.plan.problem import DTYPES
from ring_attn_bench.records.direction import DIRECTIONS
from tests.conformance.questions import (
    AT_FULL_SPEED,
    BACKENDS,
    DEVICE,
    Question,
    about,
    one_thread,
)

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning")


def refusals(backend, feature):
    """Of a feature's cases in all dtypes and directions."""
    found = (x.refusal(backend, way) for x in about(feature) for way in DIRECTIONS)
    return {reason for reason in found if reason is not None}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES.keys())
# of what is interpreted, which is slow, test_results.py asks about the same cases
@pytest.mark.parametrize("backend", AT_FULL_SPEED.values(), ids=AT_FULL_SPEED.keys())
def test_what_is_not_refused_is_right_and_what_is_refused_is_refused_in_advance(
    backend, feature, direction
):
    with one_thread():
        answer = ask(backend, feature, direction, DEVICE)

    assert not answer.status.is_failure, answer.reason
    assert answer.declared, answer.reason
    assert answer.status == "ok" or len(answer.reason.split()) > 3, "a reason is a sentence"


@pytest.mark.parametrize(
    ("backend", "feature"),
    [
        pytest.param(backend, feature, id=f"{name}-{feature.name}")
        for name, backend in BACKENDS.items()
        for feature in FEATURES.values()
        if refusals(backend, feature)
    ],
)
def test_what_is_not_asked_of_a_backend_is_refused_in_a_sentence(backend, feature):
    for reason in refusals(backend, feature):
        assert len(reason.split()) > 3


def test_no_backend_gets_away_with_refusing_everything(backend):
    plain = [Question(Asks.RESULTS, replace(FULL, dtype=dtype)) for dtype in DTYPES]
    for direction in DIRECTIONS:
        assert None in {x.refusal(backend, direction) for x in plain}
