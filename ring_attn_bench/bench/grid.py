"""One grid of a suite: lists, every combination of which is a case and a contestant."""

from __future__ import annotations

import re
from functools import cache, partial
from itertools import product
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, create_model, model_validator

from ring_attn_bench import registry
from ring_attn_bench.bench.cache_axes import UNSET, CacheAxes
from ring_attn_bench.bench.documents import check_word
from ring_attn_bench.errors import InvalidArgument, UnknownName, clause, shown
from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.partition import PARTITIONS, get_partition
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.values import MOST, Frozen
from ring_attn_bench.ring.options import DEFAULTS, NAMELESS, RingOptions

# strict: `true` is no number and 1 is no switch, though Python takes one for the other
number = partial(Field, strict=True)
Positive = Annotated[int, number(gt=0, le=MOST)]
Switch = Annotated[bool, Field(strict=True)]
Side = Annotated[int, number(ge=-MOST, le=MOST)]
Window = tuple[Side, Side]
MOST_ENTRIES = 20_000
"""Of a suite: as many take days to measure, and seconds to count."""
_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Its smallest and largest number: kernels compute in it."""


def _known_backend(name: str) -> str:
    registry.check_known(name)  # its UnknownName is a ValueError
    return name


def _known_partition(name: str) -> str:
    if name not in DEALS and name not in PARTITIONS:
        raise UnknownName("partition", name, (*PARTITIONS, *DEALS))  # as above
    return name


def _documents(word: Any) -> str | None:  # noqa: ANN401 - whatever a file holds
    if not isinstance(word, str):
        raise ValueError(f"{shown(word)} is no word")
    return None if word == UNSET else check_word(word)


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


Softcap = Annotated[float, number(ge=0, allow_inf_nan=False), AfterValidator(_is_float32)]
BackendName = Annotated[str, AfterValidator(_known_backend)]
PartitionName = Annotated[str, AfterValidator(_known_partition)]
Heads = Annotated[str, AfterValidator(_heads_divide)]
Documents = Annotated[str | None, BeforeValidator(_documents)]


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


def check_count(count: int) -> None:
    """Raises a ValueError for more combinations than anybody can wait for."""
    if count > MOST_ENTRIES:
        raise ValueError(
            f"its lists come to {count:,} combinations, and a suite has at most {MOST_ENTRIES:,}; "
            "shorten some of them, or make several suites"
        )


LENGTHS = ("seqlen_per_gpu", "seqlen_total")
"""Keys of a grid of which it has one."""


class Grid(CacheAxes, _Axes):  # type: ignore[valid-type, misc]  # a class that mypy cannot see
    """Every combination of its lists is one case x contestant: `RingOptions`' fields are axes too.

    transport: unless the grid says, the one that serves every group.
    """

    backends: Annotated[list[BackendName], Field(min_length=1)]
    """Kernels in our ring, and other people's whole rings as "peer:package[kernel,variant]"."""
    partitions: Annotated[list[PartitionName], Field(min_length=1)] = ["zigzag"]
    seqlen_per_gpu: list[Positive] = []
    seqlen_total: list[Positive] = []
    """Of all ranks together, in place of `seqlen_per_gpu`: the same work on any number of them."""
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
    documents: Annotated[list[Documents], Field(min_length=1)] = [None]
    """Of which sequences are packed, as `documents` reads them; None is one sequence."""
    directions: Annotated[list[Direction], Field(min_length=1)] = list(Direction)

    @model_validator(mode="after")
    def _is_not_too_large(self) -> Self:
        check_count(self.count)  # before it is multiplied out, which is silent
        return self

    @property
    def count(self) -> int:
        """How many combinations there are, before repetitions are left out."""
        others = (name for name in Grid.model_fields if name not in ("directions", *LENGTHS))
        lengths = sum(len(getattr(self, name)) for name in LENGTHS)
        return lengths * prod(len(getattr(self, name)) for name in others)

    @model_validator(mode="after")
    def _has_lengths(self) -> Self:
        if bool(self.seqlen_per_gpu) == bool(self.seqlen_total):
            raise ValueError(
                "a grid has tokens for each rank (seqlen_per_gpu) or of all ranks together "
                "(seqlen_total), in a list; it must have one of the two"
            )
        return self

    def totals(self, world_size: int) -> list[int]:
        """Tokens of all ranks together."""
        return self.seqlen_total or [tokens * world_size for tokens in self.seqlen_per_gpu]

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        self.options()  # what it raises is a ValueError
        return self

    @model_validator(mode="after")
    def _are_one_row_of_documents(self) -> Self:
        if any(self.documents) and self.batch != [1]:
            raise ValueError(
                "documents are packed into one row of tokens, and batch is "
                f"{self.batch}; leave batch out, and say how many tokens there are"
            )
        deals = [name for name in self.partitions if name in DEALS]
        if deals and not all(self.documents):
            raise ValueError(
                f"partition {deals[0]!r} deals packed documents, each batch by itself; say which, "
                'as documents = ["histogram:0"], and nothing else in this grid'
            )
        return self

    @model_validator(mode="after")
    def _can_be_dealt(self) -> Self:
        """Whatever the number of ranks: a length that fits one fits all."""
        if self.is_over_a_cache:  # of any length
            return self
        for partition in (name for name in self.partitions if name not in DEALS):
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
