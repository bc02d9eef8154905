"""Memory beside its prediction: who is far off is said, and what is compared is alike."""

from __future__ import annotations

import pytest

from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.predicted import PredictedMemory
from ring_attn_bench.records.record import Memory
from ring_attn_bench.records.status import Status
from ring_attn_bench.report.csv import read as read_csv
from ring_attn_bench.report.csv import write
from ring_attn_bench.report.page.model import Heading, Prose
from ring_attn_bench.report.rows import row, rows

MIB = 2**20
CAPTION = "MiB of a call"


@pytest.fixture
def held(make_record, make_contestant):
    """A record that took so many MiB where so many were predicted; of two ranks that took less."""

    def made(measured, predicted, backend="triton", *, with_kernel=True, **changes):
        told = None
        if predicted is not None:
            sizes = [MIB * predicted // 2, MIB * predicted]
            told = PredictedMemory(call_bytes=sizes, with_kernel=with_kernel)
        return make_record(
            contestant=make_contestant(backend=backend), predicted=told,
            memory=Memory(peak_extra_bytes=[MIB * measured, MIB * measured // 2]), **changes,
        )  # fmt: skip

    return made


def said(page):
    """The paragraphs below the heading."""
    blocks = page.section("memory").blocks
    (at,) = (i for i, x in enumerate(blocks) if x == Heading("Measured beside predicted"))
    assert isinstance(blocks[at + 1], Prose)
    return blocks[at + 1].texts[1:]


def table(page):
    (grid,) = (x for x in page.grids("memory") if x.caption.startswith(CAPTION))
    return grid


def test_measured_stands_beside_predicted_of_the_rank_that_takes_most(read, held):
    page = read([held(101, 100)])
    grid = table(page)
    assert page.texts(grid, "measured MiB") == ["101.0"]
    assert page.texts(grid, "predicted MiB") == ["100.0"]
    assert page.texts(grid, "measured / predicted") == ["1.01x"]
    assert page.texts(grid, "predicted of") == ["ring and kernel"]
    (sentence,) = said(page)
    assert sentence.startswith("Of 1 row whose kernel says what it takes, 1 took what was ")


def test_rows_off_by_more_than_a_fifth_are_named(read, held):
    page = read([
        held(119, 100),
        held(130, 100, "cudnn", direction=Direction.BACKWARD),
        held(70, 100, "aten"),
    ])  # fmt: skip
    (sentence,) = said(page)
    assert "Of 3 rows" in sentence
    assert "1 took what was predicted, to 20 % (1.19x of it)" in sentence
    assert "Off by more: aten forward 0.70x; cudnn backward 1.30x." in sentence
    tones = {x.text: x.tone for x in page.column(table(page), "measured / predicted")}
    assert tones == {"1.19x": "", "1.30x": "bad", "0.70x": "bad"}


def test_what_is_above_the_rings_own_is_the_kernels_and_what_is_below_it_a_mistake(read, held):
    page = read([
        held(140, 100, "aten", with_kernel=False),
        held(100, 100, "aten", with_kernel=False, direction=Direction.BACKWARD),
        held(50, 100, "cudnn", with_kernel=False),
    ])  # fmt: skip
    (sentence,) = said(page)
    assert sentence.startswith("Of 3 rows the ring alone is predicted")
    assert "By more than 20 %: aten forward 1.40x." in sentence
    assert "which no kernel explains: cudnn forward 0.50x." in sentence
    assert set(page.texts(table(page), "predicted of")) == {"ring"}
    tones = {x.text: x.tone for x in page.column(table(page), "measured / predicted")}
    assert tones == {"1.40x": "", "1.00x": "", "0.50x": "bad"}


def test_what_the_allocator_rounds_up_is_no_difference(read, held):
    (sentence,) = said(read([held(3, 1)]))
    assert "1 took what was predicted" in sentence


def test_nothing_is_said_where_nothing_was_predicted_or_measured(read, held, make_record):
    page = read([
        held(100, None),
        held(1, 1).model_copy(update={"memory": None, "speed": None}),
        make_record(status=Status.OOM, predicted=PredictedMemory(call_bytes=[MIB])),
    ])  # fmt: skip
    assert not [x for x in page.grids("memory") if x.caption.startswith(CAPTION)]
    assert Heading("Measured beside predicted") not in page.section("memory").blocks


def test_a_prediction_is_in_the_file_where_nothing_fitted_and_of_a_cpu_too(make_record, tmp_path):
    told = PredictedMemory(call_bytes=[7 * MIB, 9 * MIB])
    failed = make_record(status=Status.OOM, predicted=told)
    on_a_cpu = make_record(environment={"gpu": None}, predicted=told)
    for record in (failed, on_a_cpu):
        assert row(record).predicted_mib == 9.0
        assert row(record).predicted_of == "ring"
        assert row(record).peak_extra_mib is None
    assert row(make_record()).predicted_mib is None
    write(rows([failed]), tmp_path / "results.csv")
    (found,) = read_csv(tmp_path / "results.csv")
    assert (found.predicted_mib, found.predicted_of) == (9.0, "ring")
