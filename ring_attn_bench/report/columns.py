"""One line of results.csv: every column, its type and its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Self, get_args

from pydantic import Field
from pydantic.fields import FieldInfo

from ring_attn_bench.records.cache_shape import CacheShape
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import Frozen
from ring_attn_bench.ring.options import MEANINGS as OPTION_MEANINGS

Cell = str | int | float | bool | None
TENSORS = Direction.FORWARD_BACKWARD.tensors
OPTIONS = tuple(name for name in OPTION_MEANINGS if name != "transport")
"""The columns of a ring's options; how keys travel is told of peers and loopback too."""


_column = partial(Field, default=None)
"""A cell that is empty where it does not apply."""


class Errors(Frozen):
    """How far one tensor is from the float64 oracle."""

    max_abs: float | None = _column(
        description="largest absolute difference from the float64 oracle"
    )
    rmse: float | None = _column(description="root of the mean squared difference from the oracle")
    rel_l2: float | None = _column(
        description="norm of the difference over norm of the oracle's tensor"
    )


class Ratios(Frozen):
    """One tensor's error beside other errors."""

    vs_pytorch: float | None = _column(
        description="its rmse over plain PyTorch's in the same precision (float32 for float64)"
    )
    vs_one_gpu: float | None = _column(
        description="its rmse over that of the same kernel on one GPU"
    )
    of_bound: float | None = _column(
        description="share of the allowed error that is used, the worse of max_abs and rmse"
    )


class Exactness(Frozen):
    """What one tensor's error is made of, and how it is beside what its dtype allows."""

    bias: float | None = _column(description="mean of tensor less oracle")
    bias_error: float | None = _column(
        description="standard error of the bias, which is zero within two of them"
    )
    gain: float | None = _column(
        description="share by which the tensor is larger than the oracle's: slope of the error "
        "over it; rounding towards zero makes it negative"
    )
    gain_error: float | None = _column(description="standard error of the gain")
    over_floor: float | None = _column(
        description="its rmse over that of the oracle's tensor rounded once to its dtype; empty "
        "where that is float64"
    )
    ulps_p99: float | None = _column(
        description="what 99 % of its errors are at most, in units in the last place of its dtype "
        "at the oracle's value, or at the tensor's root mean square where that is larger; to 5 %"
    )
    ulps_max: float | None = _column(description="its largest error in these units")


NESTED: Mapping[str, type[Errors] | type[Ratios] | type[Exactness]] = {
    "errors": Errors,
    "ratios": Ratios,
    "exactness": Exactness,
}
"""The fields of ReportRow that hold one value for each tensor, a column each in the file."""


