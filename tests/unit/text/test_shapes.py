"""A shape has the same words in a report, in advice and in a comparison."""

import pytest

from ring_attn_bench.advise.answer import summary
from ring_attn_bench.advise.figures import Shape
from ring_attn_bench.compare.words import CaseWords
from ring_attn_bench.report.groups import SharedShape
from ring_attn_bench.report.rows import rows
from ring_attn_bench.text import shapes


def test_heads_are_said_alike_everywhere(make_record, make_case):
    shape = Shape(
        gpu="H200", backward=False, seqlen_per_gpu=8192,
        **make_case().model_dump(include=set(Shape.model_fields) - {"seqlen_per_gpu"}),
    )  # fmt: skip
    (row,) = rows([make_record()])

    assert ", batch 1, heads 32:8 of 128, bfloat16, " in summary(shape)
    assert SharedShape.of(row).title == "batch 1, heads 32:8 of 128, bfloat16"
    compared = CaseWords.of([make_case()]).shared
    assert ", batch 1, heads 32:8, head dim 128, bfloat16, " in compared


@pytest.mark.parametrize("window", [(-1, -1), (128, -1), (-1, 5), (3, 4), (0, 0)])
@pytest.mark.parametrize("softcap", [0.0, 12.5])
def test_windows_and_softcaps_are_said_alike_everywhere(make_record, make_case, window, softcap):
    case = make_case(window=window, softcap=softcap)
    (row,) = rows([make_record(case=case)])

    said = [text for text in (shapes.window(*window), shapes.softcap(softcap)) if text]
    assert list(SharedShape.of(row).extras) == said
    shared = CaseWords.of([case]).shared.split(", ")
    assert shared[len(shared) - len(said) :] == said
