"""What a way would take at a shape: measured there, between lengths that were, or by the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import exp, log, log2

from ring_attn_bench.advise import model
from ring_attn_bench.advise.figures import Figure, RingWay, Shape
from ring_attn_bench.records.values import MIB
from ring_attn_bench.text import shapes
from ring_attn_bench.text.digits import plural, tokens

_ALIKE = ("gpu", "dtype", "backward")
"""What a figure must share with what is asked: nothing says what the other one would take."""


class HowKnown(StrEnum):
    """How an estimate is known."""

    MEASURED = "measured"
    BETWEEN = "between"
    """Between two lengths that were measured."""
    BEYOND = "beyond"
    """Longer or shorter than what was measured, by the model."""
    ELSEWHERE = "elsewhere"
    """Other ranks, heads or another mask were measured, and the model says what that changes."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """ms; call, kept, inputs: MiB of a rank, None where not measured. of: what it is from."""

    way: RingWay
    shape: Shape
    ms: float
    call: float | None
    kept: float | None
    error: float | None
    known: HowKnown
    of: tuple[Figure, ...]

    @property
    def inputs(self) -> float:
        """MiB of q, k and v, and of dout where there is a backward."""
        return model.shard_bytes(self.shape) / MIB

    @property
    def memory(self) -> float | None:
        """MiB of all that."""
        if self.call is None:
            return None
        return self.inputs + self.call + (self.kept or 0.0)

    @property
    def tflops(self) -> float:
        """Teraflops a second that each GPU does of what the mask asks for."""
        return model.flops(self.shape) / self.ms / 1e9

    @property
    def words(self) -> str:
        """How the time is known: measured, between two lengths, or modelled."""
        lengths = " and ".join(tokens(figure.shape.seqlen_per_gpu) for figure in self.of)
        where = _where(self.of[0])
        match self.known:
            case HowKnown.MEASURED:
                return f"measured{where}"
            case HowKnown.BETWEEN:
                return f"between {lengths}{where}"
            case HowKnown.BEYOND:
                return f"by the model from {lengths}{where}"
        return f"by the model from {_shape(self.of[0].shape, self.shape)}, {lengths}{where}"


def _where(figure: Figure) -> str:
    """A larger ring that was played is not quite that ring."""
    _, on, gpus = figure.played.partition("on")
    return f", played on {plural(int(gpus), 'GPU')}" if on else ""


def _shape(source: Shape, asked: Shape) -> str:
    """What of the source is not as asked."""
    words = {
        "world_size": plural(source.world_size, "GPU"),
        "batch": shapes.batch(source.batch),
        "heads_q": shapes.heads(source.heads_q, source.heads_kv),
        "head_dim": shapes.head_dim(source.head_dim),
        "causal": "causal" if source.causal else "no mask",
    }
    other = [name for name in words if getattr(source, name) != getattr(asked, name)]
    if source.heads_kv != asked.heads_kv and "heads_q" not in other:
        other.append("heads_q")
    return ", ".join(words[name] for name in other)


def estimate(way: RingWay, figures: Sequence[Figure], shape: Shape) -> Estimate | None:
    """From the way's figures; None where nothing comparable was measured."""
    near = _nearest(figures, shape)
    if not near:
        return None
    there = _of_any_length(shape) == _of_any_length(near[0].shape)
    by_length = {figure.shape.seqlen_per_gpu: figure for figure in near}
    chosen, known = _chosen(by_length, shape.seqlen_per_gpu)
    if not there:
        known = HowKnown.ELSEWHERE
    if known in (HowKnown.BEYOND, HowKnown.ELSEWHERE) and not model.knows(way, shape):
        return None
    calibrated = _Calibrated(way, chosen, shape)
    return Estimate(
        way, shape,
        ms=calibrated.milliseconds(),
        call=calibrated.call(),
        kept=calibrated.kept(figures),
        error=_nearest_length(chosen, shape).error,
        known=known, of=chosen,
    )  # fmt: skip


def _nearest(figures: Sequence[Figure], asked: Shape) -> list[Figure]:
    """Those of the shape that is nearest, at all its lengths. One GPU is no ring."""
    alike = [
        figure
        for figure in figures
        if all(getattr(figure.shape, name) == getattr(asked, name) for name in _ALIKE)
        and (figure.shape.world_size == 1) == (asked.world_size == 1)
    ]
    best = min((_distance(figure.shape, asked) for figure in alike), default=0.0)
    near = [figure for figure in alike if _distance(figure.shape, asked) == best]
    first = _of_any_length(near[0].shape) if near else None
    return [figure for figure in near if _of_any_length(figure.shape) == first]


