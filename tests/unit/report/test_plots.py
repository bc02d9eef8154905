"""Pictures: which there are, that something is on them, and that backends keep their looks."""

from __future__ import annotations

from itertools import combinations
from math import isnan
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from numpy import unique

from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Memory
from ring_attn_bench.records.status import Status
from ring_attn_bench.report import csv, plots
from ring_attn_bench.report.groups import constants, varying
from ring_attn_bench.report.plots.canvas import BEHIND, save
from ring_attn_bench.report.plots.errors import draw_errors
from ring_attn_bench.report.plots.memory import draw_memory
from ring_attn_bench.report.plots.missing import missing
from ring_attn_bench.report.plots.spent import draw_spent
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.report.plots.throughput import draw_throughput, interval
from ring_attn_bench.report.rows import row, rows

SLUG = "w4_b1_h32-8_d128_bfloat16"


@pytest.fixture(scope="session")
def sweep_gallery(sweep_records, tmp_path_factory):
    return plots.draw(rows(sweep_records), tmp_path_factory.mktemp("plots"))


def test_a_sweep_has_every_topic(sweep_gallery):
    names = [path.name for path in sweep_gallery.paths]
    topics = ("throughput", "time", "errors", "memory")
    assert names == [f"{topic}_{SLUG}.png" for topic in topics]
    assert sweep_gallery.skipped == ()


def test_pictures_are_not_blank(sweep_gallery):
    for path in sweep_gallery.paths:
        pixels = imread(path)
        inked = (pixels[..., :3].min(axis=-1) < 0.9).mean()
        assert 0.01 < inked < 0.6, path.name
        assert min(pixels.shape[:2]) > 400


def test_a_run_without_memory_and_speed_says_what_is_missing(tiny_records, tmp_path):
    interpreted = [record for record in tiny_records if record.interpreted]
    gallery = plots.draw(rows(interpreted), tmp_path)
    assert [path.name for path in gallery.paths] == ["errors_w2_b1_h4-2_d16_float32.png"]
    assert [text.split(":")[0] for text in gallery.skipped] == [
        "No throughput plot",
        "No time plot",
        "No memory plot",
    ]


def test_nothing_but_refusals_draws_nothing(make_record, tmp_path):
    refused = make_record(status=Status.UNSUPPORTED, reason="so")
    gallery = plots.draw(rows([refused]), tmp_path)
    assert gallery.paths == ()
    assert len(gallery.skipped) == 4


def test_every_shape_has_its_own_file(make_record, make_case, tmp_path):
    shapes = [{}, {"head_dim": 64}, {"window": (128, 0)}, {"softcap": 30.0}]
    records = [make_record(case=make_case(**shape)) for shape in shapes]
    gallery = plots.draw(rows(records), tmp_path)
    assert len({path.name for path in gallery.paths}) == 4 * len(shapes)


def test_a_picture_can_be_drawn_again_from_the_csv(sweep_records, sweep_gallery, tmp_path):
    csv.write(rows(sweep_records), tmp_path / "results.csv")
    again = plots.draw(csv.read(tmp_path / "results.csv"), tmp_path)
    for before, after in zip(sweep_gallery.paths, again.paths, strict=True):
        assert (imread(before) == imread(after)).all()
    assert [x.svg for x in again.pictures] == [x.svg for x in sweep_gallery.pictures]


def test_a_picture_names_the_shape_and_the_gpu(sweep_records):
    found = rows(sweep_records)
    figure = draw_throughput(found, Style.of(found))
    assert figure is not None
    title = figure.get_suptitle()
    assert "4 x NVIDIA H200" in title
    assert "heads 32:8 of 128, bfloat16" in title


def test_throughput_starts_at_zero(sweep_records):
    found = rows(sweep_records)
    figure = draw_throughput(found, Style.of(found))
    assert figure is not None
    assert {axes.get_ylim()[0] for axes in figure.axes} == {0.0}


def test_what_is_not_drawn_is_told_with_its_place(sweep_records):
    text = missing(rows(sweep_records))
    assert "Not drawn, unsupported: aten/striped, cudnn/striped (causal)." in text
    assert "Not drawn, wrong: aten/contiguous (backward)." in text
    assert "flash_attn_4/contiguous (32K; backward, forward_backward)" in text
    assert "reference/contiguous, reference/striped, reference/zigzag (32K)" in text


