"""A record as one flat row: its columns, its figures, and its empty cells."""

from __future__ import annotations

import pytest

from ring_attn_bench.contract.used import UsedKernel
from ring_attn_bench.records.cache_shape import CacheShape
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.exactness import Departure, Precision
from ring_attn_bench.records.gpus import GpuLook, GpuWatch
from ring_attn_bench.records.predicted import PredictedMemory
from ring_attn_bench.records.record import Memory, Samples, Speed
from ring_attn_bench.records.status import Status
from ring_attn_bench.report.columns import COLUMNS, MEANINGS, TENSORS, ReportRow
from ring_attn_bench.report.rows import frame, row, rows

FIRST = (
    "case", "backend", "partition", "transport", "direction", "status", "reason", "world_size",
    "batch", "seqlen_total", "seqlen_per_gpu", "heads_q", "heads_kv", "head_dim", "dtype", "causal",
    "deterministic", "latency_ms", "latency_ms_lo", "latency_ms_hi", "tflops_per_gpu",
    "tokens_per_s", "peak_extra_mib", "kept_mib",
)  # fmt: skip
ERRORS = tuple(f"{tensor}_{key}" for tensor in TENSORS for key in ("max_abs", "rmse", "rel_l2"))
FURTHER = (
    "contestant", "window_left", "window_right", "softcap", "slots", "gradients", "samples", "stop",
    "spread", "twin_ms", "one_gpu_ms", "percent_of_one_gpu", "percent_of_twin",
    "executed_over_useful_flops", "dq_vs_pytorch", "dq_vs_one_gpu", "oracle", "oracle_rows",
    "interpreted", "backend_version", "gpu", "torch", "triton", "commit", "run", "suite",
    "started_at", "seconds", "command",
)  # fmt: skip
SPEEDS = (
    "latency_ms", "latency_ms_lo", "latency_ms_hi", "tflops_per_gpu", "tokens_per_s", "samples",
    "stop", "spread", "twin_ms", "one_gpu_ms", "percent_of_one_gpu", "percent_of_twin",
    "executed_over_useful_flops", "imbalance", "devices",
)  # fmt: skip


TEN = [[9.0, 10.0]] * 6


def timed(**changes):
    """Two ranks; the slowest took 10 ms, its twin 8 ms and one GPU with half the share 4 ms."""
    fields = {
        "samples": Samples(
            ring=[[9.0, 10.0]] * 6, twin=[[8.0, 7.0]] * 6, one_gpu=[[3.0, 4.0]] * 6, stop="time"
        ),
        "useful_flops": 4 * 10**12, "executed_flops": 5 * 10**12, "devices": 2, "imbalance": 1.25,
        "one_gpu_flops": 10**12,
    }  # fmt: skip
    return Speed(**{**fields, **changes})


def test_the_columns_come_in_their_order():
    assert COLUMNS[: len(FIRST + ERRORS)] == FIRST + ERRORS
    rest = [name for name in COLUMNS if name in FURTHER]
    assert tuple(rest) == FURTHER


def test_every_column_says_what_it_means():
    assert all(MEANINGS[name] for name in COLUMNS)


def test_cells_are_columns(make_record):
    assert tuple(row(make_record()).cells()) == COLUMNS


def test_figures_by_hand(make_record, make_case):
    of = make_case(batch=3, seqlen_total=2048, world_size=2)
    memory = Memory(peak_extra_bytes=[3 * 2**20, 5 * 2**20], kept_bytes=[7 * 2**20, 6 * 2**20])
    found = row(make_record(case=of, speed=timed(), memory=memory))
    assert found.latency_ms == 10.0
    assert (found.latency_ms_lo, found.latency_ms_hi) == (10.0, 10.0)
    assert found.tflops_per_gpu == pytest.approx(200.0)
    assert found.tokens_per_s == pytest.approx(614_400)
    assert (found.peak_extra_mib, found.kept_mib) == (5.0, 7.0)
    assert found.twin_ms == 8.0
    assert found.percent_of_twin == pytest.approx(80.0)
    assert found.one_gpu_ms == pytest.approx(8.0)
    assert found.percent_of_one_gpu == pytest.approx(80.0)
    assert found.executed_over_useful_flops == 1.25
    assert found.imbalance == 1.25
    assert (found.samples, found.stop, found.spread) == (6, "time", 0.0)


