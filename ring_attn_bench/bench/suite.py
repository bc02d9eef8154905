"""A suite file (TOML) as a frozen value, checked in full before any process is launched."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from ring_attn_bench import registry
from ring_attn_bench.bench.documents import dealt_of, rule_of
from ring_attn_bench.bench.grid import Grid, Positive, Switch, check_count, number
from ring_attn_bench.errors import InvalidArgument, SuiteError, UnknownName, clause, shown
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.records.cache_shape import DEALT
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.records.values import MOST, MOST_RANKS, Frozen
from ring_attn_bench.ring.options import DEFAULTS, NAMELESS, RingOptions
from ring_attn_bench.ring.settle import layout_of

Seconds = Annotated[float, number(gt=0, allow_inf_nan=False)]
Ranks = Annotated[int, number(gt=0, le=MOST_RANKS)]


class Timing(Frozen):
    """When to stop sampling. A sample is one call on every rank, the slowest rank counting."""

    enabled: Switch = True
    warmup: Annotated[int, number(ge=0, le=MOST)] = 3
    min_samples: Annotated[int, number(ge=3, le=MOST)] = 10
    max_samples: Positive = 50
    precision: Annotated[float, number(gt=0, lt=1)] = 0.01
    """Sampling ends when the 95 % interval of the median is within this share of it."""
    seconds: Seconds = 10.0
    """... or when this long has been spent on one contestant and direction."""
    ceilings: Switch = True
    """Whether a matrix product, a copy and the link are measured before anything else."""
    graphs: Switch = True
    """Whether calls over a cache are timed in a CUDA graph too, where there is a GPU."""
    ring_graph_tokens: Annotated[int, number(ge=0, le=MOST)] = 0
    """Up to how many tokens of a sequence on each GPU a ring, and the one call beside it, are timed
    in CUDA graphs too. A longer one takes longer than the host that launches it."""

    def wants_graphs_of(self, case: Case) -> bool:
        """Whether its calls are timed in CUDA graphs too."""
        if case.cache is not None:
            return self.enabled and self.graphs
        return self.enabled and case.seqlen_per_gpu <= self.ring_graph_tokens

    @model_validator(mode="after")
    def _samples_fit(self) -> Self:
        if self.max_samples < self.min_samples:
            raise ValueError(
                f"max_samples is {self.max_samples} and min_samples {self.min_samples}; "
                "max_samples must be at least as many"
            )
        return self


class Check(Frozen):
    """How results are compared with float64."""

    full_up_to: Positive = 8192
    """Longest sequence that is compared row by row; beyond it, sampled rows are."""
    sampled_rows: Positive = 256
    invariants: Switch = True
    """Whether what needs no truth is asked too, of every row."""


class Entry(Frozen):
    """One case x contestant of a suite, and the directions wanted of it."""

    case: Case
    contestant: Contestant
    directions: tuple[Direction, ...]


class Suite(Frozen):
    """Which cases and contestants to run, and how they are judged and timed."""

    name: Annotated[str, Field(max_length=64)]
    """The suite's name, which is part of a folder's."""
    description: str = ""
    seed: Annotated[int, number(ge=0, lt=2**63)] = 0
    world_size: Ranks | None = None
    """Ranks; None is by the machine: one for each GPU, 4 by loopback on one GPU, 2 on a CPU."""
    as_ranks: list[Ranks] = []
    """Larger rings that are played instead, by their ranks: on two GPUs (or more, in pairs)."""
    playing: str = "ends"
    """Who plays whom there: a word of `setup.PLAYING`, or a rank for each process, as 0+3."""
    case_seconds: Seconds = 300.0
    """Time limit for one command to a worker group; what does not answer by then is killed."""
    timing: Timing = Timing()
    check: Check = Check()
    grid: Annotated[list[Grid], Field(min_length=1)]
    _file: Path | None = PrivateAttr(default=None)
    """Where it was read, for what only shows when it is dealt to ranks."""

    @model_validator(mode="after")
    def _is_not_too_large(self) -> Self:
        check_count(sum(grid.count for grid in self.grid))
        return self

    @field_validator("name")
    @classmethod
    def _name_of_a_folder(cls, name: str) -> str:
        if (
            not name.isprintable()
            or name != name.strip()
            or name[:1] in ("", ".")
            or (set(name) & {"/", "\\"})
        ):
            raise ValueError(
                f"{name!r} becomes part of a folder's name: it must not be empty, begin with a "
                "dot, begin or end with a space, or hold a slash, backslash or line break"
            )
        return name

    @property
    def backends(self) -> frozenset[str]:
        """All backends and peers that a grid names."""
        return frozenset(name for grid in self.grid for name in grid.backends)

    def adding(self, backends: tuple[str, ...]) -> Suite:
        """The same with, in every grid, those of the backends that none of its grids names."""
        new = [name for name in backends if name not in self.backends]
        grids = [grid.model_copy(update={"backends": [*grid.backends, *new]}) for grid in self.grid]
        return self.model_copy(update={"grid": grids})

    def entries(
        self, world_size: int, played: str, playing: tuple[int, ...] = ()
    ) -> tuple[Entry, ...]:
        """The suite on that many ranks, without repetitions.

        played, playing: as in `Contestant`. Raises SuiteError for what cannot be dealt to them.

        Case by case, whichever grids its contestants are from: they are timed in turns.
        """
        cases: dict[str, dict[str, Entry]] = {}
        for place, grid in enumerate(self.grid):
            try:
                for entry in _entries(grid, world_size, played, playing):
                    cases.setdefault(entry.case.name, {}).setdefault(entry.contestant.name, entry)
            except InvalidArgument as error:
                where = f"suite {self.name!r}" if self._file is None else str(self._file)
                raise SuiteError(f"{where}: grid.{place}: {error}") from None
        return tuple(entry for of_case in cases.values() for entry in of_case.values())


def _entries(grid: Grid, world_size: int, played: str, playing: tuple[int, ...]) -> Iterator[Entry]:
    shapes = product(
        grid.dtype, grid.causal, grid.window, grid.softcap, grid.deterministic,
        grid.heads, grid.head_dim, grid.batch, grid.totals(world_size),
        product(grid.caches(), grid.documents),
    )  # fmt: skip
    for dtype, causal, window, softcap, same_bits, heads, head_dim, batch, total, of in shapes:
        cache, documents = of
        heads_q, heads_kv = map(int, heads.split(":"))
        case = Case(
            batch=batch,
            seqlen_total=total,
            world_size=world_size,
            heads_q=heads_q,
            heads_kv=heads_kv,
            head_dim=head_dim,
            dtype=dtype,
            causal=causal,
            window=window,
            softcap=softcap,
            deterministic=same_bits,
            cache=cache,
            documents=documents,
        )
        if cache is not None:
            yield from _over_cache(case, grid.backends, played, playing)
            continue
        mask = Mask.from_window_size(causal, window)
        for partition, backend, options in product(grid.partitions, grid.backends, grid.options()):
            rule_of(case, partition).tokens_per_rank(case.seqlen_total, world_size)
            if world_size == 1:
                # it holds the whole sequence, whatever the partition is called, and moves nothing
                partition = "contiguous"
                options = RingOptions(**{**NAMELESS, "transport": options.transport})
            rule, dealt = rule_of(case, partition), dealt_of(case, partition)
            apart = None if dealt is None else dealt.apart
            where = rule, world_size, case.seqlen_per_gpu, mask
            layout_of(*where, options, documents=apart)
            contestant = _contestant(backend, partition, options, played)
            contestant = contestant.model_copy(update={"playing": playing})
            yield Entry(case=case, contestant=contestant, directions=tuple(grid.directions))


def _over_cache(
    case: Case, backends: Sequence[str], played: str, playing: tuple[int, ...]
) -> Iterator[Entry]:
    """A cache is dealt by blocks, and no option of a ring says anything of it."""
    cache, tokens = case.cache, case.seqlen_total
    assert cache is not None  # the caller has asked
    if cache.queries + cache.leftpad > tokens:
        raise InvalidArgument(
            f"queries is {cache.queries} and leftpad {cache.leftpad}, of entries of {tokens} "
            "tokens; together they must be at most as many."
        )
    if cache.rotary and case.head_dim % 2:
        raise InvalidArgument(f"head_dim is {case.head_dim}; it must be even where rotary is set.")
    if cache.latent and cache.head_dim_v is not None and cache.head_dim_v >= case.head_dim:
        raise InvalidArgument(
            f"head_dim_v is {cache.head_dim_v} and head_dim {case.head_dim}; the values of latent "
            "keys are their first columns, and fewer than all."
        )
    partition = "contiguous" if case.world_size == 1 else DEALT
    options = RingOptions(**{**NAMELESS, "transport": registry.EVERYWHERE})
    for backend in backends:
        contestant = _contestant(backend, partition, options, played)
        contestant = contestant.model_copy(update={"playing": playing})
        yield Entry(case=case, contestant=contestant, directions=(Direction.FORWARD,))


def _contestant(backend: str, partition: str, options: RingOptions, played: str) -> Contestant:
    own: RingOptions | None = options
    if registry.is_peer(backend):  # our options are not its own
        own = None
    elif played == "loopback":  # nothing travels by a transport
        own = replace(options, transport=DEFAULTS["transport"])
    return Contestant(backend=backend, partition=partition, options=own, played=played)


def load(path: Path, change: Callable[[dict[str, Any]], object] = lambda table: None) -> Suite:
    """The suite in a TOML file, whose tables are changed before they are checked.

    Raises SuiteError for anything else: file, key and what is allowed, for all that is wrong.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SuiteError(f"cannot read suite {path}: {clause(error.strerror or error)}.") from None
    except RecursionError:
        raise SuiteError(f"{path} is no suite: its lists are nested too deep to be read.") from None
    except ValueError as error:  # TOML's own too, and what Python says of 5000 digits
        why = clause(str(error).partition(";")[0])
        raise SuiteError(f"{path} is not valid TOML: {why}.") from None
    change(table)
    try:
        suite = Suite.model_validate(table)
        suite._file = path
        return suite
    except ValidationError as error:
        problems = [_sentence(problem) for problem in error.errors()]
    if len(problems) == 1:
        raise SuiteError(f"{path}: {problems[0]}")
    lines = "\n  ".join([f"{path} has {len(problems)} problems:", *problems])
    raise SuiteError(lines)


def _sentence(problem: ErrorDetails) -> str:
    """What is wrong, with its key and, for an unknown key, the keys that there are."""
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        *table, unknown = problem["loc"]
        known = _model_at(table).model_fields
        text = str(UnknownName("key", str(unknown), known))
        where = f"in {'.'.join(map(str, table))}: " if table else ""
        return f"{where}{text}"
    is_said = problem["type"] in {"missing", "value_error"}
    got = "" if is_said else f", got {shown(problem['input'])}"
    message = clause(problem["msg"].removeprefix("Value error, "))
    is_window = "window" in problem["loc"]
    allowed = "; a window is [before, after], as [4096, 0], or none: [-1, -1]" if is_window else ""
    return f"{key}: {message}{got}{allowed}."


def _model_at(loc: list[int | str]) -> type[Frozen]:
    models: dict[str, type[Frozen]] = {"grid": Grid, "timing": Timing, "check": Check}
    return models[str(loc[0])] if loc else Suite
