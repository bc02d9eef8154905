"""Record -> ReportRow: every summary figure of the report is computed here, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from ring_attn_bench.records.breakdown import Lost, breakdown
from ring_attn_bench.records.ceilings import Ceilings
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.gpus import GpuWatch
from ring_attn_bench.records.record import Accuracy, Case, Contestant, Record, TensorError
from ring_attn_bench.records.statistics import summarize
from ring_attn_bench.records.values import MIB
from ring_attn_bench.report.columns import (
    COLUMNS,
    KINDS,
    OPTIONS,
    TENSORS,
    Errors,
    Exactness,
    Ratios,
    ReportRow,
)
from ring_attn_bench.ring.options import texts

if TYPE_CHECKING:
    from pandas import DataFrame

_SHORTEST = 1e-9
"""Milliseconds: what is shorter is no time of a call, and paces of it overflow."""
_DTYPES: dict[type, str] = {bool: "boolean", int: "Int64", float: "Float64"}


def latest(records: Iterable[Record]) -> tuple[Record, ...]:
    """Of records with the same key, which a resumed run may write, the last one.

    In the order of the cases, then the directions, then the contestants' names: records come in
    the order in which they were finished, which is random.
    """
    kept = tuple({record.key: record for record in records}.values())
    cases = list(dict.fromkeys(record.case.name for record in kept))
    directions = list(Direction)

    def place(record: Record) -> tuple[int, int, str]:
        case, direction = cases.index(record.case.name), directions.index(record.direction)
        return case, direction, record.contestant.name

    return tuple(sorted(kept, key=place))


def rows(records: Iterable[Record]) -> tuple[ReportRow, ...]:
    """One row for each case x contestant x direction."""
    return tuple(row(record) for record in latest(records))


def row(record: Record) -> ReportRow:
    """The record as a row of results.csv."""
    return ReportRow(
        direction=record.direction,
        status=record.status,
        reason=_one_line(record.reason),
        **_case(record.case),
        **_contestant(record.contestant),
        took=_took(record),
        **_speed(record),
        **_memory(record),
        **_predicted(record),
        **_accuracy(record.accuracy, record.direction),
        **_gpus(record),
        **_provenance(record),
    )


def frame(rows: Sequence[ReportRow]) -> DataFrame:
    """The rows as a table whose columns have types that know empty cells."""
    from pandas import DataFrame

    cells = [row.cells() for row in rows]
    dtypes = {name: _DTYPES.get(KINDS[name], "string") for name in COLUMNS}
    return DataFrame(cells, columns=list(COLUMNS), dtype=object).astype(dtypes)


def _case(case: Case) -> dict[str, Any]:
    left, right = (None if size < 0 else size for size in case.window)
    return {
        "case": case.name,
        "seqlen_per_gpu": case.seqlen_per_gpu,
        "window_left": left,
        "window_right": right,
        "softcap": case.softcap or None,
        **case.model_dump(exclude={"window", "softcap", "cache"}),
        **_cache(case),
    }


def _cache(case: Case) -> dict[str, Any]:
    """What is not there is empty."""
    if case.cache is None:
        return {}
    told = {name: value or None for name, value in case.cache.model_dump().items()}
    return {**told, "append": case.cache.append, "latent": case.cache.latent}


def _contestant(contestant: Contestant) -> dict[str, Any]:
    own = contestant.options
    return {
        "contestant": contestant.name,
        "backend": contestant.backend,
        "partition": contestant.partition,
        "transport": contestant.transport,
        "played": contestant.played,
        "played_on": contestant.played_on,
        "playing": "+".join(map(str, contestant.playing)) or None,
        "options": {name: None if own is None else texts(own)[name] for name in OPTIONS},
    }


def _took(record: Record) -> str | None:
    """slots 2, grouping 1+2: those that were `auto`."""
    if record.took is None or record.contestant.options is None:
        return None
    asked = texts(record.contestant.options)
    chosen = {n: text for n, text in texts(record.took).items() if asked[n] != text}
    return ", ".join(f"{name} {text}" for name, text in chosen.items()) or None


def _speed(record: Record) -> dict[str, Any]:
    """Nothing for an interpreter's times, which say nothing about a kernel."""
    speed, case = record.speed, record.case
    ring = summarize(speed.samples.ring) if speed else None
    if record.interpreted or speed is None or ring is None or ring.median < _SHORTEST:
        return {}
    seconds = ring.median / 1e3
    return {
        "latency_ms": ring.median,
        "latency_ms_lo": ring.low,
        "latency_ms_hi": ring.high,
        "tflops_per_gpu": speed.useful_flops / speed.devices / seconds / 1e12,
        "tokens_per_s": case.batch * _answered(case) / seconds,
        "samples": ring.count,
        "stop": speed.samples.stop or None,
        "spread": ring.spread,
        "devices": speed.devices,
        "imbalance": speed.imbalance,
        **_slowest(record),
        "executed_over_useful_flops": _ratio(speed.executed_flops, speed.useful_flops),
        **_beside(record, ring.median),
        **_in_graphs(record),
        **_read(record, ring.median),
        **_why(record),
        **_ceilings(record.ceilings),
    }


