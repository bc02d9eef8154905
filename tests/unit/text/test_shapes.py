"""A shape has the same words in a report, in advice and in a comparison."""

from ring_attn_bench.advise.answer import summary
from ring_attn_bench.advise.figures import Shape
from ring_attn_bench.compare.words import CaseWords
from ring_attn_bench.report.groups import SharedShape
from ring_attn_bench.report.rows import rows


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