def test_gaps_that_follow_no_rule_are_counted(make_record, make_case):
    gaps = {(2048, True), (8192, False)}
    records = [
        make_record(case=make_case(seqlen_total=4 * length, causal=causal),
                    **({"status": Status.OOM, "reason": "so"} if (length, causal) in gaps else {}))
        for length in (2048, 8192) for causal in (True, False)
    ]  # fmt: skip
    assert missing(rows(records)) == "Not drawn, oom: triton (2 of 4 records)."


def test_a_peer_has_the_colour_of_its_kernel_and_is_hatched_with_open_markers(
    make_record, make_contestant
):
    names = (
        "flash_attn_4", "peer:ring_flash_attn[flash_attn_4]", "peer:torch_cp[flash,alltoall]",
        "peer:torch_cp[flash,allgather]", "aten", "peer:theirs[new]", "peer:other",
    )  # fmt: skip
    found = rows([make_record(contestant=make_contestant(backend=name)) for name in names])
    by_name = {row.backend: row for row in found}
    style = Style.of(found)
    colours = {name: style.colour(row) for name, row in by_name.items()}
    assert colours["peer:ring_flash_attn[flash_attn_4]"] == colours["flash_attn_4"]
    assert colours["peer:torch_cp[flash,alltoall]"] == colours["aten"]
    plain = {name for name, row in by_name.items() if not style.hatch(row)}
    assert plain == {"flash_attn_4", "aten"}
    assert style.fill(by_name["peer:other"]) == "none"
    assert style.fill(by_name["aten"]) == "full"
    looks = {(style.colour(row), style.marker(row), style.hatch(row)) for row in found}
    assert len(looks) == len(names)


def test_that_a_peers_transport_is_its_own_is_not_told_twice(make_record, make_contestant):
    theirs = make_record(contestant=make_contestant(backend="peer:their[s]"))
    both = rows([make_record(), theirs])
    assert varying(both) == ("backend",)
    assert "transport p2p" in constants(both)
    assert "transport own" in constants(rows([theirs]))


def test_the_interval_of_a_rate_is_that_of_its_time_upside_down(make_record):
    found = row(make_record()).model_copy(
        update={
            "latency_ms": 10.0, "latency_ms_lo": 8.0, "latency_ms_hi": 20.0, "tflops_per_gpu": 100.0
        }
    )  # fmt: skip
    assert interval(found) == pytest.approx((50.0, 25.0))


def test_backends_look_the_same_whoever_else_runs(make_record, make_contestant):
    names = ("triton", "flash_attn_4", "cudnn", "aten", "reference", "cute", "mine", "yours")
    found = rows([make_record(contestant=make_contestant(backend=name)) for name in names])
    style = Style.of(found)
    assert style.looks["triton"] == Style.of(found[:1]).looks["triton"]
    for one, other in combinations(found, 2):
        assert (style.colour(one), style.marker(one)) != (style.colour(other), style.marker(other))


