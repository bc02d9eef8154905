"""What was measured, as advice needs it: a contestant's time, memory and error at one shape.

`measured.csv` beside this file holds the committed records so, for machines where only the wheel
is: `scripts/advise_figures.py` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from pathlib import Path

from ring_attn_bench.records import sheets
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Memory, Record
from ring_attn_bench.records.statistics import summarize
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import MIB, MOST, Frozen, Milliseconds, Ranks, Size
from ring_attn_bench.registry import is_peer
from ring_attn_bench.ring.options import DEFAULTS, RingOptions, resolved

SHIPPED = Path(__file__).with_name("measured.csv")
CPU = "a CPU"
SHORTEST = 1e-9
"""Milliseconds: what is shorter is no time of a call."""
_SAID = ("transport", "schedule", "gradients", "keep_keys", "slots")
"""The options that a way has; a record with another one that is not the default is no advice."""


class RingWay(Frozen):
    """Who computes and how keys come. schedule: empty for a peer, whose transport is `own`."""

    backend: str
    partition: str
    transport: str
    schedule: str
    gradients: str = "float32"
    keep_keys: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it is our ring, and no peer's."""
        return not is_peer(self.backend)

    @property
    def name(self) -> str:
        """As the contestants of a report: triton/zigzag/copy_engine/one_launch."""
        extra = ("gradients-input",) if self.gradients == "input" else ()
        kept = ("keep_keys",) if self.keep_keys else ()
        parts = (self.backend, self.partition, self.transport, self.schedule, *extra, *kept)
        return "/".join(filter(None, parts))

    def fields(self) -> dict[str, object]:
        """Of RingOptions, what is not the default; that of a peer is nothing."""
        if not self.is_ours:
            return {}
        own = self.model_dump(include=set(_SAID))
        return {name: value for name, value in own.items() if value != DEFAULTS[name]}


class Shape(Frozen):
    """What is computed on which machine. seqlen_per_gpu: tokens of each rank."""

    gpu: str
    world_size: Ranks
    batch: Size
    seqlen_per_gpu: Size
    heads_q: Size
    heads_kv: Size
    head_dim: Size
    dtype: str
    causal: bool
    backward: bool

    @property
    def seqlen_total(self) -> int:
        """Tokens of the whole sequence."""
        return self.seqlen_per_gpu * self.world_size

    @property
    def device(self) -> str:
        """What figures are of one of: GPU; without any a rank."""
        return "rank" if self.gpu == CPU else "GPU"

    @property
    def direction(self) -> Direction:
        """The direction, as suites and records call it."""
        return Direction.FORWARD_BACKWARD if self.backward else Direction.FORWARD


class Figure(Frozen):
    """A way at a shape. played: `real`, or how fewer GPUs played that ring. low, high: of the
    median's 95 %. call, kept: MiB. error: the worst tensor's rms error over plain PyTorch's.
    status: how it ended; of what is not ok nothing else is known. gpu_gib: all that such a GPU has.
    """

    run: str
    started_at: str
    played: str
    way: RingWay
    shape: Shape
    ms: Milliseconds = 0.0
    low: float | None = None
    high: float | None = None
    call: float | None = None
    kept: float | None = None
    error: float | None = None
    status: Status = Status.OK
    gpu_gib: float | None = None


def of_records(run: str, records: Iterable[Record]) -> Iterator[Figure]:
    """Of plain attention, what is right and timed, and what failed; run: where they are from.

    Of a row that a run has twice, as a resumed one may, the last counts.
    """
    for record in {record.key: record for record in records}.values():
        figure = _figure(run, record)
        if figure is not None:
            yield figure


def _figure(run: str, record: Record) -> Figure | None:
    way, shape = _way(record), _shape(record)
    if way is None or shape is None or record.interpreted:
        return None
    figure = Figure(
        run=run, started_at=record.started_at, played=record.contestant.played, way=way,
        shape=shape, status=record.status, gpu_gib=_gpu_gib(record),
    )  # fmt: skip
    return figure if record.status is not Status.OK else _timed(figure, record)


def _timed(figure: Figure, record: Record) -> Figure | None:
    """The figure with the record's time; None for a record without one."""
    summary = summarize(record.speed.samples.ring) if record.speed else None
    if summary is None or summary.median < SHORTEST:
        return None
    call, kept = _memory(record.memory, figure.shape.gpu)
    measured = {
        "ms": summary.median, "low": summary.low, "high": summary.high, "call": call, "kept": kept,
        "error": _error(record),
    }  # fmt: skip
    return figure.model_copy(update={name: _short(value) for name, value in measured.items()})


