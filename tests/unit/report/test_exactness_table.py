"""What errors are made of is a table: the record furthest above the floor, and what is not zero."""

from ring_attn_bench.records.exactness import Precision
from ring_attn_bench.report import tables
from ring_attn_bench.report.rows import rows


def record(make_record, make_contestant, backend, rmse, **fine):
    known = {"bias": 1e-9, "bias_error": 1e-9, "gain": 0.0, "gain_error": 1e-9, "floor_rmse": 1e-4,
             "ulps_max": 7.0, "ulps_p99": 1.5}  # fmt: skip
    made = make_record(contestant=make_contestant(backend=backend, options=None))
    out = made.accuracy.tensors["out"].model_copy(
        update={"rmse": rmse, "precision": Precision(**(known | fine))}
    )
    return made.model_copy(
        update={"accuracy": made.accuracy.model_copy(update={"tensors": {"out": out}})}
    )


def test_the_record_furthest_above_the_floor_is_shown_of_each_backend(make_record, make_contestant):
    near, far, other = (
        record(make_record, make_contestant, backend, rmse)
        for backend, rmse in (("triton", 1e-4), ("peer:a", 3e-4), ("aten", 2e-4))
    )
    far = far.model_copy(update={"contestant": near.contestant, "case": near.case.model_copy(
        update={"seqlen_total": 2 * near.case.seqlen_total})})  # fmt: skip
    (table,) = tables.exactness(rows([near, far, other]))
    shown = {row[0]: row[2] for row in table.rows}
    assert shown == {"triton": "3.00x", "aten": "2.00x"}


def test_a_bias_that_is_not_zero_has_a_mark(make_record, make_contestant):
    of = record(make_record, make_contestant, "triton", 1e-4, bias=-5e-9, gain=2e-9)
    (table,) = tables.exactness(rows([of]))
    (line,) = table.rows
    assert "-5.0e-09 !" in line
    assert "2.0e-09" in line


def test_where_no_record_knows_there_is_no_table(make_record):
    assert tables.exactness(rows([make_record()])) == []


def test_float64_has_no_floor_and_is_shown_by_its_ulps(make_record, make_contestant):
    of = record(make_record, make_contestant, "triton", 1e-16, floor_rmse=0.0)
    (table,) = tables.exactness(rows([of]))
    assert "rmse / floor" not in table.headers
    assert "1.5" in table.rows[0]