def test_a_ring_in_a_graph_stands_beside_one_call_that_is_in_one(make_record):
    loops = Samples(ring=[[20.0, 20.0]] * 6, one_gpu=[[16.0, 16.0]] * 6)
    samples = loops.model_copy(update={"graph": TEN, "one_gpu_graph": [[3.0, 4.0]] * 6})
    found = row(make_record(speed=timed(samples=samples)))
    alone = row(make_record(speed=timed(samples=loops.model_copy(update={"graph": TEN}))))

    assert (found.graph_ms, found.one_gpu_graph_ms) == (10.0, pytest.approx(8.0))
    assert found.percent_of_one_gpu_graph == pytest.approx(80.0)
    assert alone.graph_ms == 10.0
    assert alone.one_gpu_graph_ms is alone.percent_of_one_gpu_graph is None


def test_loopback_is_the_work_of_one_gpu(make_record):
    found = row(make_record(speed=timed(devices=1)))
    assert found.tflops_per_gpu == pytest.approx(400.0)
    assert found.one_gpu_ms == pytest.approx(16.0)


def test_errors_are_beside_those_of_pytorch_of_one_gpu_and_of_the_bound(make_record):
    record = make_record()
    plain = record.accuracy.tensors["out"]
    worse = plain.model_copy(
        update={
            "max_abs": 3.0, "rmse": 0.2, "bound_max_abs": 4.0, "bound_rmse": 1.0,
            "pytorch_rmse": 0.1, "one_gpu_rmse": 0.16,
        }
    )  # fmt: skip
    accuracy = record.accuracy.model_copy(update={"tensors": {"out": worse}})
    ratios = row(record.model_copy(update={"accuracy": accuracy})).ratios["out"]
    assert ratios.vs_pytorch == pytest.approx(2.0)
    assert ratios.vs_one_gpu == pytest.approx(1.25)
    assert ratios.of_bound == 0.75


def test_a_value_that_is_not_finite_is_an_empty_cell(make_record):
    record = make_record()
    endless = record.accuracy.tensors["out"].model_copy(
        update={"max_abs": None, "rmse": None, "rel_l2": None}
    )
    accuracy = record.accuracy.model_copy(update={"tensors": {"out": endless}})
    found = make_record(status=Status.WRONG, reason="out is not finite", accuracy=accuracy)
    assert row(found).cells()["out_max_abs"] is None
    assert row(found).cells()["out_vs_pytorch"] is None


def test_a_perfect_baseline_leaves_the_ratio_empty(make_record):
    record = make_record()
    lucky = record.accuracy.tensors["lse"].model_copy(update={"pytorch_rmse": 0.0})
    accuracy = record.accuracy.model_copy(update={"tensors": {"lse": lucky}})
    assert row(record.model_copy(update={"accuracy": accuracy})).ratios["lse"].vs_pytorch is None


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_row_that_is_not_ok_shows_no_speed(make_record, status):
    cells = row(make_record(status=status, reason="so")).cells()
    assert [name for name in SPEEDS if cells[name] is not None] == []


def test_an_interpreted_kernel_shows_errors_and_no_speed(make_record):
    cells = row(make_record(interpreted=True)).cells()
    assert [name for name in SPEEDS if cells[name] is not None] == []
    assert cells["out_rmse"] is not None


def test_what_was_kept_is_unknown_in_records_of_before(make_record):
    found = row(make_record(memory=Memory(peak_extra_bytes=[2**20])))
    assert (found.peak_extra_mib, found.kept_mib) == (1.0, None)


def test_memory_on_a_cpu_is_empty(make_record):
    assert row(make_record(environment={"gpu": None})).peak_extra_mib is None


def test_fewer_than_six_samples_leave_the_interval_empty(make_record):
    found = row(make_record(speed=timed(samples=Samples(ring=[[2.0]] * 5))))
    assert found.latency_ms == 2.0
    assert found.latency_ms_lo is None
    assert found.latency_ms_hi is None


def test_what_was_not_measured_beside_the_ring_is_empty(make_record):
    found = row(make_record(speed=timed(samples=Samples(ring=[[2.0]]), one_gpu_flops=None)))
    cells = (found.twin_ms, found.one_gpu_ms, found.percent_of_twin, found.percent_of_one_gpu)
    assert cells == (None,) * 4


def test_an_unlimited_window_and_no_softcap_are_empty(make_record, make_case):
    plain = row(make_record())
    assert (plain.window_left, plain.window_right, plain.softcap) == (None, None, None)
    limited = row(make_record(case=make_case(window=(128, 0), softcap=30.0)))
    assert (limited.window_left, limited.window_right, limited.softcap) == (128, 0, 30.0)


def test_an_empty_environment_is_no_error(make_record):
    found = row(make_record(environment={}))
    assert (found.gpu, found.torch, found.commit) == (None, None, None)


