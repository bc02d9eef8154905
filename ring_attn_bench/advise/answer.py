"""The ways that were measured, estimated at what is asked, the fastest that fits first, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from ring_attn_bench.advise import model
from ring_attn_bench.advise.estimate import Estimate, HowKnown, estimate
from ring_attn_bench.advise.figures import CPU, Figure, RingWay, Shape, newest
from ring_attn_bench.advise.question import Question
from ring_attn_bench.errors import InvalidArgument, UnknownName, placed
from ring_attn_bench.plan.measured import MACHINES
from ring_attn_bench.records.statistics import same_program
from ring_attn_bench.records.status import Status
from ring_attn_bench.text import shapes
from ring_attn_bench.text.digits import digits, plural, tokens

QUIET = 0.016
"""Interquartile range over median of a quiet row: one in five of our ring's has less, of those of
16K and more tokens a GPU in the run of two H200."""
CLOSE = same_program(QUIET)
"""What is that near to the fastest, 3 %, may as well be it: two runs of one program differ so much
in a quiet row, and more in others."""


@dataclass(frozen=True, slots=True)
class Advice:
    """ways: the fastest first. too_large: what does not fit the memory. unknown: ways of which
    nothing can be said here. failed: at just this shape, the last time. limit: MiB of a GPU that
    there are, those of the question or of that GPU; None where neither is known."""

    question: Question
    shape: Shape
    ways: tuple[Estimate, ...]
    too_large: tuple[Estimate, ...]
    unknown: tuple[RingWay, ...]
    failed: tuple[Figure, ...]
    limit: float | None

    @property
    def best(self) -> Estimate | None:
        """None where nothing fits, or nothing is known."""
        return self.ways[0] if self.ways else None

    @property
    def best_ours(self) -> Estimate | None:
        """The estimate of our ring's fastest way."""
        return next((each for each in self.ways if each.way.is_ours), None)

    @property
    def close(self) -> tuple[Estimate, ...]:
        """Others that may be as fast."""
        return tuple(x for x in self.ways[1:] if x.ms <= (1 + CLOSE) * self.ways[0].ms)

    @property
    def best_measured(self) -> Estimate | None:
        """The fastest of which nobody has to guess here."""
        return next((each for each in self.ways if each.known is HowKnown.MEASURED), None)

    def why(self) -> Iterator[str]:
        """In sentences, what speaks for the best."""
        best = self.best
        if best is None:
            return
        yield f"Its time {_known(best)}."
        for name in ("backend", "transport", "schedule", "partition"):
            yield from self._instead(best, name)
        sure = self.best_measured
        if sure is not None and sure is not best:
            yield (
                f"Of what was measured at this shape, {sure.way.name} is the fastest: "
                f"{_more(sure, best)}."
            )
        if self.close:
            names = ", ".join(each.way.name for each in self.close)
            yield f"Within {100 * CLOSE:.0f} % of it, so perhaps as fast: {names}."
        if not best.way.is_ours and self.best_ours is not None:
            ours = self.best_ours
            yield f"It is a peer's ring; of ours {ours.way.name} takes {_more(ours, best)}."
        if best.known in (HowKnown.BEYOND, HowKnown.ELSEWHERE):
            yield "What the model says is a guess (docs/advice.md has how far off): measure it."

    def _instead(self, best: Estimate, name: str) -> Iterator[str]:
        """The fastest that is another in this, and in nothing else; of backends, in whatever."""
        chosen = getattr(best.way, name)
        others = [x for x in self.ways if x.way.is_ours and getattr(x.way, name) != chosen]
        alone = [x for x in others if name == "backend" or _same_but(x.way, best.way, name)]
        for other in alone[:1]:
            yield f"{name.capitalize()} {getattr(other.way, name)} takes {_more(other, best)}."


def _same_but(one: RingWay, other: RingWay, name: str) -> bool:
    return one.model_copy(update={name: getattr(other, name)}) == other


def _more(other: Estimate, best: Estimate) -> str:
    return f"{100 * (other.ms / best.ms - 1):.1f} % more, {digits(other.ms)} ms ({other.words})"


def _known(best: Estimate) -> str:
    runs = " and ".join(dict.fromkeys(figure.run for figure in best.of))
    match best.known:
        case HowKnown.MEASURED:
            how = f"was {best.words}{_interval(best.of[0])}"
        case HowKnown.BETWEEN:
            how = f"is interpolated, {best.words}"
        case HowKnown.BEYOND:
            length = f"{tokens(best.shape.seqlen_per_gpu)} a {best.shape.device}"
            how = f"is extrapolated to {length}, {best.words}"
        case HowKnown.ELSEWHERE:
            how = f"is extrapolated, {best.words}"
    return f"{how} ({runs})"


