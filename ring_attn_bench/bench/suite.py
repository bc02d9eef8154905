"""A suite file (TOML) as a frozen value, checked in full before any process is launched."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from ring_attn_bench import registry
from ring_attn_bench.errors import InvalidArgument, SuiteError, UnknownName, clause, shown
from ring_attn_bench.plan.partition import get_partition
from ring_attn_bench.plan.problem import Mask
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case, Contestant
from ring_attn_bench.records.values import MOST, MOST_RANKS, Frozen
from ring_attn_bench.ring.options import DEFAULTS, NAMELESS, RingOptions
from ring_attn_bench.ring.settle import layout_of

UNSET = "unset"
"""What stands for None, which TOML cannot say; results.csv says so too."""
# strict: `true` is no number and 1 is no switch, though Python takes one for the other
_number = partial(Field, strict=True)
Positive = Annotated[int, _number(gt=0, le=MOST)]
Seconds = Annotated[float, _number(gt=0, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]
Side = Annotated[int, _number(ge=-MOST, le=MOST)]
Window = tuple[Side, Side]
MOST_ENTRIES = 20_000
"""Of a suite: as many take days to measure, and seconds to count."""
_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Its smallest and largest number: kernels compute in it."""
Ranks = Annotated[int, _number(gt=0, le=MOST_RANKS)]


def _known_backend(name: str) -> str:
    registry.check_known(name)  # its UnknownName is a ValueError
    return name


def _known_partition(name: str) -> str:
    get_partition(name)  # as above
    return name


def _heads_divide(pair: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,99}:[1-9]\d{0,99}", pair, re.ASCII):
        raise ValueError(f'{pair!r} must be query heads and key heads, as "32:8"')
    heads_q, heads_kv = map(int, pair.split(":"))
    if max(heads_q, heads_kv) > MOST:
        raise ValueError(f"{pair!r}: there cannot be more than {MOST} heads")
    if heads_q % heads_kv:
        raise ValueError(
            f"{pair!r}: the {heads_q} query heads must be a multiple of the {heads_kv} key heads"
        )
    return pair


def _is_float32(softcap: float) -> float:
    least, most = _FLOAT32
    if softcap and not least <= softcap <= most:
        raise ValueError(
            f"{softcap} must be 0 (none) or positive, in float32 too ({least:.3g} to {most:.3g})"
        )
    return softcap


Softcap = Annotated[float, _number(ge=0, allow_inf_nan=False), AfterValidator(_is_float32)]
BackendName = Annotated[str, AfterValidator(_known_backend)]
PartitionName = Annotated[str, AfterValidator(_known_partition)]
Heads = Annotated[str, AfterValidator(_heads_divide)]


class Timing(Frozen):
    """When to stop sampling. A sample is one call on every rank, the slowest rank counting."""

    enabled: Switch = True
    warmup: Annotated[int, _number(ge=0, le=MOST)] = 3
    min_samples: Annotated[int, _number(ge=3, le=MOST)] = 10
    max_samples: Positive = 50
    precision: Annotated[float, _number(gt=0, lt=1)] = 0.01
    """Sampling ends when the 95 % interval of the median is within this share of it."""
    seconds: Seconds = 10.0
    """... or when this long has been spent on one contestant and direction."""

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


def _option(value: Any, *, name: str) -> Any:  # noqa: ANN401 - RingOptions judges
    """One value of one option, as RingOptions takes it; what that raises is a ValueError."""
    plain = tuple(value) if isinstance(value, list) else value
    if plain == UNSET and _may_be_none(name):
        plain = None
    for size in plain if isinstance(plain, tuple) else (plain,):
        if isinstance(size, int) and size > MOST:
            raise ValueError(f"{shown(size)} is more than the {MOST} that there can be")
    one: dict[str, Any] = {name: plain}
    try:
        RingOptions(**one)
    except InvalidArgument as error:
        if not _may_be_none(name):
            raise
        tuples = "a tuple is a list and " if name == "grouping" else ""
        raise InvalidArgument(f"{clause(error)}; in a suite {tuples}None is {UNSET!r}.") from None
    return plain


@cache
def _may_be_none(name: str) -> bool:
    none: dict[str, Any] = {name: None}
    try:
        RingOptions(**none)
    except (InvalidArgument, UnknownName):
        return False
    return True


def _axis(name: str) -> Any:  # noqa: ANN401 - a type, made here
    check = AfterValidator(partial(_option, name=name))
    return Annotated[list[Annotated[Any, check]], Field(min_length=1)]


_AXES: dict[str, Any] = {
    name: (_axis(name), [default])
    for name, default in {**NAMELESS, "transport": registry.EVERYWHERE}.items()
}
"""For every option an axis, which leaves it at what names leave out."""
_Axes = create_model("_Axes", __base__=Frozen, **_AXES)


def _check_count(count: int) -> None:
    """Raises a ValueError for more combinations than anybody can wait for."""
    if count > MOST_ENTRIES:
        raise ValueError(
            f"its lists come to {count:,} combinations, and a suite has at most {MOST_ENTRIES:,}; "
            "shorten some of them, or make several suites"
        )