def _answered(case: Case) -> int:
    """Tokens of each entry that a call gives results of."""
    return case.seqlen_total if case.cache is None else case.cache.queries


def _read(record: Record, latency: float) -> dict[str, Any]:
    """K and V of a cache by second, and beside what the machine reads."""
    speed, ceilings = record.speed, record.ceilings
    assert speed is not None  # it has a latency
    if not speed.cache_bytes:
        return {}
    pace = speed.cache_bytes / speed.devices / (_graph_ms(record) or latency) / 1e9
    ceiling = None if ceilings is None else ceilings.read_rate
    return {
        "cache_mib": speed.cache_bytes / MIB,
        "read_tbs": pace,
        "percent_of_read": None if ceiling is None else 1e5 * pace / ceiling,
    }


def _graph_ms(record: Record) -> float | None:
    """Of a call in a CUDA graph; None where there is none, or one that nobody can believe."""
    graph = None if record.speed is None else summarize(record.speed.samples.graph)
    return None if graph is None or graph.median < _SHORTEST else graph.median


def _in_graphs(record: Record) -> dict[str, Any]:
    """A call in a CUDA graph, and how near it comes to one GPU's that is in one too."""
    speed, graph_ms = record.speed, _graph_ms(record)
    assert speed is not None  # it has a latency
    alone = summarize(speed.samples.one_gpu_graph)
    if graph_ms is None or alone is None or not speed.one_gpu_flops:
        return {"graph_ms": graph_ms}
    ideal = alone.median * speed.useful_flops / speed.devices / speed.one_gpu_flops
    return {
        "graph_ms": graph_ms,
        "one_gpu_graph_ms": ideal,
        "percent_of_one_gpu_graph": 100 * ideal / graph_ms,
    }


def _slowest(record: Record) -> dict[str, Any]:
    slow = record.slowest_rank
    return {} if slow is None else {"slowest_rank": slow.rank, "slowest_over_others": slow.factor}


def _beside(record: Record, latency: float) -> dict[str, Any]:
    """The twin's and the single GPU's times, and how near the ring comes to them."""
    assert record.speed is not None
    speed = record.speed
    twin, alone = summarize(speed.samples.twin), summarize(speed.samples.one_gpu)
    cells: dict[str, Any] = {}
    if twin:
        cells |= {"twin_ms": twin.median, "percent_of_twin": 100 * twin.median / latency}
    if alone and speed.one_gpu_flops:
        share = speed.useful_flops / speed.devices
        ideal = alone.median * share / speed.one_gpu_flops
        cells |= {"one_gpu_ms": ideal, "percent_of_one_gpu": 100 * ideal / latency}
    return cells


def _why(record: Record) -> dict[str, Any]:
    """What the time is made of, and how near it is to what the machine can do."""
    found = breakdown(record)
    assert found is not None  # it has a speed
    assert record.speed is not None
    moved = record.speed.link_bytes
    return {
        "uneven_ms": found.uneven,
        **_lost("launches_ms", found.launches),
        **_lost("communication_ms", found.communication),
        "link_mib": None if moved is None else moved / MIB,
        "link_ms": found.link,
        "hidden_ms": found.hidden,
        "waiting_ms": found.waiting,
        "loses_most": found.mostly or None,
        "percent_of_matmul": found.percent_of_matmul,
        "percent_of_link": found.percent_of_link,
    }


def _lost(name: str, lost: Lost | None) -> dict[str, float | None]:
    if lost is None:
        return {}
    return {name: lost.ms, f"{name}_lo": lost.low, f"{name}_hi": lost.high}


def _ceilings(ceilings: Ceilings | None) -> dict[str, float | None]:
    return {
        "matmul_tflops": None if ceilings is None else ceilings.matmul,
        "copy_gbs": None if ceilings is None else ceilings.copy_rate,
        "read_gbs": None if ceilings is None else ceilings.read_rate,
        "link_gbs": None if ceilings is None else ceilings.link,
    }


