"""What a backend declares and what is found: the same, feature by feature."""

import pytest

from ring_attn_bench.conformance.ask import DIRECTIONS, ask
from ring_attn_bench.conformance.features import FEATURES
from tests.conformance.questions import DEVICE, one_thread

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("feature", FEATURES.values(), ids=FEATURES.keys())
def test_what_is_not_refused_is_right_and_what_is_refused_is_refused_in_advance(
    backend, feature, direction
):
    if DEVICE in backend.worker_environment:
        pytest.skip("it is interpreted, which is slow: test_results.py asks about the same cases")
    with one_thread():
        answer = ask(backend, feature, direction, DEVICE)

    assert not answer.verdict.is_failure, answer.reason
    assert answer.declared, answer.reason
    assert answer.verdict == "ok" or len(answer.reason.split()) > 3, "a reason is a sentence"