def drawn(figure):
    """The figure laid out, as it is when it is saved, and what measures texts on it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def many(make_record, make_case, make_contestant, count, lengths=(2048, 8192)):
    """Records of that many backends that nobody knows here."""
    return rows(
        make_record(
            case=make_case(seqlen_total=4 * length),
            contestant=make_contestant(backend=f"somebody_elses_{number}"),
        )
        for length in lengths
        for number in range(count)
    )


def test_forty_backends_that_are_not_known_look_different(make_record, make_case, make_contestant):
    found = many(make_record, make_case, make_contestant, 40, (2048,))
    style = Style.of(found)
    assert len({(style.colour(row), style.marker(row)) for row in found}) == 40


def inside(figure, box):
    around = figure.bbox
    return around.x0 <= box.x0 < box.x1 <= around.x1 and around.y0 <= box.y0 < box.y1 <= around.y1


@pytest.mark.parametrize("length", [2048, 8192])
def test_a_legend_is_whole_however_many_there_are(make_record, make_case, make_contestant, length):
    found = many(make_record, make_case, make_contestant, 5, (length, 2 * length))
    figure = draw_throughput(found, Style.of(found))
    renderer = drawn(figure)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 5
    box = legend.get_window_extent(renderer)
    assert inside(figure, box)
    assert all(axes.get_window_extent(renderer).x1 < box.x0 for axes in figure.axes)


@pytest.mark.parametrize("count", [8, 24])
def test_more_than_can_be_followed_have_a_line_of_panels_each_beside_their_name(
    make_record, make_case, make_contestant, count
):
    found = many(make_record, make_case, make_contestant, count)
    figure = draw_throughput(found, Style.of(found))
    renderer = drawn(figure)
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert figure.legends == []
    assert {x.get_title().get_text() for x in legends} == {row.backend for row in found}
    boxes = [legend.get_window_extent(renderer) for legend in legends]
    assert all(inside(figure, box) for box in boxes)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_in_small_panels_a_backend_stands_before_all_others_in_grey(
    make_record, make_case, make_contestant
):
    found = many(make_record, make_case, make_contestant, 8)
    style = Style.of(found)
    figure = draw_throughput(found, style)
    colours = {name: colour for name, (colour, _) in style.looks.items()}
    for axes in figure.axes:
        name = axes.get_legend().get_title().get_text()
        (own,) = (x.lines[0] for x in axes.containers)
        assert own.get_color() == colours[name]
        behind = [line for line in axes.lines if line.get_color() == BEHIND]
        assert len(behind) == 7
        assert all(line.get_zorder() < own.get_zorder() for line in behind)


def test_the_colours_of_backends_are_those_of_the_file(
    make_record, make_case, make_contestant, tmp_path
):
    found = many(make_record, make_case, make_contestant, 10)
    style = Style.of(found)
    path = save(draw_throughput(found, style), tmp_path / "throughput.png")
    pixels = unique((imread(path)[..., :3] * 255).round().reshape(-1, 3), axis=0)
    for colour in {style.colour(x) for x in found}:
        wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert abs(pixels - wanted).max(axis=1).min() <= 6, colour


def test_more_backends_than_a_legend_tells_have_their_name_beside_their_errors(
    make_record, make_case, make_contestant
):
    found = many(make_record, make_case, make_contestant, 24)
    figure = draw_errors(found, Style.of(found))
    assert figure.legends == []
    names = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert names == {row.backend for row in found}
    assert [axes.get_title() for axes in figure.axes] == 2 * ["out", "lse", "dq", "dk", "dv"]


def test_errors_of_rings_of_several_sizes_are_drawn_by_size(make_record, make_case, tmp_path):
    cases = [make_case(world_size=size, seqlen_total=8192) for size in (2, 4, 8)]
    gallery = plots.draw(rows(make_record(case=case) for case in cases), tmp_path)
    names = {x.topic: x.path.name for x in gallery.pictures}
    assert names["growth"] == "growth_ranks_b1_h32-8_d128_bfloat16.png"


def test_a_backend_that_nobody_knows_looks_the_same_beside_others(make_record, make_contestant):
    names = [f"somebody_elses_{number}" for number in range(12)]
    found = rows([make_record(contestant=make_contestant(backend=name)) for name in names])
    alone = {x.backend: Style.of([x]).looks[x.backend] for x in found}
    together = Style.of(found).looks
    same = [name for name in names if together[name] == alone[name]]
    assert len(same) > len(names) / 2  # where two want one look, one of them gives way
    assert len({together[name] for name in names}) == len(names)


def test_a_picture_of_a_page_has_words_that_are_words_and_ids_of_its_own(sweep_gallery):
    for number, picture in enumerate(sweep_gallery.pictures):
        root = ElementTree.fromstring(picture.svg)
        ids = [x.get("id") for x in root.iter() if x.get("id")]
        assert ids
        assert all(name.startswith(f"p{number}-") for name in ids)
        assert "triton" in " ".join(x.text or "" for x in root.iter() if x.tag.endswith("text"))
        assert "#000000" not in picture.svg  # ink may be light, on a dark page


def test_no_line_goes_over_a_length_without_a_figure(make_record, make_case, make_contestant):
    wanted = {"aten": (2048, 4096, 8192), "cudnn": (2048, 8192)}
    found = rows(
        make_record(
            case=make_case(seqlen_total=4 * length), contestant=make_contestant(backend=name)
        )
        for name, lengths in wanted.items()
        for length in lengths
    )
    style = Style.of(found)
    figure = draw_throughput(found, style)
    whole, broken = (
        [c.lines[0].get_ydata() for c in figure.axes[0].containers if c.lines[0].get_color() == of]
        for of in (style.looks[name][0] for name in wanted)
    )
    assert [isnan(rate) for rate in whole[0]] == [False, False, False]
    assert [isnan(rate) for rate in broken[0]] == [False, True, False]


def test_variants_beyond_the_fillings_are_larger(make_record, make_contestant):
    found = rows(make_record(contestant=make_contestant(slots=slots)) for slots in range(1, 10))
    style = Style.of(found)
    assert len({(style.fill(row), style.size(row)) for row in found}) == len(found)


def test_what_is_kept_is_a_hollow_part_behind_the_peak_of_a_call(make_record):
    memory = Memory(peak_extra_bytes=[90 * 2**20] * 4, kept_bytes=[30 * 2**20] * 4)
    found = rows([make_record(memory=memory)])
    figure = draw_memory(found, Style.of(found))
    (axes,) = figure.axes
    call, kept = axes.patches
    assert (call.get_x(), call.get_width()) == (0.0, 90.0)
    assert (kept.get_x(), kept.get_width()) == (90.0, 30.0)
    assert kept.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    assert kept.get_edgecolor() == call.get_facecolor()
    assert [text.get_text() for text in axes.texts] == [" 90.0 + 30.0"]
    assert "Hollow" in figure.get_supxlabel()

    without = rows([make_record()])
    plain = draw_memory(without, Style.of(without))
    assert len(plain.axes[0].patches) == 1
    assert "Hollow" not in plain.get_supxlabel()


@pytest.mark.parametrize("scale", [1.0, 1e-5])
@pytest.mark.parametrize("draw", [draw_memory, draw_throughput])
def test_no_two_texts_below_bars_touch(make_record, make_contestant, draw, scale):
    names = ("peer:yunchang[ulysses,flash_attn_4]", "triton")
    found = [
        row(make_record(contestant=make_contestant(backend=name), direction=direction))
        for name in names
        for direction in (Direction.FORWARD, Direction.FORWARD_BACKWARD)
    ]
    figure = draw(
        [x.model_copy(update={"tflops_per_gpu": x.tflops_per_gpu * scale}) for x in found],
        Style.of(found),
    )
    renderer = drawn(figure)
    shown = [axes.xaxis.label for axes in figure.axes]
    for axes in figure.axes:
        low, high = axes.get_xlim()
        shown += [x for x in axes.get_xticklabels() if low <= x.get_position()[0] <= high]
    inside = [(x, x.get_window_extent(renderer)) for x in shown if x.get_text()]
    assert len(inside) > 3 * len(figure.axes)
    for (one, box), (other, around) in combinations(inside, 2):
        assert not box.overlaps(around), (one, other)


@pytest.mark.parametrize("count", [1, 2, 24])
@pytest.mark.parametrize("draw", [draw_memory, draw_throughput, draw_spent])
def test_a_bar_is_as_high_as_the_name_beside_it_below_a_title_of_many_words(
    make_record, make_case, make_contestant, draw, count
):
    memory = Memory(peak_extra_bytes=[90 * 2**20] * 4, kept_bytes=[30 * 2**20] * 4)
    case = make_case(window=(4096, 0), softcap=30.0)
    asked = {"transport": "copy_engine", "schedule": "one_launch"}
    found = [
        row(
            make_record(case=case, memory=memory, contestant=make_contestant(backend=name, **asked))
        )
        for name in ("triton", *(f"somebody_elses_{number}" for number in range(1, count)))
    ]
    figure = draw(found, Style.of(found))
    renderer = drawn(figure)
    for axes in figure.axes:
        names = [x.get_window_extent(renderer) for x in axes.get_yticklabels() if x.get_text()]
        bars = [bar.get_window_extent(renderer) for bar in axes.patches]
        assert min(bar.height for bar in bars) > max(name.height for name in names)
        assert not any(one.overlaps(other) for one, other in combinations(names, 2))
        assert axes.bbox.y0 <= min(name.y0 for name in names)
