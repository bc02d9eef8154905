"""What advice is made from: the committed records, as the wheel has them."""

from pathlib import Path

import pytest

from ring_attn_bench.advise.figures import SHIPPED, as_csv, newest, of_records, read_csv
from ring_attn_bench.errors import FileError
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Memory, read
from ring_attn_bench.records.status import Status
from ring_attn_bench.ring.options import RingOptions
from scripts.advise_figures import figures

RING = Path(__file__).parents[3] / "results" / "2026-11-30_2xH200_ring" / "records.jsonl.gz"


def test_the_shipped_figures_are_those_of_the_committed_records():
    assert SHIPPED.read_text(encoding="utf-8") == as_csv(figures()), "scripts/advise_figures.py"


def test_what_was_written_is_read_as_it_was():
    shipped = read_csv(SHIPPED)

    assert len(shipped) > 300
    assert as_csv(shipped) == SHIPPED.read_text(encoding="utf-8")


def test_every_row_of_plain_attention_of_a_run_is_a_figure():
    records = [r for r in read(RING) if r.case.window == (-1, -1)]
    found = list(of_records("it", records))

    assert len(found) == len(records) == 102
    assert len(newest(found)) == len(found), "no two have the same way and shape"


@pytest.fixture
def figure(make_record):
    def of(**changes):
        return list(of_records("run", [make_record(**changes)]))

    return of


def test_what_is_interpreted_or_no_plain_attention_is_none(figure, make_case):
    assert len(figure()) == 1
    assert figure(interpreted=True) == []
    assert figure(direction=Direction.BACKWARD) == []
    for changes in ({"window": (9, 0)}, {"softcap": 3.0}, {"deterministic": True}):
        assert figure(case=make_case(**changes)) == []


def test_every_field_of_a_case_is_in_the_shape_or_no_plain_attention(figure, changed_cases):
    base, others = changed_cases
    (plain,) = figure(case=base)

    for name, other in others.items():
        found = figure(case=other)
        if type(base).model_fields[name].is_required():
            assert found[0].shape != plain.shape, name
        else:
            assert found == [], name


def test_a_ring_by_loopback_and_one_with_options_that_are_not_said_are_none(
    figure, make_contestant
):
    assert figure(contestant=make_contestant(played="loopback")) == []
    assert figure(contestant=make_contestant(landing_tokens=64)) == []
    assert figure(contestant=make_contestant(slots=3)) == []


def test_what_auto_took_is_the_way(figure, make_contestant):
    took = RingOptions(schedule="gather", grouping=(3,), slots=1, transport="p2p")
    who = make_contestant(schedule="auto", transport="auto", slots="auto")
    ((asked,), (older,)) = (figure(contestant=who, took=took), figure())

    assert (asked.way.schedule, asked.way.transport) == ("gather", "p2p")
    assert older.way.schedule == "steps", "records that do not say went by steps"


def test_of_the_same_way_and_shape_the_newest_counts(figure):
    old = figure(started_at="2026-01-01T00:00:00+00:00")
    new = figure(started_at="2026-02-01T00:00:00+00:00")

    assert newest([*new, *old]) == tuple(new)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_of_what_failed_the_status_is_known_and_nothing_else(figure, status):
    (failed,), (right,) = figure(status=status, speed=None, reason="planted"), figure()

    assert (failed.way, failed.shape, failed.status) == (right.way, right.shape, status)
    assert (failed.ms, failed.call, failed.error) == (0.0, None, None)


def test_of_a_row_that_a_run_has_twice_the_last_counts(make_record):
    right, wrong = make_record(), make_record(status=Status.WRONG, reason="planted")

    for last in (right, wrong):
        (found,) = of_records("run", [right, wrong, last])
        assert found.status is last.status


def test_a_newer_failure_counts_and_an_older_one_does_not(figure):
    right = figure(started_at="2026-02-01T00:00:00+00:00")
    for month, counts in (("01", False), ("03", True)):
        wrong = figure(started_at=f"2026-{month}-01T00:00:00+00:00", status=Status.WRONG)
        assert newest([*wrong, *right]) == newest([*right, *wrong])
        assert newest([*right, *wrong]) == tuple(wrong if counts else right)


def test_a_way_of_two_rows_of_one_time_is_as_the_worse_of_them(figure, make_contestant):
    took = RingOptions(schedule="steps", slots=2, transport="p2p")
    who = make_contestant(schedule="auto", transport="auto", slots="auto")
    wrong, right = figure(contestant=who, took=took, status=Status.WRONG), figure()

    assert newest([*wrong, *right]) == newest([*right, *wrong]) == tuple(wrong)


def test_times_that_are_none_and_rings_longer_than_their_tokens_are_no_figure(
    figure, make_record, make_case
):
    speed = make_record().speed
    samples = speed.samples.model_copy(update={"ring": [[0.0], [0.0], [0.0]]})
    assert figure(speed=speed.model_copy(update={"samples": samples})) == []
    assert figure(case=make_case(seqlen_total=1, world_size=4)) == []


def test_memory_of_no_rank_is_not_known(figure):
    gpu = {"gpu": "NVIDIA H200", "gpu_memory_gib": 139.8}
    (found,) = figure(environment=gpu, memory=Memory(peak_extra_bytes=[]))

    assert found.call is None
    assert found.gpu_gib == 139.8


@pytest.mark.parametrize(("rmse", "pytorch"), [(float("nan"), 1.0), (1.0, 1e-320)])
def test_an_error_that_is_no_number_is_not_known(figure, make_record, rmse, pytorch):
    accuracy = make_record().accuracy
    out = accuracy.tensors["out"].model_copy(update={"rmse": rmse, "pytorch_rmse": pytorch})
    tensors = {**accuracy.tensors, "out": out}
    (found,) = figure(accuracy=accuracy.model_copy(update={"tensors": tensors}))

    assert found.error is None


def test_a_line_that_is_no_figure_is_a_sentence_with_its_place(tmp_path):
    path = tmp_path / "figures.csv"
    head, first, *_ = SHIPPED.read_text(encoding="utf-8").splitlines()
    path.write_text(
        "\n".join([head, first.replace("bfloat16", "bfloat16").replace(",4,1,", ",0,1,")])
    )

    with pytest.raises(FileError, match=r"\(line 2: .*world_size"):
        read_csv(path)
