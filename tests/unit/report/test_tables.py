"""Tables fit a terminal, put the fastest first, and never show the speed of a wrong result."""

from __future__ import annotations

import re

import pytest

from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.gpus import GpuLook, GpuWatch
from ring_attn_bench.records.record import Memory
from ring_attn_bench.records.status import Status
from ring_attn_bench.report import csv, tables
from ring_attn_bench.report.groups import WHO
from ring_attn_bench.report.rows import rows
from ring_attn_bench.report.write import summary
from ring_attn_bench.text.table import Table


def widest(text):
    return max(map(len, text.splitlines()))


def column(table, name):
    place = table.headers.index(name)
    return [cells[place] for cells in table.rows]


@pytest.fixture(scope="session")
def sweep_rows(sweep_records):
    return rows(sweep_records)


def test_a_sweep_fits_100_columns(sweep_rows, sweep_records):
    for table in (*tables.speed(sweep_rows), *tables.accuracy(sweep_rows, WHO)):
        assert widest(table.terminal()) <= tables.WIDTH
    assert widest(summary(sweep_records)) <= tables.WIDTH


def test_long_names_and_reasons_fit_100_columns(make_record, make_contestant):
    long = {
        "backend": "a_backend_with_a_very_long_name_indeed",
        "partition": "a_partition_that_nobody_has_thought_of",
    }
    one = make_contestant(**long, transport="p2p", slots=2, gradients="float32")
    other = make_contestant(**long, played="loopback", slots=16, gradients="input")
    records = [
        make_record(),
        make_record(contestant=one, status=Status.UNSUPPORTED, reason="x" * 300),
        make_record(contestant=other, status=Status.WRONG, reason="why " * 100),
    ]
    assert widest(summary(records)) <= tables.WIDTH


def test_a_tiny_run_fits_100_columns(tiny_records):
    assert widest(summary(tiny_records)) <= tables.WIDTH


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_summary_fits_the_terminal_and_breaks_no_word(sweep_records, width):
    shown = summary(sweep_records, width)
    assert widest(re.sub(r"again: .*|^      b1_s.*", "", shown, flags=re.MULTILINE)) <= width
    words = set(re.findall(r"[\w/.%±]+", summary(sweep_records, 1000)))
    assert set(re.findall(r"[\w/.%±]+", shown)) - words <= {"too", "narrow", "for"}


def test_columns_are_dropped_last_and_the_ones_that_matter_least_first():
    table = Table(
        "wide", ("who", "a number", "b number", "c number"),
        (("peer:ring_flash_attn[flash_attn_2]", "1" * 8, "2" * 8, "3" * 8),), least=("b number",),
    )  # fmt: skip
    folded, narrow, narrower = (table.terminal(width) for width in (52, 45, 32))

    assert "too narrow" not in folded
    assert "[flash_attn_2]" in folded.split()
    assert "(too narrow for: b number)" in narrow
    assert "33333333" in narrow
    assert "(too narrow for: b number, c number)" in narrower.replace("\n", " ")
    assert "11111111" in narrower


def test_the_fastest_is_first_and_what_has_no_speed_last(sweep_rows):
    table = tables.speed(sweep_rows)[0]
    latencies = column(table, "latency ms")
    count = sum(bool(re.fullmatch(r"[\d.,]+", cell)) for cell in latencies)
    speeds = [float(cell.replace(",", "")) for cell in latencies[:count]]
    assert 0 < count < len(latencies)
    assert speeds == sorted(speeds)
    assert all(cell.startswith("unsupported [") for cell in latencies[count:])


def test_an_interval_that_is_missing_says_why(make_record, make_contestant):
    def made(partition, count):
        record = make_record(contestant=make_contestant(partition=partition))
        few = record.speed.samples.model_copy(update={"ring": record.speed.samples.ring[:count]})
        speed = record.speed.model_copy(update={"samples": few})
        return record.model_copy(update={"speed": speed})

    (table,) = tables.speed(rows([made("zigzag", 5), made("striped", 6)]))

    by_partition = dict(zip(column(table, "partition"), column(table, "±"), strict=True))
    assert by_partition["zigzag"] == "[1]"
    assert by_partition["striped"].endswith(" %")
    assert "[1] fewer than 6 samples, of which a median has no 95 % interval" in table.terminal()


