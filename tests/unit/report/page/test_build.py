"""What a page says: whom to take, where we are behind, and nothing of what was not measured."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from ring_attn_bench.contract.used import UsedKernel
from ring_attn_bench.records.ceilings import Ceilings
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.gpus import GpuLook, GpuWatch
from ring_attn_bench.records.status import Status
from ring_attn_bench.report.page.model import Prose

TITLES = (
    "decisions", "behind", "matrix", "scaling", "time", "accuracy", "memory", "missing", "how",
    "provenance", "again",
)  # fmt: skip


@pytest.fixture
def timed(make_record, make_contestant, make_case):
    """A record at that pace, by backend; other words are the contestant's or the case's."""
    from tests.unit.conftest import speed

    def made(backend, tflops, direction=Direction.FORWARD, of=None, **who):
        of = of or make_case()
        return make_record(
            case=of, direction=direction, contestant=make_contestant(backend=backend, **who),
            speed=speed(of, tflops, direction, backend),
        )  # fmt: skip

    return made


def test_the_verdict_comes_first_then_decisions_then_where_we_are_behind(sweep):
    assert tuple(x.name for x in sweep.page.sections) == TITLES
    assert sweep.page.verdict.startswith("Fastest and right, of 18 shapes: flash_attn_4 in ")
    assert re.search(r"\d+ failures in 270 records\.", sweep.page.verdict)


def test_each_shape_has_one_decision_and_it_is_the_fastest_right_row(sweep, sweep_records):
    (grid,) = sweep.grids("decisions")
    right = [x for x in sweep_records if x.speed is not None]
    shapes = {(x.case.name, x.direction) for x in right}
    assert len(grid.rows) == len(shapes)
    for row in grid.rows:
        cells = dict(zip((x.head for x in grid.columns), row, strict=True))
        assert cells["fastest"].who in {"flash_attn_4", "cudnn"}
        assert cells["ahead by"].order >= 1
        assert float(cells["ms"].text.split(" ")[0].replace(",", "")) > 0


def test_a_wrong_row_is_never_taken_however_fast(read, timed, make_record, make_contestant):
    bad = make_record(
        contestant=make_contestant(backend="fast"), status=Status.WRONG, reason="dk is too far"
    )
    found = read([timed("triton", 100), bad])
    (grid,) = found.grids("decisions")
    assert [cell.who for cell in found.column(grid, "fastest")] == ["triton"]
    assert found.texts(grid, "runner-up") == ["nobody else"]


def test_a_lead_that_may_be_chance_is_quiet_and_both_are_named(read, timed):
    found = read([timed("triton", 400.0), timed("cudnn", 400.4)])
    (grid,) = found.grids("decisions")
    (cell,) = found.column(grid, "ahead by")
    assert cell.tone == "quiet"
    assert any("cudnn or triton at 8K" in point for point in found.page.points)


def test_a_point_by_length_says_of_which_shape_it_is_where_there_are_several(
    read, timed, make_case
):
    one = [timed("triton", 400), timed("cudnn", 300)]
    other = [timed(name, 300, of=make_case(batch=8)) for name in ("triton", "cudnn", "aten")]
    (alone, *_), (several, *_) = (read(records).page.points for records in (one, one + other))
    assert alone.startswith("Forward, causal, by tokens per GPU: triton at 8K")
    assert several.startswith("Forward, causal, batch 8, by tokens per GPU: ")


def test_rows_that_a_peer_beats_are_told_the_worst_first(read, timed):
    found = read(
        [
            timed("triton", 300), timed("triton", 500, partition="striped"), timed("aten", 100),
            timed("peer:theirs", 400),
        ]
    )  # fmt: skip
    by_peers, by_kernels = found.grids("behind")
    assert by_peers.caption == "2 of 3 rows of ours are behind a peer"
    assert [cell.who for cell in found.column(by_peers, "who")] == ["aten", "triton"]
    assert [x.order for x in found.column(by_peers, "behind by")] == pytest.approx([4, 4 / 3], 0.1)
    assert found.texts(by_peers, "sure") == ["yes", "yes"]
    assert [cell.who for cell in found.column(by_kernels, "who")] == ["aten"]
    assert [cell.who for cell in found.column(by_kernels, "fastest kernel")] == ["triton"]


def test_where_no_peer_is_ahead_the_page_says_so(read, timed):
    found = read([timed("triton", 500), timed("peer:theirs", 400)])
    (words,) = found.section("behind").blocks
    assert words.texts == ("No row of ours of 1 is behind a peer.",)
    assert "faster than every peer in every shape that has one (1 of 1 bey" in found.page.verdict


def test_the_matrix_has_a_column_for_each_schedule_over_a_transport(read, timed):
    found = read(
        [
            timed("triton", 300, schedule="steps"), timed("triton", 500, schedule="gather"),
            timed("triton", 510, schedule="gather", partition="striped"),
            timed("peer:theirs", 400),
        ]
    )  # fmt: skip
    (grid,) = found.grids("matrix")
    heads = [column.head for column in grid.columns]
    assert heads[2:] == ["gather, p2p", "steps, p2p", "a ring of its own"]
    by_name = {row[1].text: row[2:] for row in grid.rows}
    assert by_name["triton"][0].tone == "good"
    assert float(by_name["triton"][0].text) == pytest.approx(510, rel=0.03)
    assert by_name["peer:theirs"][0].text == ""


def test_rings_of_several_sizes_are_told_by_size(read, timed, make_case):
    cases = [make_case(world_size=w, seqlen_total=w * 8192) for w in (2, 4, 8)]
    cases += [make_case(world_size=2, seqlen_total=8 * 8192)]
    found = read([timed("triton", 400, of=case) for case in cases])
    captions = [grid.caption for grid in found.grids("scaling")]
    weak = next(x for x in found.grids("scaling") if x.caption.startswith("weak"))
    assert [column.head for column in weak.columns] == ["who", "W = 2", "W = 4", "W = 8"]
    assert any(x.startswith("strong scaling: 64K tokens in all") for x in captions)
    errors = found.grids("accuracy")[0]
    assert [column.head for column in errors.columns][3:] == ["W = 2", "W = 4", "W = 8"]


def lines(grid):
    return [dict(zip((x.head for x in grid.columns), row, strict=True)) for row in grid.rows]


def test_time_is_one_call_and_what_is_beyond_noise_of_launches_and_communication(sweep):
    for cells in lines(sweep.grids("time")[0]):
        bar, ring = cells["of the ring's time"].parts, cells["ring ms"].order
        named = [cells[f"{x} ms"] for x in ("one call", "uneven", "launches")]
        assert bar[:3] == pytest.approx([cell.order / ring for cell in named], rel=1e-6)
        communication = cells["communication ms"].order / ring
        assert sum(bar[3:]) == pytest.approx(communication)
        assert sum(bar) <= 1.0000001


def test_rows_that_lose_most_come_first_and_the_page_says_to_what(sweep):
    grid = sweep.grids("time")[0]
    shares = [cells["lost %"].order for cells in lines(grid)]
    assert shares == sorted(shares, reverse=True)
    (said, *_) = sweep.section("time").blocks
    assert said.points
    counts = Counter(cells["mostly to"].text for cells in lines(grid))
    told = [re.match(r"(\d+) rows? of \d+ loses? most to (\w+)", text) for text in said.texts]
    assert {found[2]: int(found[1]) for found in told if found} == {
        name: count for name, count in counts.items() if name
    }


def test_a_part_that_may_be_chance_is_said_to_be_noise_and_no_bar_has_it(read, timed):
    record = timed("triton", 400)
    samples = record.speed.samples.model_copy(update={"twin": record.speed.samples.ring})
    same = record.speed.model_copy(update={"samples": samples})
    (cells,) = lines(read([record.model_copy(update={"speed": same})]).grids("time")[0])

    assert cells["communication ms"].text.startswith("within noise (\N{MINUS SIGN}0.")
    assert cells["communication ms"].tone == "quiet"
    assert cells["of the ring's time"].parts[3:] == (0.0, 0.0)


def test_beside_the_link_alone_communication_is_transfer_and_waiting(read, timed):
    record = timed("triton", 400)
    ceilings = Ceilings(dtype="bfloat16", matmul_tflops=(800.0, 810.0), copy_gbs=(4000.0,),
                        messages_gbs=(100.0,), measured_at="2026-01-01")  # fmt: skip
    speed = record.speed.model_copy(update={"link_bytes": 10**7})
    found = read([record.model_copy(update={"speed": speed, "ceilings": ceilings})])
    (cells,) = lines(found.grids("time")[0])

    ring = cells["ring ms"].order
    assert cells["link alone ms"].order == pytest.approx(0.1)
    assert cells["of the ring's time"].parts[3] == pytest.approx(0.1 / ring)
    assert cells["of the ring's time"].parts[4] > 0
    assert cells["hidden ms"].order == pytest.approx(0.0)
    (pace,) = lines(found.grids("time")[1])
    assert float(pace["% of matmul"].text) == pytest.approx(50, rel=0.03)
    light = found.grids("provenance")[1]
    assert light.caption.startswith("speeds of light")
    assert [cell.text for cell in light.rows[0][3:7]] == ["800 to 810", "4,000", "100", ""]


def test_why_a_speed_of_light_is_not_known_is_said(read, timed):
    ceilings = Ceilings(dtype="bfloat16", unmeasured="a process has no 768 MiB to measure with")
    found = read([timed("triton", 400).model_copy(update={"ceilings": ceilings})])

    (words,) = [x for x in found.section("provenance").blocks if isinstance(x, Prose)]
    assert words.texts[0].endswith("nothing is known: a process has no 768 MiB to measure with")


def test_every_row_has_its_command(sweep, sweep_records):
    (grid,) = sweep.grids("again")
    commands = sweep.texts(grid, "command")
    assert sorted(commands) == sorted(record.command for record in sweep_records)


def test_each_reason_is_told_once_the_worst_first(sweep):
    grid, counts = sweep.grids("missing")
    assert len(set(sweep.texts(grid, "reason"))) == len(grid.rows)
    order = [Status(text).badness for text in sweep.texts(grid, "status")]
    assert order == sorted(order, reverse=True)
    assert counts.rows[-1][-1].text == "270"


def test_what_was_not_timed_has_no_section_of_times(read, tiny_records):
    found = read([record for record in tiny_records if record.interpreted])
    assert [x.name for x in found.page.sections[:2]] == ["decisions", "accuracy"]
    assert found.page.verdict.startswith("6 of 6 rows are right; nothing was timed.")


def test_names_that_a_terminal_says_once_stand_in_every_line(sweep):
    for grid in sweep.grids("accuracy"):
        assert all(row[0].text for row in grid.rows)


def test_every_backend_has_a_mark_and_no_two_the_same(sweep):
    looks = [(mark.colour, mark.marker) for mark in sweep.page.marks]
    assert len(set(looks)) == len(looks) == 5


def test_of_one_kernel_its_settings_are_compared(read, timed):
    found = read([timed("triton", 500, schedule="gather"), timed("triton", 300, schedule="steps")])
    assert found.page.verdict.startswith("Fastest and right, of 1 shape: triton/gather in 1 (1 ")


def test_what_all_shapes_share_is_told_once_and_the_rest_in_each_line(read, timed, make_case):
    cases = [make_case(heads_kv=heads) for heads in (8, 32)]
    found = read([timed("triton", 500, of=case) for case in cases])
    (grid,) = found.grids("decisions")
    assert grid.caption.endswith("all of them: W = 4, batch 1, head dim 128, bfloat16")
    assert found.texts(grid, "shape") == ["heads 32:8", "heads 32:32"]
    assert found.page.about.endswith("All of it: W = 4, batch 1, head dim 128, bfloat16.")


def test_a_suspicious_time_is_marked_and_said_where_it_was_measured(read, timed):
    hot = GpuLook(sm_mhz=1200, watts=350.0, celsius=88, held_back=("hw_thermal_slowdown",))
    cool = GpuLook(sm_mhz=1755, watts=650.0, celsius=61, held_back=("sw_power_cap",))
    first, second = timed("triton", 500), timed("cudnn", 400)
    kernel = UsedKernel("forward_kernel", 168, 0, 98304, 8)
    found = read(
        [
            first.model_copy(update={"gpus": GpuWatch.of([[hot]] * 4), "kernels": (kernel,)}),
            second.model_copy(update={"gpus": GpuWatch.of([[cool]] * 4)}),
        ]
    )

    _, suspicious, every, kernels = found.grids("provenance")
    assert suspicious.caption == "1 row with a suspicious time"
    (said,) = found.texts(suspicious, "what speaks against it")
    assert said.startswith("GPU 0 was slowed down by the hardware, against heat")
    assert found.texts(every, "SM MHz") == ["1,755", "1,200"]
    assert found.texts(every, "held back by") == ["sw_power_cap", "hw_thermal_slowdown"]
    assert [row[-1].text for row in kernels.rows] == ["forward_kernel 168 + 0"]
    (grid,) = found.grids("decisions")
    (cell,) = found.column(grid, "ms")
    assert (cell.text[-1], cell.tone) == ("?", "bad")
    assert found.page.points[-1].startswith("What GPUs said speaks against 1 of 2 times")


def test_why_gpus_were_not_seen_is_said_once(read, timed):
    unseen = {"gpus": GpuWatch(unseen="nvidia-ml-py is not installed")}
    found = read([timed(name, 400).model_copy(update=unseen) for name in ("triton", "cudnn")])

    (words,) = [x for x in found.section("provenance").blocks if isinstance(x, Prose)]
    assert words.texts == ("Of some GPUs nothing is known: nvidia-ml-py is not installed",)
