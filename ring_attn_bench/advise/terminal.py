"""Advice for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ring_attn_bench.advise.answer import Advice, summary
from ring_attn_bench.advise.estimate import Estimate
from ring_attn_bench.text.digits import digits, plural
from ring_attn_bench.text.table import Table, fold

_SHOWN = 8
_FEW = 3
_FUNCTIONS = {
    "zigzag": "zigzag_ring_flash_attn_func",
    "striped": "stripe_flash_attn_func",
    "contiguous": "ring_flash_attn_func",
}


def text(advice: Advice, width: int, *, every: bool = False) -> str:
    """At most that many columns wide. every: all that is known, and what does not fit."""
    return "\n\n".join(_parts(advice, width, every=every))


def _parts(advice: Advice, width: int, *, every: bool) -> Iterator[str]:
    yield fold(summary(advice.shape), width)
    best = advice.best
    if best is None:
        yield "\n".join(fold(line, width) for line in _nothing(advice))
    else:
        lines = [*_named(best), *advice.why(), *_code(best)]
        yield "\n".join(fold(line, width, subsequent_indent="    ") for line in lines)
        shown = advice.ways if every else advice.ways[:_SHOWN]
        yield _table(shown, best, len(advice.ways) - len(shown)).terminal(width)
    if advice.too_large and best is not None:
        yield "\n".join(fold(line, width) for line in _too_large(advice, every=every))
    if advice.failed:
        yield "\n".join(fold(line, width) for line in _failed(advice, every=every))


def _named(best: Estimate) -> Iterator[str]:
    way = best.way
    parts = [f"backend {way.backend}", f"partition {way.partition}"]
    if way.is_ours and best.shape.world_size > 1:
        parts += [f"schedule {way.schedule}", f"transport {way.transport}"]
    parts += ["gradients 'input'"] if way.gradients == "input" else []
    parts += ["keep_keys"] if way.keep_keys else []
    yield f"Take {', '.join(parts)}."
    one = best.shape.device
    memory = "memory was not measured"
    if best.memory is not None:
        kept = "what stays not measured" if best.kept is None else f"{digits(best.kept)} kept"
        memory = (
            f"{digits(best.memory, 4)} MiB a {one}: {digits(best.inputs)} of inputs, "
            f"{digits(best.call)} a call, {kept}"
        )
    yield f"Expected: {digits(best.ms)} ms, {digits(best.tflops)} TFLOP/s a {one}; {memory}."


def _code(best: Estimate) -> Iterator[str]:
    way = best.way
    if not way.is_ours:
        return
    if best.shape.world_size == 1:
        yield f"In code: flash_attn_func(..., backend={way.backend!r})"
        return
    options = ", ".join(f"{name}={value!r}" for name, value in way.fields().items())
    function = _FUNCTIONS.get(way.partition, "ring_flash_attn_func")
    yield (
        f"In code: {function}(..., backend={way.backend!r}, "
        f"context=RingContext(options=RingOptions({options})))"
    )


def _table(shown: Sequence[Estimate], best: Estimate, left: int) -> Table:
    body = tuple(
        (x.way.name, x.words, digits(x.ms), f"{100 * (x.ms / best.ms - 1):+.1f}", digits(x.tflops),
         digits(x.memory, 4), digits(x.error))
        for x in shown
    )  # fmt: skip
    headers = ("way", "known", "ms", "%", "TFLOP/s", "MiB", "error")
    remarks = ("error: of the worst result, rms, over plain PyTorch's in that dtype.",)
    more = (f"{plural(left, 'other way')}: see --all.",) if left else ()
    caption = "What is known, the fastest first"
    return Table(caption, headers, body, 2, remarks=(*remarks, *more))


def _too_large(advice: Advice, *, every: bool) -> Iterator[str]:
    yield f"Not advised, because it is not known to fit into {_limit(advice)}:"
    fastest = sorted(advice.too_large, key=lambda each: each.ms)
    lines = [f"{each.way.name}: {_needs(each)}, {digits(each.ms)} ms" for each in fastest]
    yield from _listed(lines, every=every)


def _limit(advice: Advice) -> str:
    whose = "" if advice.question.memory is not None else ", all that such a GPU has"
    return f"{advice.limit or 0.0:,.0f} MiB{whose}"


def _failed(advice: Advice, *, every: bool) -> Iterator[str]:
    yield "Not advised, because it failed at this shape the last time:"
    lines = [f"{each.way.name}: {each.status.value} ({each.run})" for each in advice.failed]
    yield from _listed(lines, every=every)


def _listed(lines: Sequence[str], *, every: bool) -> Iterator[str]:
    yield from (f"  {line}" for line in (lines if every else lines[:_FEW]))
    if not every and len(lines) > _FEW:
        yield f"  and {len(lines) - _FEW} others"


def _needs(each: Estimate) -> str:
    if each.memory is None:
        return "its memory was not measured"
    return f"{digits(each.memory, 4)} MiB"


def _nothing(advice: Advice) -> Iterator[str]:
    if not advice.too_large and advice.failed:
        yield "No way that was measured is right at this shape."
        return
    if not advice.too_large:
        yield "No record can be compared with this: other ranks of a peer, or another machine."
        return
    least = min(advice.too_large, key=lambda x: float("inf") if x.memory is None else x.memory)
    yield (
        f"Nothing fits into {_limit(advice)}: the least is "
        f"{least.way.name} with {_needs(least)}. Take more GPUs or fewer tokens."
    )
