"""One finished measurement as one JSON line that stands alone: written at once, read by the report.

A record is one case x contestant x direction. `records.jsonl` is append-only; every other output
(tables, CSV, plots) is made from it and can be made again without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf, isfinite
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    model_serializer,
    model_validator,
)

from ring_attn_bench.contract.used import UsedKernel
from ring_attn_bench.records import files, json_lines
from ring_attn_bench.records.cache_shape import CacheShape
from ring_attn_bench.records.ceilings import Ceilings
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.exactness import Invariants, Precision
from ring_attn_bench.records.gpus import GpuWatch
from ring_attn_bench.records.predicted import PredictedMemory
from ring_attn_bench.records.statistics import SlowestRank, slowest
from ring_attn_bench.records.status import Status
from ring_attn_bench.records.values import (
    Count,
    Documents,
    DType,
    Environment,
    Frozen,
    Milliseconds,
    Name,
    Ranks,
    Side,
    Size,
    Text,
    Total,
    Work,
)
from ring_attn_bench.records.written_options import Options
from ring_attn_bench.registry import is_peer
from ring_attn_bench.ring.options import slug

SCHEMA = 2
"""1 had transport, slots and gradients in the contestant itself, and no version in the line."""


class Case(Frozen):
    """What is computed, whoever computes it. Lengths are in tokens."""

    batch: Size
    seqlen_total: Total
    world_size: Ranks
    heads_q: Size
    heads_kv: Size
    head_dim: Size
    dtype: DType
    causal: bool
    window: tuple[Side, Side] = (-1, -1)
    softcap: float = 0.0
    deterministic: bool = False
    cache: CacheShape | None = None
    """Of queries over a cache; None is attention of the whole sequence."""
    documents: Documents | None = None
    """Of which the sequence is packed, as `bench.documents` reads it; None is one sequence."""

    @property
    def seqlen_per_gpu(self) -> int:
        """Tokens that each rank holds."""
        return self.seqlen_total // self.world_size

    @property
    def extras(self) -> Mapping[str, Any]:
        """What makes it more than plain attention: by field, what is not the default."""
        optional = {n: f.default for n, f in type(self).model_fields.items() if not f.is_required()}
        return {n: getattr(self, n) for n, plain in optional.items() if getattr(self, n) != plain}

    @property
    def name(self) -> str:
        """A readable slug, unique within a run: b1_s32768_w4_h32-8_d128_bfloat16_causal."""
        parts = [
            f"b{self.batch}",
            f"s{self.seqlen_total}",
            f"w{self.world_size}",
            f"h{self.heads_q}-{self.heads_kv}",
            f"d{self.head_dim}",
            self.dtype,
            "causal" if self.causal else "full",
        ]
        if self.window != (-1, -1):
            parts.append(f"window{self.window[0]}_{self.window[1]}")
        if self.softcap:
            parts.append(f"softcap{self.softcap:g}")
        if self.deterministic:
            parts.append("deterministic")
        if self.cache is not None:
            parts += self.cache.slug
        if self.documents is not None:
            parts.append(f"documents-{self.documents}".replace(":", "-"))
        return "_".join(parts)


class Contestant(Frozen):
    """Who computes it: a kernel in our ring, or somebody else's ring, over a partition.

    options: of our ring; None for a peer, which has its own ways.
    played: `real` is a process for each rank, `loopback` all ranks in one process, `twin` the
        same launches and nothing sent, `4on2` the traffic of 4 ranks on 2 GPUs.
    playing: there, by process, the rank that it plays.
    """

    backend: Name
    """The kernel's name, or `peer:` and the name of somebody else's whole ring."""
    partition: Name
    options: Options | None
    played: Annotated[str, Field(pattern=r"^(real|loopback|twin|\d{1,4}on\d{1,4})$")] = "real"
    playing: tuple[Count, ...] = ()

    @property
    def played_on(self) -> int | None:
        """How many processes play a larger ring; None where all ranks have their own, or share."""
        _, on, processes = self.played.partition("on")
        return int(processes) if on else None

    @property
    def transport(self) -> str:
        """How keys travel: by name, `own` for a peer's way, or how it was played instead."""
        if self.played in ("loopback", "twin"):
            return self.played
        name = "own" if self.options is None else self.options.transport
        ranks = f"-{'+'.join(map(str, self.playing))}" if self.playing else ""
        return name if self.played == "real" else f"{name}-{self.played}{ranks}"

    @property
    def name(self) -> str:
        """A readable slug, unique within a case: triton/zigzag/p2p, and options not the default."""
        extra = "" if self.options is None else slug(self.options)
        return f"{self.backend}/{self.partition}/{self.transport}{extra}"