class ReportRow(Frozen):
    """A record, flat and summarised. None is an empty cell: it does not apply or is not known."""

    case: str = Field(description="what was computed, as a slug")
    backend: str = Field(description="the kernel; `peer:` is somebody else's whole ring")
    partition: str = Field(description="which tokens live on which rank")
    transport: str = Field(
        description="how keys travel; `loopback` is all ranks in one process, `own` a peer's way"
    )
    direction: Direction = Field(description="what was timed")
    status: Status = Field(description="how it ended; only `ok` rows have a speed")
    reason: str | None = _column(description="why, where it is not ok")
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
    latency_ms: float | None = _column(
        description="median over iterations of the slowest rank's time"
    )
    latency_ms_lo: float | None = _column(
        description="lower end of that median's 95 % confidence interval"
    )
    latency_ms_hi: float | None = _column(description="upper end of it; both empty below 6 samples")
    tflops_per_gpu: float | None = _column(description="useful FLOPs / devices / latency / 1e12")
    tokens_per_s: float | None = _column(
        description="batch x seqlen_total / latency; over a cache batch x queries / latency"
    )
    peak_extra_mib: float | None = _column(
        description="peak of torch's allocator beyond the inputs during a call, results included, "
        "largest over ranks"
    )
    kept_mib: float | None = _column(
        description="GPU memory that stays between calls: communicator, memory that peers reach; "
        "largest over ranks"
    )
    errors: dict[str, Errors]
    contestant: str = Field(description="who computed it, as a slug")
    window_left: int | None = _column(description="keys seen before a query; empty is all")
    window_right: int | None = _column(
        description="keys seen after a query; empty is all that causal allows"
    )
    softcap: float | None = _column(description="bound of the scores; empty is none")
    documents: str | None = _column(
        description="packed documents, `histogram:SEED`; empty is one sequence"
    )
    queries: int | None = _column(
        description="of each entry over a cache, its last; empty is attention over none"
    )
    page: int | None = _column(description="tokens of a page there; empty is a row for each entry")
    append: bool | None = _column(description="whether a call puts the queries' tokens into it")
    rotary: str | None = _column(description="columns that it turns together: `pairs`, `halves`")
    leftpad: int | None = _column(description="tokens at an entry's beginning that are not there")
    splits: int | None = _column(
        description="programs that share the keys of a head; empty is the kernel's choice"
    )
    head_dim_v: int | None = _column(description="numbers in a head of v; empty is head_dim")
    latent: bool | None = _column(
        description="whether v is the first of k's columns there, in the same memory"
    )
    options: dict[str, str | None]
    """By name, as text; None for a peer, whose ring has none of ours."""
    played: str = Field(
        default="real",
        description="`real`: a process for each rank; `loopback`: all in one; `twin`: nothing "
        "sent; `4on2`: the traffic of 4 ranks on 2 GPUs",
    )
    played_on: int | None = _column(
        description="GPUs, or CPU processes, that played a larger ring: its results were judged "
        "by loopback"
    )
    playing: str | None = _column(description="there, the rank that each of them played: `0+3`")
    took: str | None = _column(description="what options that are `auto` took")
    samples: int | None = _column(description="timed iterations")
    stop: str | None = _column(description="why sampling ended")
    spread: float | None = _column(description="interquartile range / median of the samples")
    twin_ms: float | None = _column(
        description="the same launches on local keys, without communication (median as above)"
    )
    graph_ms: float | None = _column(
        description="a call in a CUDA graph (median as above): what it takes without its host"
    )
    one_gpu_graph_ms: float | None = _column(
        description="one_gpu_ms of calls that are in a CUDA graph"
    )
    percent_of_one_gpu_graph: float | None = _column(
        description="100 x one_gpu_graph_ms / graph_ms"
    )
    cache_mib: float | None = _column(
        description="of K and V that some query of a call sees: what has to be read, of all ranks"
    )
    read_tbs: float | None = _column(
        description="TB/s of K and V read per device, by graph_ms where there is one, else by "
        "latency_ms"
    )
    percent_of_read: float | None = _column(description="100 x read_tbs x 1000 / read_gbs")
    one_gpu_ms: float | None = _column(
        description="the same kernel in one call on one GPU, at one GPU's share of the useful work"
    )
    percent_of_one_gpu: float | None = _column(description="100 x one_gpu_ms / latency_ms")
    percent_of_twin: float | None = _column(
        description="100 x twin_ms / latency_ms: what is left of 100 is communication"
    )
    executed_over_useful_flops: float | None = _column(
        description="work launched over work needed; empty for a peer, who does not say"
    )
    imbalance: float | None = _column(
        description="the busiest rank's work over the mean; empty for a peer"
    )
    uneven_ms: float | None = _column(
        description="what the busiest rank has beyond one GPU's share of the work, at the pace of "
        "one call: an estimate"
    )
    launches_ms: float | None = _column(
        description="twin_ms less one_gpu_ms and uneven_ms: more and shorter launches, merging, "
        "the host; by loopback of the ring itself; below 0 where one call is slower"
    )
    launches_ms_lo: float | None = _column(
        description="lower end of what that is with 95 % confidence; 0 inside is noise"
    )
    launches_ms_hi: float | None = _column(
        description="upper end of it; both empty below 7 samples of each"
    )
    communication_ms: float | None = _column(
        description="latency_ms less twin_ms: transfers that nothing hides, launches that they "
        "slow down, ranks that wait for each other"
    )
    communication_ms_lo: float | None = _column(description="as launches_ms_lo")
    communication_ms_hi: float | None = _column(description="as launches_ms_hi")
    link_mib: float | None = _column(
        description="what the rank with most of it receives, or sends, in a call by its plan"
    )
    link_ms: float | None = _column(
        description="what the link alone would take for it: by link_gbs"
    )
    hidden_ms: float | None = _column(
        description="of link_ms at least so much lies under launches: less what communication is "
        "beyond noise"
    )
    waiting_ms: float | None = _column(
        description="of communication_ms at least so much is no transfer: beyond noise and link_ms"
    )
    loses_most: str | None = _column(
        description="by what the row loses most time to one call: `uneven work`, `launches` or "
        "`communication`; empty where all of it is noise or not known"
    )
    percent_of_matmul: float | None = _column(
        description="100 x tflops_per_gpu / matmul_tflops: can be more for a kernel in another "
        "precision than torch's product, as TF32"
    )
    percent_of_link: float | None = _column(description="100 x link_ms / latency_ms")
    matmul_tflops: float | None = _column(
        description="measured in the same run: a product of large square matrices of the dtype, "
        "all ranks at once, the slowest of them"
    )
    copy_gbs: float | None = _column(
        description="measured as above: a copy inside the device, read and written"
    )
    read_gbs: float | None = _column(
        description="measured as above: reading alone, a maximum over a large tensor"
    )
    link_gbs: float | None = _column(
        description="measured as above: one direction between neighbours, by torch.distributed or "
        "by copies out of a peer's memory, whichever is faster"
    )
    slowest_rank: int | None = _column(
        description="the rank with the largest median time; empty where ranks are played or share "
        "a process"
    )
    slowest_over_others: float | None = _column(
        description="its median time over the mean of the other ranks'"
    )
    devices: int | None = _column(
        description="GPUs, or CPU processes, that shared the work; 1 by loopback, and where a "
        "larger ring was played as many as it has ranks"
    )
    predicted_mib: float | None = _column(
        description="what a call takes beyond the inputs by its plan: results, keys that leave and "
        "land, accumulators, gradients on their way, what a launch returns; largest over ranks"
    )
    predicted_of: str | None = _column(
        description="whose memory that is: `ring and kernel`, or `ring` where the kernel does not "
        "say what it takes for itself"
    )
    ratios: dict[str, Ratios]
    exactness: dict[str, Exactness]
    invariants: str | None = _column(
        description="what holds without an oracle in every row, of what was asked"
    )
    oracle: str | None = _column(description="`full`, or `sampled` query rows")
    judged_tokens: int | None = _column(
        description="tokens of the loopback ring that was judged in place of a played one"
    )
    oracle_rows: int | None = _column(
        description="query rows compared, of each batch entry and head"
    )
    not_given: str | None = _column(
        description="results that the contestant does not give, so that nobody judged them"
    )
    suspicion: str | None = _column(
        description="what its GPUs said while it was timed that speaks against its times"
    )
    sm_mhz: float | None = _column(
        description="SM clock while calls ran, by NVML: the median, of the slowest GPU"
    )
    memory_mhz: float | None = _column(description="the memory's clock, as above")
    watts: float | None = _column(
        description="power while calls ran, by NVML: the median, of the hungriest GPU"
    )
    celsius: int | None = _column(description="the hottest that a GPU was, by NVML")
    held_back: str | None = _column(
        description="why clocks were not higher while calls ran, in NVML's words"
    )
    kernels: str | None = _column(
        description="our Triton kernels that ran: registers of a thread, and words of it that "
        "found none: `forward_kernel 168 + 0`"
    )
    interpreted: bool = Field(description="whether the kernel ran in an interpreter: no speed")
    backend_version: str | None = _column(description="of the kernel's package")
    gpu: str | None = _column(description="its name; empty on a CPU")
    torch: str | None = _column(description="its version")
    triton: str | None = _column(description="its version")
    commit: str | None = _column(description="of this project; `-dirty` with uncommitted changes")
    run: str = Field(description="the run that wrote the record")
    suite: str = Field(description="the suite it belongs to")
    started_at: str | None = _column(description="when its measurement began")
    seconds: float = Field(description="wall time of the whole measurement, set-up included")
    command: str | None = _column(description="measures this row alone")

    @property
    def cache(self) -> CacheShape | None:
        """The cache that it is over, if it is over one."""
        if self.queries is None:
            return None
        told = {name: getattr(self, name) for name in CacheShape.model_fields}
        return CacheShape(**{name: value for name, value in told.items() if value is not None})

    def word(self, column: str) -> str | None:
        """A cell of the columns that say who computed the row, as text."""
        own: str | None = getattr(self, column, None)
        return self.options.get(column, own)

    @property
    def judged(self) -> tuple[str, ...]:
        """The results that were compared, where any were."""
        absent = (self.not_given or "").split()
        return tuple(name for name in self.direction.tensors if name not in absent)

    def cells(self) -> dict[str, Cell]:
        """Column to cell, in the order of COLUMNS."""
        cells: dict[str, Cell] = {}
        for name, value in self.model_dump(mode="json").items():
            if name == "options":
                cells |= value
                continue
            if name not in NESTED:
                cells[name] = value
                continue
            for tensor in TENSORS:
                cells |= {f"{tensor}_{key}": cell for key, cell in value[tensor].items()}
        return cells

    @classmethod
    def of_cells(cls, cells: Mapping[str, Cell]) -> Self:
        """The row with these cells, which may be missing, empty or, from a file, text."""
        filled = {name: cell for name, cell in cells.items() if cell not in (None, "")}
        fields: dict[str, Any] = {n: filled[n] for n in cls.model_fields if n in filled}
        fields["options"] = {name: filled.get(name) for name in OPTIONS}
        for name, kind in NESTED.items():
            fields[name] = {
                tensor: {key: filled.get(f"{tensor}_{key}") for key in kind.model_fields}
                for tensor in TENSORS
            }
        return cls.model_validate(fields)


def _columns() -> Iterator[tuple[str, FieldInfo]]:
    """Name and description of each; an errors or ratios field gives one for each tensor."""
    for name, field in ReportRow.model_fields.items():
        if name == "options":
            for option in OPTIONS:
                meaning = f"{OPTION_MEANINGS[option]}; empty for a peer"
                yield option, FieldInfo(annotation=str, description=meaning)
            continue
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