def _interval(figure: Figure) -> str:
    """Of one run: another one's median may be further off."""
    if figure.low is None or figure.high is None:
        return ""
    return f", {digits(figure.low)} to {digits(figure.high)} ms with 95 %"


def advised(question: Question, figures: Sequence[Figure]) -> Advice:
    """Raises InvalidArgument or UnknownName for what no figure can be compared with."""
    last = [figure for figure in newest(figures) if figure.shape.dtype in model.BYTES]
    known = [figure for figure in last if figure.status is Status.OK]
    shape = _shape(question, known)
    failed = [x for x in last if x.status is not Status.OK and x.shape == shape]
    without = {figure.way for figure in failed}
    by_way: dict[RingWay, list[Figure]] = {}
    for figure in known:
        if figure.way not in without:
            by_way.setdefault(figure.way, []).append(figure)
    estimated = {way: estimate(way, of, shape) for way, of in by_way.items()}
    estimates = sorted((x for x in estimated.values() if x is not None), key=lambda x: x.ms)
    most = _most(shape, known)
    fitting = [each for each in estimates if _fits(each, question.memory, most)]
    return Advice(
        question, shape, tuple(fitting),
        tuple(each for each in estimates if each not in fitting),
        tuple(way for way, each in estimated.items() if each is None),
        tuple(failed), most if question.memory is None else question.memory,
    )  # fmt: skip


def _most(shape: Shape, figures: Sequence[Figure]) -> float | None:
    """MiB that such a GPU has."""
    return max(
        (x.gpu_gib * 1024 for x in figures if x.shape.gpu == shape.gpu and x.gpu_gib), default=None
    )


def _fits(each: Estimate, asked: float | None, most: float | None) -> bool:
    """What is not known to fit is not advised where a limit is asked for; where none is, what is
    known to be more than that GPU has."""
    if asked is not None:
        return each.memory is not None and each.memory <= asked
    return most is None or each.memory is None or each.memory <= most


def _shape(question: Question, figures: Sequence[Figure]) -> Shape:
    """What is asked for, on a GPU of which there are figures, at a dtype and a head dim of them."""
    asked = {
        "gpu": _gpu(question.gpu, figures), "world_size": question.gpus, "batch": question.batch,
        "seqlen_per_gpu": question.seqlen_per_gpu, "heads_q": question.heads_q,
        "heads_kv": question.heads_kv, "head_dim": question.head_dim, "dtype": question.dtype,
        "causal": question.causal, "backward": question.backward,
    }  # fmt: skip
    try:
        shape = Shape.model_validate(asked)
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidArgument(f"{placed(problem['msg'], problem['loc'])}.") from None
    alike = [figure.shape for figure in figures if figure.shape.gpu == shape.gpu]
    if shape.dtype not in (dtypes := {each.dtype for each in alike}):
        raise UnknownName("dtype of the records", shape.dtype, dtypes)
    dims = sorted({each.head_dim for each in alike if each.dtype == shape.dtype})
    if shape.head_dim not in dims:
        allowed = " or ".join(map(str, dims))
        raise InvalidArgument(
            f"head_dim is {shape.head_dim}, and the records of {shape.gpu} in {shape.dtype} have "
            f"{allowed}: give records of it with --records."
        )
    return shape


def _gpu(asked: str | None, figures: Sequence[Figure]) -> str:
    """The one that is meant; of no name, one that the model knows, or that has most figures."""
    counts = Counter(figure.shape.gpu for figure in figures)
    if not counts:
        raise InvalidArgument(
            "the records have no time of plain attention that is right; give others with --records."
        )
    if asked is None:
        return max(counts, key=lambda gpu: (gpu in MACHINES, counts[gpu]))
    meant = [gpu for gpu in counts if asked.lower() in gpu.lower()]
    if not meant:
        raise UnknownName("GPU of the records", asked, counts)
    return max(meant, key=lambda gpu: counts[gpu])


def summary(shape: Shape) -> str:
    """What is asked for, in words."""
    what = "forward + backward" if shape.backward else "forward"
    gpus = f"{shape.world_size} x {shape.gpu} of one host"
    parts = (
        plural(shape.world_size, "CPU rank") if shape.gpu == CPU else gpus,
        f"{tokens(shape.seqlen_total)} tokens, {tokens(shape.seqlen_per_gpu)} a {shape.device}",
        shapes.batch(shape.batch), shapes.heads_of(shape.heads_q, shape.heads_kv, shape.head_dim),
        shape.dtype, "causal" if shape.causal else "no mask", what,
    )  # fmt: skip
    return ", ".join(parts)
