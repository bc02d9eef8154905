"""PNG pictures of rows, one file for each topic; drawn from what results.csv holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import by_shape
from ring_attn_bench.report.plots.canvas import save, svg
from ring_attn_bench.report.plots.errors import draw_errors
from ring_attn_bench.report.plots.memory import draw_memory
from ring_attn_bench.report.plots.style import Style
from ring_attn_bench.report.plots.throughput import draw_throughput

__all__ = ["Drawn", "Gallery", "draw"]

_TOPICS = {"throughput": draw_throughput, "errors": draw_errors, "memory": draw_memory}
_WHY_NONE = {
    "throughput": "no record has a speed: nothing ran to its end, was timed, and was right, "
    "or all kernels were interpreted",
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
        """The files."""
        return tuple(picture.path for picture in self.pictures)


def draw(rows: Sequence[ReportRow], folder: Path) -> Gallery:
    """Draws every topic for every shape, as folder/throughput_w4_b1_h32-8_d128_bfloat16.png."""
    style = Style.of(rows)
    pictures: list[Drawn] = []
    skipped: list[str] = []
    for topic, picture in _TOPICS.items():
        before = len(pictures)
        for shape, alike in by_shape(rows).items():
            figure = picture(alike, style)
            if figure is not None:
                name = f"{topic}_{shape.slug}"
                path = save(figure, folder / f"{name}.png")
                drawn = svg(figure, f"p{len(pictures)}")
                pictures.append(Drawn(topic, shape.slug, path, drawn))
        if len(pictures) == before:
            skipped.append(f"No {topic} plot: {_WHY_NONE[topic]}.")
    return Gallery(tuple(pictures), tuple(skipped))
