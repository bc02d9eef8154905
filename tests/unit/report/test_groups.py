"""What rows must share to be drawn together follows the case, field by field."""

import pytest

from ring_attn_bench.records.cache_shape import CacheShape
from ring_attn_bench.records.record import Case
from ring_attn_bench.report.groups import SharedShape
from ring_attn_bench.report.rows import rows

OTHER = {
    "batch": 3, "seqlen_total": 65536, "world_size": 8, "heads_q": 64, "heads_kv": 16,
    "head_dim": 64, "dtype": "float16", "causal": False, "window": (128, 0), "softcap": 30.0,
    "deterministic": True, "cache": CacheShape(queries=1), "documents": "histogram:1",
}  # fmt: skip
"""Of each field of a case a value that `make_case` has not."""
WITHIN = {"seqlen_total", "causal"}
"""Fields that rows of one picture may differ in."""


def test_no_field_of_a_case_is_forgotten():
    assert OTHER.keys() == set(Case.model_fields)


@pytest.mark.parametrize("name", OTHER)
def test_a_case_that_differs_in_one_field_is_of_another_shape_with_other_files(
    make_record, make_case, name
):
    case = make_case()
    other = case.model_copy(update={name: OTHER[name]})
    assert getattr(case, name) != OTHER[name]

    first, second = map(SharedShape.of, rows([make_record(case=case), make_record(case=other)]))

    assert (first == second) is (name in WITHIN)
    assert (first.slug == second.slug) is (name in WITHIN)
    assert (first.title == second.title) is (name in {*WITHIN, "world_size"})