def _of_any_length(shape: Shape) -> Shape:
    return shape.model_copy(update={"seqlen_per_gpu": 1})


def _distance(source: Shape, asked: Shape) -> float:
    """In doublings, of what changes a kernel's pace most at its full weight."""
    weights = {"head_dim": 4.0, "world_size": 1.0, "heads_q": 0.5, "heads_kv": 0.5, "batch": 0.5}
    apart = sum(
        weight * _apart(getattr(source, name), getattr(asked, name))
        for name, weight in weights.items()
    )
    return apart + 2.0 * (source.causal != asked.causal)


def _nearest_length(figures: Sequence[Figure], asked: Shape) -> Figure:
    length = asked.seqlen_per_gpu
    return min(figures, key=lambda figure: _apart(figure.shape.seqlen_per_gpu, length))


def _apart(one: int, other: int) -> float:
    return abs(log2(one / other))


def _chosen(by_length: Mapping[int, Figure], asked: int) -> tuple[tuple[Figure, ...], HowKnown]:
    """The figures at the lengths around it, or at the nearest one."""
    if asked in by_length:
        return (by_length[asked],), HowKnown.MEASURED
    below = max((length for length in by_length if length < asked), default=None)
    above = min((length for length in by_length if length > asked), default=None)
    if below is not None and above is not None:
        return (by_length[below], by_length[above]), HowKnown.BETWEEN
    nearest = below if below is not None else above
    assert nearest is not None
    return (by_length[nearest],), HowKnown.BEYOND


@dataclass(frozen=True, slots=True)
class _Calibrated:
    """The model times what it is off where something was measured, between two lengths in turn
    with their logarithms: a line in log-log, but for the bends that the model knows of."""

    way: RingWay
    figures: tuple[Figure, ...]
    asked: Shape

    def milliseconds(self) -> float:
        off = [log(f.ms / model.milliseconds(self.way, f.shape)) for f in self.figures]
        if len(off) == 1:
            off = [off[0] * self._alike(self.figures[0].shape)]
        return model.milliseconds(self.way, self.asked) * exp(self._between(off))

    def call(self) -> float | None:
        off = [
            log(f.call * MIB / model.call_bytes(self.way, f.shape)) for f in self.figures if f.call
        ]
        if len(off) < len(self.figures):
            return None
        return model.call_bytes(self.way, self.asked) / MIB * exp(self._between(off))

    def _between(self, values: Sequence[float]) -> float:
        if len(values) == 1:
            return values[0]
        low, high = (log(figure.shape.seqlen_per_gpu) for figure in self.figures)
        share = (log(self.asked.seqlen_per_gpu) - low) / (high - low)
        return (1 - share) * values[0] + share * values[1]

    def _alike(self, source: Shape) -> float:
        """How much of what the model is off at one shape it is at another: a host that is slower
        than its figures says nothing of a kernel, and the other way about."""
        shares = [model.on_the_gpu(self.way, shape) for shape in (source, self.asked)]
        return min(shares) / max(shares)

    def kept(self, figures: Sequence[Figure]) -> float | None:
        """That of the nearest, and what it grows by: as it does over the way's other figures."""
        first = _nearest_length(self.figures, self.asked)
        if first.kept is None:
            return None
        alike = [f for f in figures if f.shape.backward == self.asked.backward]
        points = [(self._grows(f.shape), f.kept) for f in alike if f.kept is not None]
        more = self._grows(self.asked) - self._grows(first.shape)
        return max(0.0, first.kept + more * _slope(points, more))

    def _grows(self, shape: Shape) -> float:
        return model.kept_bytes(self.way, shape) / MIB


def _slope(points: Sequence[tuple[float, float]], more: float) -> float:
    """Of the second over the first, by least squares, none below zero; where all are at one place,
    what does not fit too little: as much, where there is more."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    wide = sum((x - mean_x) ** 2 for x, _ in points)
    if not wide:
        return 1.0 if more > 0 else 0.0
    return max(0.0, float(sum((x - mean_x) * (y - mean_y) for x, y in points) / wide))
