"""What a backend answers when it is asked whether it can."""

import pytest
import ring_attn_backends
import torch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench import Unsupported, flash_attn_func, flash_attn_with_kvcache
from ring_attn_bench.contract.backend import as_reason


class Odd(ReferenceBackend):
    """Answers what is no answer."""

    name = "odd"

    def unsupported(self, problem):
        return 5

    def cached_unsupported(self, problem):
        return False


@pytest.fixture(autouse=True)
def odd(monkeypatch):
    monkeypatch.setitem(ring_attn_backends.BACKENDS, "odd", f"{__name__}:Odd")


@pytest.mark.parametrize("answer", [None, "it has no softcap"])
def test_a_reason_and_none_are_answers(answer):
    assert as_reason(answer) == answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [(5, "5"), (False, "False"), ("", "''"), (["no"], "['no']"), (torch.ones(2), "shape (2,)")],
)
def test_what_is_no_answer_is_a_reason_that_says_so(answer, said):
    reason = as_reason(answer)

    assert said in reason
    assert reason.startswith("its unsupported() answered ")
    assert reason.endswith(", which is neither a reason nor None")


def test_whoever_calls_such_a_backend_is_told():
    q = torch.randn(1, 4, 2, 8)

    with pytest.raises(Unsupported, match=r"its unsupported\(\) answered 5"):
        flash_attn_func(q, q, q, backend="odd")
    with pytest.raises(Unsupported, match=r"its cached_unsupported\(\) answered False"):
        flash_attn_with_kvcache(q, q, q, backend="odd")