def _memory(record: Record) -> dict[str, Any]:
    """Nothing on a CPU, whose allocator keeps no peak."""
    if record.memory is None or not record.environment.get("gpu"):
        return {}
    named = {
        "peak_extra_mib": record.memory.peak_extra_bytes, "kept_mib": record.memory.kept_bytes,
    }  # fmt: skip
    return {name: max(by_rank) / MIB for name, by_rank in named.items() if by_rank}


def _predicted(record: Record) -> dict[str, Any]:
    """Of a CPU too: it is a matter of plans."""
    if record.predicted is None or not record.predicted.call_bytes:
        return {}
    whose = "ring and kernel" if record.predicted.with_kernel else "ring"
    return {"predicted_mib": max(record.predicted.call_bytes) / MIB, "predicted_of": whose}


def _accuracy(accuracy: Accuracy | None, direction: Direction) -> dict[str, Any]:
    errors = accuracy.tensors if accuracy else {}
    absent = [name for name in direction.tensors if accuracy and name not in errors]
    return {
        "errors": {name: _errors(errors.get(name)) for name in TENSORS},
        "ratios": {name: _ratios(errors.get(name)) for name in TENSORS},
        "exactness": {name: _exactness(errors.get(name)) for name in TENSORS},
        "invariants": _held(accuracy),
        "oracle": accuracy.oracle if accuracy else None,
        "judged_tokens": accuracy.seqlen_total if accuracy else None,
        "oracle_rows": accuracy.oracle_rows if accuracy else None,
        "not_given": " ".join(absent) or None,
    }


def _errors(error: TensorError | None) -> Errors:
    if error is None:
        return Errors()
    return Errors(max_abs=error.max_abs, rmse=error.rmse, rel_l2=error.rel_l2)


def _ratios(error: TensorError | None) -> Ratios:
    if error is None:
        return Ratios()
    shares = (
        _ratio(error.max_abs, error.bound_max_abs),
        _ratio(error.rmse, error.bound_rmse),
    )
    return Ratios(
        vs_pytorch=_ratio(error.rmse, error.pytorch_rmse),
        vs_one_gpu=_ratio(error.rmse, error.one_gpu_rmse),
        of_bound=max((share for share in shares if share is not None), default=None),
    )


def _exactness(error: TensorError | None) -> Exactness:
    if error is None or error.precision is None:
        return Exactness()
    fine = error.precision
    return Exactness(
        over_floor=_ratio(error.rmse, fine.floor_rmse),
        **fine.model_dump(exclude={"floor_rmse"}),
    )


def _held(accuracy: Accuracy | None) -> str | None:
    if accuracy is None or accuracy.invariants is None:
        return None
    broken = {invariant for invariant, _ in accuracy.broken}
    return " ".join(name for name in accuracy.invariants if name not in broken) or None


def _ratio(value: float | None, of: float | None) -> float | None:
    """Empty where there is nothing to compare with, a yardstick that is not finite included."""
    return None if value is None or not of or not isfinite(of) else value / of


def _gpus(record: Record) -> dict[str, Any]:
    """How they were, and what the compiler made of the kernels."""
    kernels = [f"{one.name} {one.registers} + {one.spilled}" for one in record.kernels]
    watch = record.gpus or GpuWatch()
    return {
        "kernels": ", ".join(dict.fromkeys(kernels)) or None,
        "suspicion": _one_line("; ".join(watch.suspicions)),
        "sm_mhz": watch.sm_mhz,
        "memory_mhz": watch.memory_mhz,
        "watts": watch.watts,
        "celsius": watch.celsius,
        "held_back": _one_line(" ".join(watch.held_back)),
    }


def _provenance(record: Record) -> dict[str, Any]:
    environment = record.environment
    commit = environment.get("commit")
    return {
        "interpreted": record.interpreted,
        "backend_version": record.backend_version or None,
        **{name: _text(environment.get(name)) for name in ("gpu", "torch", "triton")},
        "commit": f"{commit}-dirty" if commit and environment.get("dirty") else _text(commit),
        "run": record.run,
        "suite": record.suite,
        "started_at": record.started_at or None,
        "seconds": record.seconds,
        "command": record.command or None,
    }


def _text(value: object) -> str | None:
    return None if value in (None, "") else str(value)


def _one_line(text: str) -> str | None:
    return " ".join(text.split()) or None