def test_a_ratio_of_errors_beyond_ten_says_no_more_than_that(make_record):
    record = make_record()
    exact = {
        name: error.model_copy(update={"one_gpu_rmse": error.rmse / 4500})
        for name, error in record.accuracy.tensors.items()
    }
    accuracy = record.accuracy.model_copy(update={"tensors": exact})
    (row,) = rows([record.model_copy(update={"accuracy": accuracy})])
    (table,) = tables.accuracy([row])

    assert set(column(table, "rmse / no ring")) == {"> 10x"}
    assert set(column(table, "rmse / PyTorch's")) == {"1.00x"}
    assert row.ratios["out"].vs_one_gpu == pytest.approx(4500)


def test_what_was_not_kept_count_of_is_a_dash_beside_what_was(make_record, make_contestant):
    def made(partition, kept):
        memory = Memory(peak_extra_bytes=[2**20] * 4, kept_bytes=kept)
        return make_record(contestant=make_contestant(partition=partition), memory=memory)

    old, new = made("zigzag", None), made("striped", [3 * 2**20] * 4)
    (table,) = tables.speed(rows([old, new]))
    assert sorted(column(table, "MiB kept")) == ["-", "3.00"]
    assert column(table, "MiB per call") == ["1.00", "1.00"]
    (without,) = tables.speed(rows([old]))
    assert "MiB kept" not in without.headers


def test_a_status_stands_in_place_of_all_numbers_with_its_reason_below(make_record):
    bad = make_record(status=Status.WRONG, reason="dk is 3 times its bound")
    (table,) = tables.speed(rows([bad]))
    assert table.headers == ("backend", "latency ms")
    assert table.rows == (("triton", "wrong [1]"),)
    assert "[1] dk is 3 times its bound" in table.terminal()


def test_one_reason_of_many_contestants_is_told_once(sweep_rows):
    table = tables.speed(sweep_rows)[0]
    assert len(table.notes) == 1


def test_columns_that_are_constant_are_left_out(tiny_records):
    table = tables.speed(rows(tiny_records))[0]
    assert table.headers[0] == "backend"
    assert "partition" not in table.headers
    assert not any("MiB" in header for header in table.headers)
    assert "partition zigzag" in summary(tiny_records)


def test_an_interpreted_kernel_says_so(tiny_records):
    table = tables.speed(rows(tiny_records))[0]
    assert column(table, "latency ms")[-1] == "interpreted"


def test_a_sweep_has_an_overview_and_a_single_length_none(sweep_rows, tiny_records):
    found = tables.overview(sweep_rows)
    assert len(found) == 6
    assert found[0].headers == ("backend", "partition", "2K", "8K", "32K")
    assert tables.overview(rows(tiny_records)) == []


def test_the_worst_record_of_a_backend_is_shown_with_its_place(sweep_rows):
    table = tables.accuracy(sweep_rows)[0]
    place = next(place for place, cells in enumerate(table.rows) if cells[0] == "aten")
    dq = dict(zip(table.headers, table.rows[place + 2], strict=True))
    assert (dq["tensor"], dq["partition"], dq["status"]) == ("dq", "contiguous", "wrong")
    assert float(dq["of bound"]) > 1


def test_values_that_are_not_finite_are_the_worst_and_say_so(make_record, make_case):
    good = make_record()
    endless = good.accuracy.tensors["out"].model_copy(update={"max_abs": None, "rmse": None})
    accuracy = good.accuracy.model_copy(update={"tensors": {"out": endless}})
    bad = make_record(case=make_case(seqlen_total=4096), status=Status.WRONG, reason="nan",
                      accuracy=accuracy)  # fmt: skip
    table = tables.accuracy(rows([bad, good]))[0]
    assert column(table, "max_abs")[0] == "not finite"


