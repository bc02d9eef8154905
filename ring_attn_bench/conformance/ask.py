"""Asks a backend about a feature: what it declares, and where it declares nothing, what it does."""

from __future__ import annotations

import sys
import traceback
from dataclasses import replace

from ring_attn_bench.conformance import accumulate, judge
from ring_attn_bench.conformance.answer import Answer, worst
from ring_attn_bench.conformance.cases import LOCAL, AnyCase
from ring_attn_bench.conformance.feature import Asks, Feature
from ring_attn_bench.contract.backend import AccumulatingBackend, Backend, reason_against
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.problem import DtypeName
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.after_error import sentence, status_of

JUDGES = {
    Asks.RESULTS: judge.result_faults,
    Asks.TWO_BLOCKS: judge.two_block_faults,
    Asks.IN_PLACE: accumulate.accumulated_faults,
    Asks.REPEATS: judge.repeat_faults,
}
PREFERRED: dict[str, tuple[DtypeName, ...]] = {
    "cuda": ("bfloat16", "float16", "float32", "float64"),
    "cpu": ("float32", "float64", "float16", "bfloat16"),
}
"""By device, the dtype of features that are not about dtypes: the first that the backend has."""


def ask(
    backend: Backend, feature: Feature, direction: Direction, device: str, *, quick: bool = False
) -> Answer:
    """The worst answer to the feature's cases; nothing is asked after a failure."""
    try:
        dtype = working_dtype(backend, device)
    except Exception as error:
        return _error(error)
    answers: list[Answer] = []
    for case in feature.chosen(device, dtype, quick=quick):
        answers.append(_answer(backend, feature.asks, case, direction, device))
        if answers[-1].status.is_failure:
            break
    return _in_part(answers)


def working_dtype(backend: Backend, device: str) -> DtypeName:
    """The dtype in which the backend is asked about everything but dtypes."""
    preferred = PREFERRED[device]
    others = (
        dtype for dtype in preferred
        if not reason_against(backend, replace(LOCAL, dtype=dtype).problem(device, backward=False))
    )  # fmt: skip
    return next(others, preferred[0])


def refusal(
    backend: Backend, asks: Asks, case: AnyCase, direction: Direction, device: str
) -> str | None:
    """Why the backend is not asked about the case, or None."""
    backward, deterministic = direction is Direction.BACKWARD, asks is Asks.REPEATS
    if asks is Asks.IN_PLACE and not isinstance(backend, AccumulatingBackend):
        return "it gives every block's share back, and the ring adds them"
    return case.refusal(backend, device, deterministic=deterministic, backward=backward)


def faults(
    backend: Backend, asks: Asks, case: AnyCase, direction: Direction, device: str
) -> list[str]:
    """What is wrong with the backend's results, in sentences."""
    return JUDGES[asks](backend, case, device, backward=direction is Direction.BACKWARD)


def _answer(
    backend: Backend, asks: Asks, case: AnyCase, direction: Direction, device: str
) -> Answer:
    try:
        reason = refusal(backend, asks, case, direction, device)
        if reason is not None:
            return Answer(Status.UNSUPPORTED, reason)
        try:
            wrong = faults(backend, asks, case, direction, device)
        except Unsupported as error:
            return Answer(Status.UNSUPPORTED, f"only when called: {error.reason}", False)
        if wrong:
            return Answer(Status.WRONG, f"{case}: {wrong[0]}")
        return Answer(Status.OK, _in_pieces(backend, case) if asks is Asks.RESULTS else "")
    except Exception as error:
        return _error(error, f"{case}: ")


def _in_part(answers: list[Answer]) -> Answer:
    """The worst answer, which says so if others are better."""
    answer, right = worst(answers), sum(x.status is Status.OK for x in answers)
    if answer.status is not Status.UNSUPPORTED or not right:
        return answer
    return replace(
        answer, reason=f"in {len(answers) - right} of {len(answers)} cases: {answer.reason}"
    )


def _error(error: Exception, where: str = "") -> Answer:
    traceback.print_exc(file=sys.stderr)
    return Answer(status_of(error), where + sentence(error))


def _in_pieces(backend: Backend, case: AnyCase) -> str:
    """How many blocks the case was cut into, if it was."""
    parts = case.kind.parts(backend, case)
    return f"in {len(parts)} blocks" if len(parts) > 1 else ""
