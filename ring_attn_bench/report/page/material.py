"""What a page is made from: records, their rows, and what was drawn of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from ring_attn_bench.records.record import Record
from ring_attn_bench.records.trace import Trace
from ring_attn_bench.report.columns import TENSORS, ReportRow
from ring_attn_bench.report.groups import Naming, SharedShape, by_shape, direction, heading, mask
from ring_attn_bench.report.page.model import Cell, Column, Picture
from ring_attn_bench.report.plots import Gallery
from ring_attn_bench.text import shapes
from ring_attn_bench.text.digits import digits, tokens


@dataclass(frozen=True)
class Material:
    """Records with their rows, in the same order; folder: of the page, to which paths are told."""

    records: tuple[Record, ...]
    rows: tuple[ReportRow, ...]
    gallery: Gallery
    folder: Path
    traces: tuple[Trace, ...] = ()
    run: Path = Path()
    """Where they lie."""

    @cached_property
    def naming(self) -> Naming:
        """How contestants are called on the whole page."""
        return Naming.of(self.rows)

    @cached_property
    def shapes(self) -> Mapping[SharedShape, list[ReportRow]]:
        """The rows of each shape, the shape with most rows first."""
        shapes = by_shape(self.rows)
        return dict(sorted(shapes.items(), key=lambda item: -len(item[1])))

    @cached_property
    def headings(self) -> Mapping[SharedShape, str]:
        """Of each shape, what its rows share."""
        return {shape: heading(rows) for shape, rows in self.shapes.items()}

    @cached_property
    def short(self) -> Mapping[SharedShape, str]:
        """Of each shape, what tells it from the others."""
        return {
            shape: ", ".join(
                word for word in _parts(shape) if word and word not in self._of_all_shapes
            )
            for shape in self.shapes
        }

    @property
    def shared(self) -> str:
        """What all shapes have in common, in words."""
        return ", ".join(word for word in self._of_all_shapes if word)

    @cached_property
    def _of_all_shapes(self) -> tuple[str, ...]:
        parts = zip(*map(_parts, self.shapes), strict=True)
        return tuple(words[0] for words in parts if len(set(words)) == 1)

    @cached_property
    def samples(self) -> Mapping[tuple[str, str, str], list[list[float]]]:
        """Raw times by case, contestant and direction."""
        return {x.key: x.speed.samples.ring for x in self.records if x.speed is not None}

    @cached_property
    def timed(self) -> tuple[ReportRow, ...]:
        """The rows that have a speed, which are right."""
        return tuple(row for row in self.rows if row.latency_ms is not None)

    @property
    def in_graphs(self) -> Material:
        """The same with the times in a CUDA graph for those of calls; of rows that have them."""
        kept = self.of([row for row in self.rows if row.graph_ms is not None])
        rows = tuple(row.model_copy(update={"latency_ms": row.graph_ms}) for row in kept.rows)
        records = tuple(_in_graph(record) for record in kept.records)
        return replace(kept, rows=rows, records=records)

    def times(self, row: ReportRow) -> list[list[float]]:
        """The raw times of the row, by iteration and rank."""
        return self.samples.get((row.case, row.contestant, row.direction.value), [])

    def pictures(self, topic: str, shape: SharedShape) -> Iterator[Picture]:
        """The pictures of a topic and a shape."""
        yield from self.pictures_of(topic, shape.slug, self.headings.get(shape, shape.title))

    def pictures_of(self, topic: str, slug: str, shared: str) -> Iterator[Picture]:
        """Those of a topic and of rows that are so called; shared: what these have in common."""
        for drawn in self.gallery.pictures:
            if (drawn.topic, drawn.shape) == (topic, slug):
                path = PurePosixPath(drawn.path.relative_to(self.folder).as_posix())
                yield Picture(path, drawn.svg, f"{topic}: {shared}")

    def of(self, rows: Sequence[ReportRow]) -> Material:
        """The same of some of its rows alone."""
        kept = {(row.case, row.contestant, row.direction.value) for row in rows}
        records = tuple(record for record in self.records if record.key in kept)
        return replace(self, records=records, rows=tuple(rows))

    def who(self, row: ReportRow) -> Cell:
        """The row's contestant, with its mark."""
        return Cell(self.naming.label(row), who=row.backend)

    def where(self, row: ReportRow) -> tuple[Cell, ...]:
        """Which case and direction: cells for the columns of `places`."""
        shape = SharedShape.of(row)
        told = (Cell(self.short[shape]),) if len(self.shapes) > 1 else ()
        return (
            Cell(direction(row)),
            Cell(mask(row)),
            Cell(tokens(row.seqlen_per_gpu), row.seqlen_per_gpu),
            *told,
        )

    @cached_property
    def places(self) -> tuple[Column, ...]:
        """The columns of `where`."""
        shape = (Column("shape", "word"),) if len(self.shapes) > 1 else ()
        return (
            Column("direction", "word"),
            Column("mask", "word"),
            Column("tokens", "number", "of a sequence on each rank"),
            *shape,
        )


def _in_graph(record: Record) -> Record:
    if record.speed is None:
        return record
    samples = record.speed.samples.model_copy(update={"ring": record.speed.samples.graph})
    return record.model_copy(update={"speed": record.speed.model_copy(update={"samples": samples})})


def _parts(shape: SharedShape) -> tuple[str, ...]:
    """All that makes a shape, in words."""
    played = f" played on {shape.played_on}" if shape.played_on else ""
    return (
        f"W = {shape.world_size}{played}",
        shapes.batch(shape.batch),
        shapes.heads(shape.heads_q, shape.heads_kv),
        shapes.head_dim(shape.head_dim),
        shape.dtype,
        ", ".join(shape.extras),
    )


def memory(row: ReportRow) -> Cell:
    """MiB a call, and what stays between calls where that was measured: 194 + 134."""
    if row.peak_extra_mib is None:
        return Cell("")
    kept = "" if row.kept_mib is None else f" + {digits(row.kept_mib)}"
    return Cell(f"{digits(row.peak_extra_mib)}{kept}", row.peak_extra_mib + (row.kept_mib or 0.0))


MEMORY = "MiB of a call beyond the inputs, results included, + what stays between calls"


def error(row: ReportRow) -> Cell:
    """The largest ratio to plain PyTorch's error, and of which tensor: 0.53x dv."""
    ratios = {
        name: ratio
        for name in TENSORS
        if name != "lse" and (ratio := row.ratios[name].vs_pytorch) is not None
    }
    if not ratios:
        return Cell("")
    worst = max(ratios, key=ratios.__getitem__)
    return Cell(f"{digits(ratios[worst], 2)}x {worst}", ratios[worst])


ERROR = (
    "rms error over that of plain PyTorch in the same precision, against float64: the worst of "
    "out, dq, dk, dv, and which"
)
