"""The picture of where the time goes: parts that add up, in colours that anybody can tell apart."""

from __future__ import annotations

from itertools import combinations

import pytest
from matplotlib.colors import to_rgb

from ring_attn_bench.records.ceilings import Ceilings
from ring_attn_bench.report.parts import COLOURS, NAMES, REST, parts
from ring_attn_bench.report.plots.spent import draw_spent
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.report.rows import row, rows

# Vienot, Brettel and Mollon (1999): what is left of linear red, green and blue to who has no red,
# or no green, cones
BLIND = {
    "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}


def drawn(records):
    found = rows(records)
    return draw_spent(found, Style.of(found))


def bars(axes):
    return [(x.get_y(), x.get_x(), x.get_width()) for x in axes.patches]


def test_every_bar_is_whole(sweep_records):
    figure = drawn(sweep_records)
    for axes in figure.axes:
        ends = {}
        for y, x, width in bars(axes):
            assert width > 0
            assert x == pytest.approx(ends.get(y, 0.0))
            ends[y] = x + width
        assert all(end == pytest.approx(100) for end in ends.values())


def test_a_panel_in_which_nothing_was_measured_is_left_out(make_record, make_case):
    records = [
        make_record(case=make_case(seqlen_total=4 * 2048, causal=True)),
        make_record(case=make_case(seqlen_total=4 * 8192, causal=False)),
    ]
    figure = drawn(records)
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == ["forward, causal, 2K", "forward, full, 8K"]
    for axes in figure.axes:
        named = [label.get_text() for label in axes.get_yticklabels()]
        assert named == ["triton"] or not axes.get_visible()


def test_what_loses_most_is_on_top(make_record, make_contestant):
    records = []
    for backend, pace in (("triton", 1.1), ("cudnn", 3.0), ("aten", 1.6)):
        record = make_record(contestant=make_contestant(backend=backend))
        samples = record.speed.samples
        slow = [[pace * x for x in times] for times in samples.ring]
        speed = record.speed.model_copy(
            update={"samples": samples.model_copy(update={"ring": slow})}
        )
        records.append(record.model_copy(update={"speed": speed}))
    (axes,) = drawn(records).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["triton", "aten", "cudnn"]


def test_the_legend_has_two_parts_of_communication_where_a_link_was_measured(make_record):
    def told(record):
        (legend,) = drawn([record]).legends
        return [text.get_text() for text in legend.get_texts()]

    record = make_record()
    assert told(record) == [*NAMES[:3], "communication", REST]
    ceilings = Ceilings(dtype="bfloat16", copy_gbs=(4000.0,), messages_gbs=(100.0,))
    speed = record.speed.model_copy(update={"link_bytes": 10**6})
    assert told(record.model_copy(update={"speed": speed, "ceilings": ceilings})) == [*NAMES, REST]


def test_what_a_peer_does_is_not_separated(make_record, make_contestant):
    record = make_record(contestant=make_contestant(backend="peer:theirs"))
    samples = record.speed.samples.model_copy(update={"twin": []})
    speed = record.speed.model_copy(
        update={"samples": samples, "executed_flops": None, "imbalance": None}
    )
    found = parts(row(record.model_copy(update={"speed": speed})))
    assert found.shares[1:] == (0.0, 0.0, 0.0, 0.0)
    assert found.rest == pytest.approx(1 - found.shares[0])


def linear(colour):
    return [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)]


@pytest.mark.parametrize("eye", BLIND)
def test_neighbours_are_told_apart_by_the_colour_blind(eye):
    def seen(colour):
        rgb = linear(colour)
        return [max(0.0, sum(a * b for a, b in zip(line, rgb, strict=True))) for line in BLIND[eye]]

    for one, other in combinations(COLOURS, 2):
        apart = sum((a**0.45 - b**0.45) ** 2 for a, b in zip(seen(one), seen(other), strict=True))
        assert apart**0.5 > 0.1, (one, other)
