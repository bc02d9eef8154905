"""Rings of several sizes: whose line is whose, what is drawn of it, and where names stand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ring_attn_bench.records.direction import Direction
from ring_attn_bench.report import plots
from ring_attn_bench.report.plots.canvas import BEHIND
from ring_attn_bench.report.plots.scaling import apart, draw_scaling
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.report.rows import rows
from ring_attn_bench.report.scaled import STRONG, WEAK, compared, last, lines


@pytest.fixture(scope="session")
def ring(make_record, make_case, make_contestant):
    """A row of so many ranks; of one, a kernel is one contestant, whatever was asked for."""
    from tests.unit.conftest import speed

    def made(size, rate=400.0, total=None, played="real", **who):
        of = make_case(world_size=size, seqlen_total=total or size * 8192)
        if size == 1:
            who["partition"] = "contiguous"
        contestant = make_contestant(**who).model_copy(update={"played": played})
        record = make_record(
            case=of, contestant=contestant, speed=speed(of, rate, Direction.FORWARD)
        )
        (found,) = rows([record])
        return found

    return made


@pytest.fixture(scope="session")
def few(ring):
    """Two partitions of a kernel in rings of 1, 2 and 4."""
    larger = [
        ring(size, rate, partition=partition)
        for size, rate in ((2, 390.0), (4, 380.0))
        for partition in ("zigzag", "striped")
    ]
    return [ring(1), *larger]


def test_all_lines_of_a_kernel_begin_with_its_ring_of_one(few):
    found = lines(few)
    assert [list(line) for line in found] == [[1, 2, 4]] * 2
    assert [last(line).partition for line in found] == ["zigzag", "striped"]
    assert found[0][1] is found[1][1] is few[0]


def test_a_kernel_that_ran_on_one_rank_alone_has_a_line_and_another_kernels_is_not_its(ring):
    alone, other = ring(1), ring(2, backend="cudnn")
    assert [list(line) for line in lines([alone, other])] == [[1], [2]]


def test_ranks_in_one_process_are_no_larger_ring(ring):
    on_one = [ring(1), ring(4, played="loopback")]
    assert [list(line) for line in lines(on_one)] == [[1], [4]]
    assert draw_scaling(on_one, Style.of(on_one), "", WEAK) is None


def test_rings_are_compared_at_the_same_tokens_of_each_or_of_all(ring):
    every = [ring(2), ring(4), ring(4, total=2 * 8192), ring(8, total=5 * 8192)]
    assert [[row.world_size for row in x] for x in compared(every, WEAK)] == [[2, 4]]
    assert [[row.seqlen_total for row in x] for x in compared(every, STRONG)] == [[2 * 8192] * 2]


def test_a_size_is_drawn_where_somebodys_ring_grows_and_nowhere_else(ring):
    grows = [ring(2), ring(4)]
    stays = [ring(2, total=4096), ring(4, total=8192, backend="cudnn")]
    figure = draw_scaling(grows + stays, Style.of(grows + stays), "so", WEAK)
    assert [x.get_title() for x in figure.axes] == ["forward, causal\n8K tokens per GPU"]
    assert draw_scaling(stays, Style.of(stays), "so", WEAK) is None
    assert draw_scaling(grows[:1], Style.of(grows), "so", WEAK) is None


def test_points_bars_and_the_ideal_are_those_of_the_rows(few):
    style = Style.of(few)
    (axes,) = draw_scaling(few, style, "so", WEAK).axes
    rates = {row.world_size: row.tflops_per_gpu for row in few if row.partition != "striped"}
    drawn = [line for line in axes.lines if line.get_marker() == style.marker(few[0])]
    assert [list(line.get_xdata()) for line in drawn] == [[1, 2, 4]] * 2
    assert list(drawn[0].get_ydata()) == [rates[1], rates[2], rates[4]]
    assert {line.get_color() for line in drawn} == {style.colour(few[0])}
    (ideal,) = (x for x in axes.lines if list(x.get_xdata()) == [1, 4])
    assert list(ideal.get_ydata()) == [rates[1]] * 2
    assert len(axes.containers) == 2  # error bars
    low, high = axes.get_ylim()
    assert low == 0
    assert high > max(rates.values())


def test_of_a_crowd_the_fastest_of_each_backend_has_a_name_and_the_others_are_grey(ring):
    names = ("triton", "cudnn", "aten")
    crowd = [
        ring(size, 100.0 * at + size + len(part), backend=name, partition=part)
        for size in (2, 4)
        for at, name in enumerate(names, 1)
        for part in ("zigzag", "striped", "contiguous")
    ]
    figure = draw_scaling(crowd, Style.of(crowd), "so", WEAK)
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == set(names)
    assert len(axes.containers) == 3
    assert sum(line.get_color() == BEHIND for line in axes.lines) == len(crowd) / 2 - 3
    assert not figure.legends
    few_of_them = [row for row in crowd if row.partition != "striped"]
    assert draw_scaling(few_of_them, Style.of(crowd), "so", WEAK).legends


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30).map(sorted))
def test_names_rise_with_their_lines_stay_inside_and_do_not_touch(rates):
    heights = apart(rates, 100.0)
    gap = 100.0 / max(len(rates), 12)
    assert all(after - before > 0.999 * gap for before, after in pairwise(heights))
    assert max(heights) <= 100.0
    assert min(heights) >= -1e-9


def test_pictures_of_both_kinds_are_files_beside_the_page(few, tmp_path):
    gallery = plots.draw(few, tmp_path)
    names = {x.topic: x.path.name for x in gallery.pictures}
    assert names["weak"] == "weak_ranks_b1_h32-8_d128_bfloat16.png"
    assert "strong" not in names  # no two sizes have the same tokens in all