class HeadError(Frozen):
    """How far one head of one batch entry is from the oracle, and what it alone may be."""

    batch: Count
    head: Count
    rmse: float | None
    """None if a value is not finite where the oracle's is."""
    bound_rmse: float

    @property
    def share(self) -> float:
        """The head's rmse over its bound; 1 is all that is allowed."""
        return inf if self.rmse is None or not self.bound_rmse else self.rmse / self.bound_rmse


class TensorError(Frozen):
    """How far one result is from the float64 oracle, over all ranks; bound is what was allowed."""

    max_abs: float | None
    """None if a value is not finite where the oracle's is."""
    rmse: float | None
    rel_l2: float | None
    """Norm of the difference over norm of the oracle's."""
    bound_max_abs: float
    bound_rmse: float
    pytorch_max_abs: float
    """The same for plain PyTorch in the same precision on the same inputs."""
    pytorch_rmse: float
    one_gpu_max_abs: float | None = None
    """The same for the same kernel without a ring; None where it cannot run alone."""
    one_gpu_rmse: float | None = None
    head: HeadError | None = None
    """The head that is furthest beyond a bound of its own; None where none is."""
    precision: Precision | None = None
    """What the error is made of; None where a value is not finite."""

    @property
    def is_right(self) -> bool:
        """Whether the result, and each of its heads, is within its bounds."""
        return self.head is None and self.is_right_as_a_whole

    @property
    def is_right_as_a_whole(self) -> bool:
        """Whether the result is, all heads together; never by bounds that are not finite."""
        if self.max_abs is None or self.rmse is None:
            return False
        if not (isfinite(self.bound_max_abs) and isfinite(self.bound_rmse)):
            return False
        return self.max_abs <= self.bound_max_abs and self.rmse <= self.bound_rmse


class Accuracy(Frozen):
    """The errors of a direction's results, and what they were compared with."""

    oracle: str
    """`full` float64, or `sampled` rows of it."""
    oracle_rows: Count
    """Query rows compared, of each batch entry and head."""
    tensors: dict[str, TensorError]
    """By result. One that the contestant does not give is not here: a peer may have no lse."""
    call: Count = 1
    """Which of the calls that were judged this is of: the first, or the first that was wrong; over
    a cache the third is in a CUDA graph."""
    invariants: Invariants | None = None
    """What holds without a truth, in every row; None where nobody looked."""
    seqlen_total: Total | None = None
    """Tokens of the loopback ring that was judged in place of a played one, whose results mean
    nothing: all of the case's, or fewer. None where the contestant itself was judged."""

    @property
    def is_right(self) -> bool:
        """Whether every result is within its bounds, and every invariant holds."""
        return all(error.is_right for error in self.tensors.values()) and not self.broken

    @property
    def broken(self) -> tuple[tuple[str, str], ...]:
        """Invariant and result, of those that do not hold."""
        return tuple(
            (invariant, name)
            for invariant, results in (self.invariants or {}).items()
            for name, departure in results.items()
            if not departure.is_kept
        )


class Samples(Frozen):
    """Raw times in milliseconds, one list for each iteration with one time for each rank."""

    ring: list[list[Milliseconds]]
    """Calls of the contestant as it is."""
    twin: list[list[Milliseconds]] = Field(default_factory=list)
    """The same launches with keys taken from local buffers: no communication."""
    one_gpu: list[list[Milliseconds]] = Field(default_factory=list)
    """The same kernel in one call of one GPU's share of the work, on every GPU at once."""
    graph: list[list[Milliseconds]] = Field(default_factory=list)
    """Calls as they are in a CUDA graph: what they take when no host is in the way."""
    one_gpu_graph: list[list[Milliseconds]] = Field(default_factory=list)
    """The calls of `one_gpu` in a CUDA graph."""
    stop: str = ""
    """Why sampling ended: `precise`, `max_samples` or `time`."""


class Speed(Frozen):
    """What is known about time and work. Present only where the results are right."""

    samples: Samples
    useful_flops: Work
    """Of the whole case, all ranks together, from the exact area of the mask."""
    executed_flops: Work | None = None
    """Of what was launched; None for a peer, who does not say."""
    devices: Ranks
    """GPUs (or CPU processes) that shared the work: 1 by loopback, whatever the world size is, and
    where a larger ring was played all that it would have."""
    imbalance: float | None = None
    """The busiest rank's work over the mean; None for a peer."""
    one_gpu_flops: Work | None = None
    """Of the one-GPU call; its time is scaled by useful_flops / devices over this."""
    link_bytes: Count | None = None
    """Of one call, that the rank with most of them receives, or sends, by its plan; None where
    nothing travels, for a peer, and in records of before."""
    cache_bytes: Count | None = None
    """Of K and V that some query of a call sees, on all ranks; None where there is no cache."""