def test_uncommitted_changes_are_told(make_record):
    found = row(make_record(environment={"commit": "abc", "dirty": True}))
    assert found.commit == "abc-dirty"


def test_a_reason_is_one_line(make_record):
    assert row(make_record(status=Status.ERROR, reason="one\n  two\r\n")).reason == "one two"


def test_of_records_with_one_key_the_last_counts(make_record):
    first = make_record(status=Status.ERROR, reason="it crashed")
    other = make_record(direction=Direction.BACKWARD)
    found = rows([first, other, make_record()])
    assert [(row.direction, row.status) for row in found] == [
        (Direction.FORWARD, Status.OK),
        (Direction.BACKWARD, Status.OK),
    ]


def test_cells_make_the_row_again(sweep_records):
    for found in rows(sweep_records):
        assert ReportRow.of_cells(found.cells()) == found


def test_a_frame_knows_empty_cells_and_types(sweep_records):
    table = frame(rows(sweep_records))
    assert tuple(table.columns) == COLUMNS
    kinds = {name: str(table[name].dtype) for name in ("causal", "batch", "latency_ms", "gpu")}
    assert kinds.pop("gpu").startswith("str")
    assert kinds == {"causal": "boolean", "batch": "Int64", "latency_ms": "Float64"}
    slow = table[table["status"] != "ok"]
    assert slow["latency_ms"].isna().all()


def test_every_column_is_filled_by_somebody(make_record):
    memory = Memory(peak_extra_bytes=[1], kept_bytes=[1])
    told = PredictedMemory(call_bytes=[1])

    made = make_record(memory=memory, predicted=told)
    shape = CacheShape(queries=1)
    speed = made.speed.model_copy(update={"cache_bytes": 1})
    over = made.model_copy(
        update={"case": made.case.model_copy(update={"cache": shape}), "speed": speed}
    )

    filled = row(made).model_fields_set | row(over).model_fields_set
    in_graphs = timed(samples=Samples(ring=TEN, graph=TEN, one_gpu_graph=TEN))
    filled |= row(make_record(speed=in_graphs)).model_fields_set
    assert filled == set(ReportRow.model_fields)


FINE = Precision(
    bias=1e-7, bias_error=2e-7, gain=-1e-3, gain_error=1e-5, floor_rmse=5e-5, ulps_max=90.0,
    ulps_p99=1.5,
)  # fmt: skip


def test_what_an_error_is_made_of_is_beside_its_floor(make_record):
    record = make_record()
    out = record.accuracy.tensors["out"].model_copy(update={"rmse": 1e-4, "precision": FINE})
    accuracy = record.accuracy.model_copy(update={"tensors": {"out": out}})
    cells = row(record.model_copy(update={"accuracy": accuracy})).cells()
    assert cells["out_over_floor"] == pytest.approx(2.0)
    assert (cells["out_bias"], cells["out_gain"], cells["out_ulps_p99"]) == (1e-7, -1e-3, 1.5)
    assert cells["lse_over_floor"] is None


def test_the_invariants_that_hold_are_named_and_those_that_do_not_are_not(make_record):
    kept = Departure(max_abs=0.0, rmse=0.0, allowed_max_abs=0.0, allowed_rmse=0.0)
    broken = kept.model_copy(update={"max_abs": 1.0})
    record = make_record()
    for asked, names in (
        ({"heads_apart": {"out": kept}, "rows_sum_to_one": {"out": kept}},
         "heads_apart rows_sum_to_one"),
        ({"heads_apart": {"out": kept, "lse": broken}}, None),
        (None, None),
    ):  # fmt: skip
        accuracy = record.accuracy.model_copy(update={"invariants": asked})
        assert row(record.model_copy(update={"accuracy": accuracy})).invariants == names


def test_a_row_has_what_its_gpus_said_and_its_kernels_registers(make_record):
    looks = [[GpuLook(sm_mhz=1755, watts=650.0, celsius=61, held_back=("sw_power_cap",))]] * 3
    kernels = (
        UsedKernel("forward_kernel", 168, 0, 98304, 8),
        UsedKernel("dq_kernel", 255, 12, 0, 4),
    )

    found = row(make_record(gpus=GpuWatch.of(looks), kernels=kernels))

    assert (found.sm_mhz, found.watts, found.celsius) == (1755, 650.0, 61)
    assert (found.memory_mhz, found.suspicion) == (None, None)
    assert found.held_back == "sw_power_cap"
    assert found.kernels == "forward_kernel 168 + 0, dq_kernel 255 + 12"
    assert ReportRow.of_cells(found.cells()) == found