def _gpu_gib(record: Record) -> float | None:
    gib = record.environment.get("gpu_memory_gib")
    return float(gib) if isinstance(gib, int | float) and 0 < gib < MOST else None


def _shape(record: Record) -> Shape | None:
    """None of what is no plain attention, or has no token for each rank."""
    case = record.case
    if case.extras or record.direction is Direction.BACKWARD:
        return None
    if not 0 < case.seqlen_per_gpu <= MOST:
        return None
    return Shape(
        gpu=str(record.environment.get("gpu") or CPU),
        seqlen_per_gpu=case.seqlen_per_gpu,
        backward=record.direction is Direction.FORWARD_BACKWARD,
        **case.model_dump(include=set(Shape.model_fields) - {"gpu", "seqlen_per_gpu", "backward"}),
    )


def _way(record: Record) -> RingWay | None:
    """None where it was played by loopback or a twin, or has options that are not said."""
    who = record.contestant
    if who.played in ("loopback", "twin"):
        return None
    if who.options is None:
        return RingWay(backend=who.backend, partition=who.partition, transport="own", schedule="")
    took = record.took or resolved(who.options, record.case.world_size)
    if not _is_plain(who.options):
        return None
    return RingWay(
        backend=who.backend, partition=who.partition, transport=took.transport,
        schedule=took.schedule, gradients=took.gradients, keep_keys=took.keep_keys,
    )  # fmt: skip


def _is_plain(asked: RingOptions) -> bool:
    """Whether a way says all of it: slots are two, or what steps leave of them."""
    others = [n for n in DEFAULTS if n not in _SAID and getattr(asked, n) != DEFAULTS[n]]
    return asked.slots in (2, "auto") and (not others or others == ["grouping"])


def _memory(memory: Memory | None, gpu: str) -> tuple[float | None, float | None]:
    """MiB of a call, and kept; a CPU's allocator keeps no peak."""
    if memory is None or gpu == CPU:
        return None, None
    kept = max(memory.kept_bytes) / MIB if memory.kept_bytes else None
    call = max(memory.peak_extra_bytes) / MIB if memory.peak_extra_bytes else None
    return call, kept


def _error(record: Record) -> float | None:
    """Of lse nothing: plain PyTorch's is not that of a result in half precision. None where one of
    them is no number."""
    tensors = record.accuracy.tensors if record.accuracy else {}
    errors = [error for name, error in tensors.items() if name != "lse"]
    shares = [each.rmse / each.pytorch_rmse for each in errors if each.rmse and each.pytorch_rmse]
    return max(shares, default=None) if all(map(isfinite, shares)) else None


def _short(value: float | None) -> float | None:
    """Five digits: more of them are noise, and make the file long."""
    return None if value is None else float(f"{value:.5g}")


def newest(figures: Iterable[Figure]) -> tuple[Figure, ...]:
    """Of the same way and shape the last one, be it a failure: programs have become faster, and
    some of them wrong. Of one time the worst: `auto` and what it took are one way."""
    kept: dict[tuple[RingWay, Shape], Figure] = {}
    for figure in sorted(figures, key=lambda x: (x.started_at, x.status.badness)):
        kept[figure.way, figure.shape] = figure
    return tuple(kept.values())


_OWN = tuple(name for name in Figure.model_fields if name not in ("way", "shape"))
COLUMNS = (*RingWay.model_fields, *Shape.model_fields, *_OWN)


def as_csv(figures: Iterable[Figure]) -> str:
    """One line each, in an order of their own."""
    lines = [
        {**figure.way.model_dump(), **figure.shape.model_dump(), **figure.model_dump()}
        for figure in figures
    ]
    cells = [["" if line[name] is None else str(line[name]) for name in COLUMNS] for line in lines]
    return sheets.text(COLUMNS, sorted(cells))


def read_csv(path: Path) -> tuple[Figure, ...]:
    """What `as_csv` wrote; raises FileError."""
    return sheets.values(path, SHIPPED.name, "figures", _of_cells)


def _of_cells(cells: Mapping[str, str]) -> Figure:
    filled = {name: cell for name, cell in cells.items() if cell}
    way, shape, own = (
        {name: filled[name] for name in names if name in filled}
        for names in (RingWay.model_fields, Shape.model_fields, _OWN)
    )
    return Figure.model_validate({"way": {"schedule": "", **way}, "shape": shape, **own})
