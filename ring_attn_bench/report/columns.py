"""One line of results.csv: every column, its type and its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self, get_args

from pydantic import Field
from pydantic.fields import FieldInfo

from ring_attn_bench.bench.record import Direction, Frozen, Status

Cell = str | int | float | bool | None
TENSORS = Direction.FORWARD_BACKWARD.tensors


def _column(meaning: str) -> Any:  # noqa: ANN401 - as pydantic's Field, it stands for a value of any type
    """A cell that is empty where it does not apply."""
    return Field(default=None, description=meaning)


class Errors(Frozen):
    """How far one tensor is from the float64 oracle."""

    max_abs: float | None = _column("largest absolute difference from the float64 oracle")
    rmse: float | None = _column("root of the mean squared difference from the oracle")
    rel_l2: float | None = _column("norm of the difference over norm of the oracle's tensor")


class Ratios(Frozen):
    """One tensor's error beside other errors."""

    vs_pytorch: float | None = _column(
        "its rmse over that of plain PyTorch, same precision, same inputs"
    )
    vs_one_gpu: float | None = _column("its rmse over that of the same kernel on one GPU")
    of_bound: float | None = _column(
        "share of the allowed error that is used, of max_abs or rmse the worse; above 1 is wrong"
    )


NESTED: Mapping[str, type[Errors] | type[Ratios]] = {"errors": Errors, "ratios": Ratios}
"""The fields of Row that hold one value for each tensor, a column each in the file."""


class Row(Frozen):
    """A record, flat and summarised. None is an empty cell: it does not apply or is not known."""

    case: str = Field(description="what was computed, as a slug")
    backend: str = Field(description="the kernel")
    partition: str = Field(description="which tokens live on which rank")
    transport: str = Field(description="how keys travel; `loopback` is all ranks in one process")
    direction: Direction = Field(description="what was timed")
    status: Status = Field(description="how it ended; only `ok` rows have a speed")
    reason: str | None = _column("why, where it is not ok")
    world_size: int = Field(description="ranks")
    batch: int = Field(description="sequences")
    seqlen_total: int = Field(description="tokens of a sequence, all ranks together")
    seqlen_per_gpu: int = Field(description="tokens of a sequence on each rank")
    heads_q: int = Field(description="query heads")
    heads_kv: int = Field(description="key heads")
    head_dim: int = Field(description="numbers in a head")
    dtype: str = Field(description="of the inputs")
    causal: bool = Field(description="whether a query sees no later key")
    deterministic: bool = Field(description="whether equal bits on every run were asked for")
    latency_ms: float | None = _column("median over iterations of the slowest rank's time")
    latency_ms_lo: float | None = _column("lower end of that median's 95 % confidence interval")
    latency_ms_hi: float | None = _column("upper end of it; both empty below 6 samples")
    tflops_per_gpu: float | None = _column("useful FLOPs / world_size / latency / 1e12")
    tokens_per_s: float | None = _column("batch x seqlen_total / latency")
    peak_extra_mib: float | None = _column(
        "peak GPU memory beyond the inputs during a call, largest over ranks"
    )
    errors: dict[str, Errors]
    contestant: str = Field(description="who computed it, as a slug")
    window_left: int | None = _column("keys seen before a query; empty is all")
    window_right: int | None = _column("keys seen after a query; empty is all that causal allows")
    softcap: float | None = _column("bound of the scores; empty is none")
    slots: int = Field(description="landing areas for keys on their way")
    gradients: str = Field(description="dtype in which partial dk and dv travel")
    samples: int | None = _column("timed iterations")
    stop: str | None = _column("why sampling ended")
    spread: float | None = _column("interquartile range / median of the samples")
    twin_ms: float | None = _column(
        "the same launches on local keys, without communication (median as above)"
    )
    one_gpu_ms: float | None = _column(
        "the same kernel in one call on one GPU, scaled to one GPU's share of the useful FLOPs"
    )
    percent_of_one_gpu: float | None = _column("100 x one_gpu_ms / latency_ms")
    percent_of_twin: float | None = _column(
        "100 x twin_ms / latency_ms: what is left of 100 is communication"
    )
    executed_over_useful_flops: float | None = _column("work launched over work needed")
    ratios: dict[str, Ratios]
    oracle: str | None = _column("`full`, or `sampled` query rows")
    oracle_rows: int | None = _column("query rows compared, of each batch entry and head")
    interpreted: bool = Field(description="whether the kernel ran in an interpreter: no speed")
    backend_version: str | None = _column("of the kernel's package")
    gpu: str | None = _column("its name; empty on a CPU")
    torch: str | None = _column("its version")
    triton: str | None = _column("its version")
    commit: str | None = _column("of this project; `-dirty` with uncommitted changes")
    run: str = Field(description="the run that wrote the record")
    suite: str = Field(description="the suite it belongs to")
    started_at: str | None = _column("when its measurement began")
    seconds: float = Field(description="wall time of the whole measurement, set-up included")
    command: str | None = _column("measures this row alone")

    def cells(self) -> dict[str, Cell]:
        """Column to cell, in the order of COLUMNS."""
        found: dict[str, Cell] = {}
        for name, value in self.model_dump(mode="json").items():
            if name not in NESTED:
                found[name] = value
                continue
            for tensor in TENSORS:
                found |= {f"{tensor}_{key}": cell for key, cell in value[tensor].items()}
        return found

    @classmethod
    def of_cells(cls, cells: Mapping[str, Cell]) -> Self:
        """The row with these cells, which may be missing, empty or, from a file, text."""
        filled = {name: cell for name, cell in cells.items() if cell not in (None, "")}
        fields: dict[str, Any] = {name: filled.get(name) for name in cls.model_fields}
        for name, kind in NESTED.items():
            fields[name] = {
                tensor: {key: filled.get(f"{tensor}_{key}") for key in kind.model_fields}
                for tensor in TENSORS
            }
        return cls.model_validate(fields)


def _columns() -> Iterator[tuple[str, FieldInfo]]:
    """Name and description of each; an errors or ratios field gives one for each tensor."""
    for name, field in Row.model_fields.items():
        if name not in NESTED:
            yield name, field
            continue
        for tensor in TENSORS:
            for key, nested in NESTED[name].model_fields.items():
                yield f"{tensor}_{key}", nested


_COLUMNS = dict(_columns())
COLUMNS = tuple(_COLUMNS)
MEANINGS = {name: field.description or "" for name, field in _COLUMNS.items()}
KINDS: Mapping[str, type] = {
    name: (get_args(field.annotation) or (field.annotation,))[0] for name, field in _COLUMNS.items()
}
"""Column to the type of its filled cells."""