def test_what_a_contestant_does_not_give_is_neither_wrong_nor_hidden(
    make_record, make_contestant, tmp_path
):
    good = make_record()
    tensors = {name: error for name, error in good.accuracy.tensors.items() if name != "lse"}
    accuracy = good.accuracy.model_copy(update={"tensors": tensors})
    theirs = make_contestant(backend="peer:torch_cp[math]")
    found = rows([make_record(contestant=theirs, accuracy=accuracy), good])
    table = tables.accuracy(found)[0]
    assert column(table, "tensor") == ["out", "lse", "out", "lse"]
    assert column(table, "max_abs").index("not given") == 1  # theirs comes first
    assert found[0].not_given == "lse"
    assert found[1].not_given is None
    csv.write(found, tmp_path / "results.csv")
    assert csv.read(tmp_path / "results.csv") == found


def test_a_peers_name_breaks_at_its_bracket():
    name = "peer:ring_flash_attn[flash_attn_2]"
    table = Table("wide", (*"abc", "d" * 60), ((name, "x", "1", "2"),))
    shown = [line.split()[0] for line in table.terminal().splitlines()]
    assert shown[-2:] == ["peer:ring_flash_attn", "[flash_attn_2]"]


def test_counts_add_up(sweep_rows):
    table = tables.counts(sweep_rows)
    *backends, total = table.rows
    assert total[-1] == str(len(sweep_rows))
    assert sum(int(cells[-1]) for cells in backends) == len(sweep_rows)
    assert "failures in" in table.caption
    assert table.headers == ("backend", *(status.value for status in Status), "all"), "by badness"


def test_failures_are_grouped_by_contestant_and_reason(sweep_rows):
    found = tables.failures(sweep_rows)
    assert [failure.status for failure in found] == [Status.WRONG, Status.TIMEOUT, Status.ERROR]
    assert sum(len(failure.rows) for failure in found) == sum(
        row.status.is_failure for row in sweep_rows
    )


def test_a_command_can_be_copied_from_a_narrow_terminal(make_record):
    command = "ring-attn-bench run " + " ".join(f"--option-{n} value-{n}" for n in range(12))
    bad = make_record(status=Status.ERROR, reason="so", command=command)
    (failure,) = tables.failures(rows([bad]))
    shown = failure.terminal().partition("again: ")[2]
    assert shown.replace(" \\\n      ", " ") == command


def test_markdown_shows_bars_and_angles_as_they_are():
    table = Table("a <b>", ("name", "value"), (("x|y", "1"),))
    assert "x\\|y" in table.markdown()
    assert "a &lt;b>" in table.markdown()


def test_the_summary_of_nothing_is_a_sentence():
    assert summary([]) == "No records."


def test_wrong_rows_never_show_a_speed(sweep_rows):
    wrong = [row for row in sweep_rows if row.status is Status.WRONG]
    assert {row.direction for row in wrong} == {Direction.BACKWARD}
    for table in tables.speed(wrong):
        assert [header for header in table.headers if "TFLOP" in header or "%" in header] == []


def test_what_speaks_against_a_time_stands_under_its_table(make_record, make_contestant):
    hot = GpuLook(sm_mhz=1200, held_back=("hw_thermal_slowdown",))
    others = make_contestant(backend="aten")
    records = [make_record(gpus=GpuWatch.of([[hot]] * 4)), make_record(contestant=others)]

    (table,) = tables.speed(rows(records))

    said = "GPU 0 was slowed down by the hardware, against heat (hw_thermal_slowdown, in 2 of 2"
    assert sorted("[1]" in cell for cell in column(table, "±")) == [False, True]
    assert table.notes[0].startswith(said)
    assert said in " ".join(table.terminal().split())


def test_a_sweep_names_its_suspicious_times_below_its_throughput(sweep_records):
    hot = GpuWatch.of([[GpuLook(held_back=("hw_power_brake_slowdown",))]] * 4)
    right = [x for x in sweep_records if x.speed is not None]
    one = [right[0].model_copy(update={"gpus": hot}), *right[1:]]
    all_of_them = [record.model_copy(update={"gpus": hot}) for record in right]

    assert "suspicious" not in summary(right)
    assert "1 suspicious time\n" in summary(one)
    assert "the power supply's brake" in summary(one)
    (table,) = tables.suspicious(rows(all_of_them))
    assert table.caption == f"{len(right)} suspicious times"
    assert table.remarks == (f"{len(right) - 8} rows more: `suspicion` in results.csv.",)
    assert widest(summary(all_of_them)) <= tables.WIDTH
