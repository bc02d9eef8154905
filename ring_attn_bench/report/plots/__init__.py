"""PNG pictures of rows, one file for each topic; drawn from what results.csv holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ring_attn_bench.records.trace import Key, Trace, slug_of
from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import SharedShape, by_shape, group
from ring_attn_bench.report.over_cache import apart, families
from ring_attn_bench.report.plots.canvas import save
from ring_attn_bench.report.plots.errors import draw_errors
from ring_attn_bench.report.plots.growth import draw_growth
from ring_attn_bench.report.plots.memory import draw_memory
from ring_attn_bench.report.plots.reading import draw_reading
from ring_attn_bench.report.plots.scaling import draw_scaling
from ring_attn_bench.report.plots.spent import draw_spent
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.report.plots.svg import svg
from ring_attn_bench.report.plots.throughput import draw_throughput
from ring_attn_bench.report.plots.timeline import draw_timeline
from ring_attn_bench.report.scaled import SCALINGS

__all__ = ["Drawn", "Gallery", "draw", "draw_traces"]

_TOPICS = {
    "throughput": draw_throughput, "time": draw_spent, "errors": draw_errors, "memory": draw_memory,
}  # fmt: skip
_WHY_NONE = {
    "throughput": "no record has a speed: nothing ran to its end, was timed, and was right, "
    "or all kernels were interpreted",
    "time": "no record was timed beside one call of its kernel",
    "errors": "no record was compared with the oracle",
    "memory": "no record has a peak of GPU memory",
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture: its topic, the slug of its shape, its file, and the same as an SVG element."""

    topic: str
    shape: str
    path: Path
    svg: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """What was drawn, and a sentence for each topic in which there was nothing."""

    pictures: tuple[Drawn, ...]
    skipped: tuple[str, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The pictures' files."""
        return tuple(picture.path for picture in self.pictures)


def draw(rows: Sequence[ReportRow], folder: Path) -> Gallery:
    """Draws every topic for every shape, as folder/throughput_w4_b1_h32-8_d128_bfloat16.png."""
    style = Style.of(rows)
    rows, caches = apart(rows)
    pictures: list[Drawn] = []
    skipped: list[str] = []
    for topic, picture in _TOPICS.items():
        before = len(pictures)
        for shape, alike in by_shape(rows).items():
            figure = picture(alike, style)
            if figure is not None:
                pictures.append(_drawn(figure, topic, shape.slug, folder, len(pictures)))
        if len(pictures) == before and (rows or not caches):
            skipped.append(f"No {topic} plot: {_WHY_NONE[topic]}.")
    for shape, alike in group(rows, lambda row: SharedShape.of(row).but_for_ranks).items():
        grown = {"growth": draw_growth(alike, style, shape.title)}
        grown |= {x.name: draw_scaling(alike, style, shape.title, x) for x in SCALINGS}
        for topic, figure in grown.items():
            if figure is not None:
                pictures.append(_drawn(figure, topic, shape.slug, folder, len(pictures)))
    for family, alike in families(caches).items():
        figure = draw_reading(alike, style, family.heading(alike))
        if figure is not None:
            pictures.append(_drawn(figure, "reading", family.slug, folder, len(pictures)))
    return Gallery(tuple(pictures), tuple(skipped))


def draw_traces(traces: Sequence[Trace], folder: Path, shown: Collection[Key]) -> tuple[Drawn, ...]:
    """A timeline of each; those of the rows in `shown` as SVG elements too."""
    pictures = []
    for number, trace in enumerate(traces):
        figure = draw_timeline(trace)
        path = save(figure, folder / f"timeline_{slug_of(trace.key)}.png")
        element = svg(figure, f"t{number}") if trace.key in shown else ""
        pictures.append(Drawn("timeline", slug_of(trace.key), path, element))
    return tuple(pictures)


def _drawn(figure: Figure, topic: str, slug: str, folder: Path, number: int) -> Drawn:
    path = save(figure, folder / f"{topic}_{slug}.png")
    return Drawn(topic, slug, path, svg(figure, f"p{number}"))
