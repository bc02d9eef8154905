"""A call whose figures are known takes what the model says, on all ranks, and is right."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from ring_attn_bench import RingContext, RingOptions
from ring_attn_bench.ring.fastest import announce
from tests.distributed.pool import Ring
from tests.distributed.truth import Case, attend, faults


class Heard(logging.Handler):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.words.append(record.getMessage())


def as_if_on(
    ring: Ring, case: Case, gpu: str, options: RingOptions
) -> tuple[dict[str, torch.Tensor], list[int], list[str]]:
    """What a call gives, how many tokens each step of its plan brings, and what was said of it."""
    announce.cache_clear()
    heard = Heard()
    logging.getLogger("ring_attn_bench").addHandler(heard)
    try:
        with RingContext(ring.group, options) as context:
            assert context.gpu == "", "there is none here"
            assert context._made is not None
            context._made = replace(context._made, gpu=gpu)
            found = attend(ring, case, context)
            ((job, _),) = context.calls._found.values()
    finally:
        logging.getLogger("ring_attn_bench").removeHandler(heard)
    said = [words for words in heard.words if words.startswith("schedule")]
    return found, [step.landing_tokens for step in job.plan.steps[1:]], said


def test_a_short_call_of_four_ranks_is_a_gather_where_figures_say_so(ranks):
    case = Case(4, "zigzag", 16, dim=16, dtype=torch.bfloat16, backend="aten")
    asked = RingOptions(transport="p2p")
    for gpu, options, steps in (
        ("NVIDIA H200", asked, 1),
        ("NVIDIA H200", replace(asked, schedule="steps"), 3),
        ("", asked, 3),
    ):
        answers = ranks.run(as_if_on, case, gpu, options, world_size=4)
        assert faults(case, [found for found, *_ in answers]) == []
        assert [len(brought) for _, brought, _ in answers] == [steps] * 4
        (first, *others) = [said for *_, said in answers]
        assert others == [[]] * 3
        if steps == 1:
            assert first == [
                "schedule 'auto' chose gather, grouping 3, slots 1 for aten over p2p on 4 ranks of "
                "NVIDIA H200; RingOptions(schedule=) chooses."
            ]
        else:
            assert first == []