class Grid(_Axes):  # type: ignore[valid-type, misc]  # a class that mypy cannot see
    """Every combination of its lists is one case x contestant: `RingOptions`' fields are axes too.

    transport: unless the grid says, the one that serves every group.
    """

    backends: Annotated[list[BackendName], Field(min_length=1)]
    """Kernels in our ring, and other people's whole rings as "peer:package[kernel,variant]"."""
    partitions: Annotated[list[PartitionName], Field(min_length=1)] = ["zigzag"]
    seqlen_per_gpu: Annotated[list[Positive], Field(min_length=1)]
    batch: Annotated[list[Positive], Field(min_length=1)] = [1]
    heads: Annotated[list[Heads], Field(min_length=1)]
    """Query heads and key heads, "32:8"."""
    head_dim: Annotated[list[Positive], Field(min_length=1)]
    dtype: Annotated[
        list[Literal["float16", "bfloat16", "float32", "float64"]], Field(min_length=1)
    ]
    causal: Annotated[list[Switch], Field(min_length=1)] = [True]
    window: Annotated[list[Window], Field(min_length=1)] = [(-1, -1)]
    """flash-attn's window_size: keys before and after a query, -1 for all."""
    softcap: Annotated[list[Softcap], Field(min_length=1)] = [0.0]
    deterministic: Annotated[list[Switch], Field(min_length=1)] = [False]
    directions: Annotated[list[Direction], Field(min_length=1)] = list(Direction)

    @model_validator(mode="after")
    def _is_not_too_large(self) -> Self:
        _check_count(self.count)  # before it is multiplied out, which is silent
        return self

    @property
    def count(self) -> int:
        """How many combinations there are, before repetitions are left out."""
        axes = (getattr(self, name) for name in Grid.model_fields if name != "directions")
        return prod(len(axis) for axis in axes)

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        self.options()  # what it raises is a ValueError
        return self

    @model_validator(mode="after")
    def _can_be_dealt(self) -> Self:
        """Whatever the number of ranks: a length that fits one fits all."""
        for partition in self.partitions:
            unit = get_partition(partition).chunks_per_rank
            for place, tokens in enumerate(self.seqlen_per_gpu):
                if tokens % unit:
                    raise ValueError(
                        f"seqlen_per_gpu.{place} is {tokens}, but partition {partition!r} deals "
                        f"each rank {unit} chunks, and needs a multiple of {unit}"
                    )
        return self

    def options(self) -> list[RingOptions]:
        """Every combination of them; raises UnknownName or InvalidArgument."""
        axes = (getattr(self, name) for name in DEFAULTS)
        return [RingOptions(*values) for values in product(*axes)]


class Entry(Frozen):
    """One case x contestant of a suite, and the directions wanted of it."""

    case: Case
    contestant: Contestant
    directions: tuple[Direction, ...]


class Suite(Frozen):
    """Which cases and contestants to run, and how they are judged and timed."""

    name: Annotated[str, Field(max_length=64)]
    """Part of a folder's name."""
    description: str = ""
    seed: Annotated[int, _number(ge=0, lt=2**63)] = 0
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
        _check_count(sum(grid.count for grid in self.grid))
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
        """All that a grid names."""
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
        grid.heads, grid.head_dim, grid.batch, grid.seqlen_per_gpu,
    )  # fmt: skip
    for dtype, causal, window, softcap, deterministic, heads, head_dim, batch, seqlen in shapes:
        heads_q, heads_kv = map(int, heads.split(":"))
        case = Case(
            batch=batch,
            seqlen_total=seqlen * world_size,
            world_size=world_size,
            heads_q=heads_q,
            heads_kv=heads_kv,
            head_dim=head_dim,
            dtype=dtype,
            causal=causal,
            window=window,
            softcap=softcap,
            deterministic=deterministic,
        )
        mask = Mask.from_window_size(causal, window)
        for partition, backend, options in product(grid.partitions, grid.backends, grid.options()):
            tokens = get_partition(partition).tokens_per_rank(case.seqlen_total, world_size)
            if world_size == 1:
                # it holds the whole sequence, whatever the partition is called, and moves nothing
                partition = "contiguous"
                options = RingOptions(**{**NAMELESS, "transport": options.transport})
            layout_of(partition, world_size, tokens, mask, options)
            contestant = _contestant(backend, partition, options, played)
            contestant = contestant.model_copy(update={"playing": playing})
            yield Entry(case=case, contestant=contestant, directions=tuple(grid.directions))


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
    got = (
        "" if problem["type"] in {"missing", "value_error"} else f", got {shown(problem['input'])}"
    )
    message = clause(problem["msg"].removeprefix("Value error, "))
    return f"{key}: {message}{got}."


def _model_at(loc: list[int | str]) -> type[Frozen]:
    models: dict[str, type[Frozen]] = {"grid": Grid, "timing": Timing, "check": Check}
    return models[str(loc[0])] if loc else Suite