class Memory(Frozen):
    """Bytes of a device beyond the inputs, for each rank."""

    peak_extra_bytes: list[Count]
    """The most that a call takes of torch's allocator, results included."""
    kept_bytes: list[Count] | None = None
    """What stays between calls: communicator, memory that others reach; None where not measured."""


class Record(Frozen):
    """One case, contestant and direction: how it ended, how right, how fast, how large, where."""

    schema_version: int = SCHEMA
    run: Text
    suite: Text
    case: Case
    contestant: Contestant
    direction: Direction
    status: Status
    reason: Text = ""
    stderr: list[Text] = Field(default_factory=list)
    """The last lines that a dead worker group wrote."""
    accuracy: Accuracy | None = None
    speed: Speed | None = None
    memory: Memory | None = None
    predicted: PredictedMemory | None = None
    """What a call was expected to take; None of a peer, where nothing ran, and of before."""
    gpus: GpuWatch | None = None
    """How they were while it was timed; None on a CPU, and in records of before."""
    ceilings: Ceilings | None = None
    """What the machine made of plain work in the same run; None where nobody measured it."""
    kernels: tuple[UsedKernel, ...] = ()
    """What the compiler made of those that ran in a call, on all ranks, where the backend says."""
    took: Options | None = None
    """The options without `auto`: what it took. None where nothing ran, of a peer, over a cache."""
    interpreted: bool = False
    """Whether the kernel ran in an interpreter, which has errors but no speed."""
    backend_version: Text = ""
    environment: Environment = Field(default_factory=dict)
    command: Text = ""
    """The command that measures this record alone."""
    started_at: str = ""
    seconds: float = 0.0
    """Wall time of the whole measurement, set-up included."""

    @model_validator(mode="before")
    @classmethod
    def _lifted(cls, line: Any) -> Any:  # noqa: ANN401 - whatever a line holds
        """A line of schema 1 in today's words."""
        if not isinstance(line, dict):
            return line
        schema = line.get("schema_version", 1)
        if type(schema) is not int or schema not in (1, SCHEMA):
            raise ValueError(
                f"schema_version is {schema!r}, and 1 and {SCHEMA} are known: a later version of "
                "this program may have written it"
            )
        if schema == SCHEMA or not isinstance(line.get("contestant"), dict):
            return line
        if lacking := {"backend", "transport"} - line["contestant"].keys():
            raise ValueError(
                f"schema_version is {schema}, whose contestants have a {min(lacking)}, and this "
                "has none"
            )
        old = {"slots": 2, "gradients": "float32", **line["contestant"]}
        way, settings = old.pop("transport"), {n: old.pop(n) for n in ("slots", "gradients")}
        played = "loopback" if way == "loopback" else "real"
        if is_peer(str(old["backend"])):
            options = None
        else:
            options = settings if played == "loopback" else {"transport": way, **settings}
        contestant = {**old, "options": options, "played": played}
        return {**line, "schema_version": SCHEMA, "contestant": contestant}

    @model_serializer(mode="wrap")
    def _with_schema(self, fields: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """The fields with the schema's version, also where defaults are left out."""
        return {"schema_version": self.schema_version, **fields(self)}

    @model_validator(mode="after")
    def _speed_only_if_right(self) -> Self:
        if self.speed is not None and self.status is not Status.OK:
            raise ValueError(f"a record of status {self.status.value!r} must not carry a speed")
        if self.status is not Status.OK and not self.reason:
            raise ValueError(f"a record of status {self.status.value!r} needs its reason")
        return self

    @property
    def slowest_rank(self) -> SlowestRank | None:
        """The rank that takes longest; None where ranks are not timed apart, or played."""
        if self.speed is None or self.contestant.playing:
            return None
        return slowest(self.speed.samples.ring, self.speed.imbalance)

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the record within a run."""
        return self.case.name, self.contestant.name, self.direction.value


def append(path: Path, record: Record) -> None:
    """Writes the record as one line and waits until it is on disk; raises FileError."""
    files.append(path, record.model_dump_json(exclude_defaults=True))


def mend(path: Path, tell: json_lines.Tell) -> None:
    """Takes half a record that a crash has left at its end out of the file; raises FileError."""
    json_lines.mend(path, Record, "record", tell)


def read(path: Path, tell: json_lines.Tell = lambda sentence: None) -> Iterator[Record]:
    """The records of a `records.jsonl` or `.jsonl.gz`.

    Raises FileError for a line that is no record. One that was cut off by a crash is skipped, and
    `tell` hears of it.
    """
    return json_lines.read(path, Record, "record", '{"schema_version":', tell)
