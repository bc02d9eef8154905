"""Configurations as data: what a program takes at a time, for a head dim.

What each needs of registers and shared memory was found by compiling it, and is held against the
compiler by `tests/unit/backends/test_cute_compile.py`; what each takes, by `scripts/cute_check.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

Dtype = Literal["float16", "bfloat16", "float32", "int32"]
Kernel = Literal[
    "forward", "backward_dkdv", "backward_dk", "backward_dv", "backward_dq", "backward_adding",
    "gathered.forward", "gathered.backward_dkdv", "gathered.backward_dk", "gathered.backward_dv",
    "gathered.backward_dq", "gathered.backward_adding",
    "packed.forward", "packed.backward_dkdv", "packed.backward_dq",
]  # fmt: skip
OF_KEYS: tuple[Kernel, ...] = "backward_dkdv", "backward_dk", "backward_dv"
"""Those of keys' gradients: of both, and where registers do not hold that, of each."""
GATHERED: dict[Kernel, Kernel] = {
    "forward": "gathered.forward", "backward_dq": "gathered.backward_dq",
    "backward_dkdv": "gathered.backward_dkdv", "backward_dk": "gathered.backward_dk",
    "backward_dv": "gathered.backward_dv", "backward_adding": "gathered.backward_adding",
}  # fmt: skip
"""By the kernel of one block, that over gathered keys."""
WARPGROUP = 128
"""Threads that multiply together."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a program takes: 64 * groups rows, `block` keys at a time; for dk and dv keys and rows.

    width: head dim of q and k. groups: warpgroups that multiply; one more brings tiles.
    stages: how many tiles of keys, and of values, are on their way or in use. lazy: whether a warp
        leaves sums alone in a tile where none of its 16 rows has a new peak: fewer the longer it
        goes on, and the same numbers to the last bit; of the forward only. ahead: whether a tile's
        first products are asked for while the last one of the tile before it runs; of the backward
        only. shown: how many tiles of gradients of scores lie in shared memory, where dq is added
        to. width_v: head dim of v; 0 is told for the same.
    """

    width: int
    block: int
    stages: int
    groups: int
    lazy: bool = True
    ahead: bool = True
    shown: int = 0
    width_v: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "width_v", self.width_v or self.width)

    @property
    def own(self) -> int:
        """The rows, or keys, of a program."""
        return 64 * self.groups

    @property
    def threads(self) -> int:
        """Of a program."""
        return WARPGROUP * (self.groups + 1)

    @property
    def split(self) -> tuple[int, int]:
        """Of a tile of dq that all warpgroups share: by how many of them its rows, its columns."""
        by_rows = self.block // 64
        return by_rows, self.groups // by_rows

    @property
    def registers(self) -> tuple[int, int]:
        """Of a thread that multiplies, and of one that brings tiles: 65536 in all, at most."""
        return {1: (240, 56), 2: (240, 24), 3: (160, 32)}[self.groups]

    def __str__(self) -> str:
        return (
            f"{self.own}x{self.block} d{self.width}"
            + f"-{self.width_v}" * (self.width_v != self.width)
            + f" s{self.stages}"
            + " eager" * (not self.lazy)
            + " apart" * (not self.ahead)
            + f" {self.shown} shown" * (self.shown > 0)
        )


@dataclass(frozen=True, slots=True)
class Build:
    """All that a kernel is compiled for: numbers, strides and positions are told at run time.

    dtype: of q, k and v, of 16 bits. out: of what is written. capped: a softcap. carried: it goes
    on from an out in float32 and an lse, or adds to gradients in float32. away: of gradients of
    keys from other ranks, which a kernel over gathered keys writes to a place of their own.
    """

    config: Config
    dtype: Dtype
    out: Dtype
    capped: bool = False
    carried: bool = False
    kernel: Kernel = "forward"
    away: Dtype | None = None

    @property
    def source(self) -> str:
        """The module that has the kernel: dk alone, and dv alone, are in that of both."""
        return self.kernel[:-2] + "dkdv" if self.kernel[-3:] in ("_dk", "_dv") else self.kernel

    @property
    def has_dk(self) -> bool:
        """Whether a kernel of keys' gradients adds dk up."""
        return not self.kernel.endswith("_dv")

    @property
    def has_dv(self) -> bool:
        """Whether it adds dv up."""
        return not self.kernel.endswith("_dk")

    @property
    def tile_bytes(self) -> int:
        """Of shared memory, for tiles; barriers take a little more."""
        config, is_forward = self.config, self.kernel.endswith("forward")
        both = config.width + config.width_v
        keeps_one = is_forward or not self.has_dk
        own = config.own * (config.width if keeps_one else both)  # q or k; q and dout, k and v
        tiles = 2 * (own + both * config.stages * config.block)
        vectors = 2 * 4 * config.stages * config.block  # of lse and delta
        if self.kernel.endswith("backward_adding"):
            shown = 2 * config.shown * config.own * config.block
            return tiles + vectors + shown + 4 * config.block * config.width
        return tiles + (vectors if self.source.endswith("backward_dkdv") else 0)

    def __str__(self) -> str:
        marks = " capped" * self.capped + " carried" * self.carried
        away = f" and {self.away}" if self.away else ""
        return f"{self.kernel} {self.config} {self.dtype} to {self.out}{away}{marks}"


TABLE: dict[int, Config] = {
    64: Config(width=64, block=128, stages=3, groups=3, lazy=False),
    128: Config(width=128, block=128, stages=2, groups=2),
}
"""By head dim. FlashAttention-3 has the same tiles (Shah et al. 2024) but for 128 without a mask,
where it takes 176 keys: a candidate here."""

MORE_ROWS: dict[int, tuple[Config, float]] = {128: (Config(128, 80, 2, 3), 1.04)}
"""What is faster by so much where it leaves few multiprocessors idle: README.md, What it takes."""


def serving() -> tuple[Config, ...]:
    """All that `chosen` may choose."""
    return *TABLE.values(), *(config for config, _ in MORE_ROWS.values())


def chosen(width: int, rows: int, heads: int, multiprocessors: int) -> Config:
    """The forward's, for so many rows of so many heads of all entries."""
    usual = TABLE[width]
    if width not in MORE_ROWS:
        return usual

    def turns(config: Config) -> int:
        return math.ceil(-(-rows // config.own) * heads / multiprocessors)

    large, pace = MORE_ROWS[width]
    is_faster = turns(large) * large.own < pace * turns(usual) * usual.own
    return large if is_faster else usual


CANDIDATES: dict[int, tuple[Config, ...]] = {
    64: (
        TABLE[64],
        replace(TABLE[64], lazy=True),
        Config(64, 128, 2, 3),
        Config(64, 192, 2, 2),
        Config(64, 128, 3, 2),
    ),
    128: (
        TABLE[128],
        replace(TABLE[128], lazy=False),
        Config(128, 176, 2, 2),
        Config(128, 144, 2, 2),
        MORE_ROWS[128][0],
    ),
    96: (
        Config(96, 128, 2, 2),
        Config(96, 144, 2, 2),
        Config(96, 160, 2, 2),
        Config(96, 96, 2, 3),
        Config(96, 80, 2, 3),
    ),
    192: (
        Config(192, 128, 2, 2, width_v=128),
        Config(192, 112, 2, 2, width_v=128),
        Config(192, 80, 2, 3, width_v=128),
    ),
    256: (Config(256, 80, 2, 2), Config(256, 64, 2, 2)),
}
"""What is to be timed."""

FIRST_ONLY = frozenset({Config(128, 176, 2, 2)})
"""Those of them that do not go on from running sums: they would spill 512 bytes."""

BACKWARD: dict[tuple[Kernel, int], Config] = {
    ("backward_dkdv", 64): Config(width=64, block=96, stages=3, groups=2),
    ("backward_dkdv", 128): Config(width=128, block=64, stages=3, groups=2),
    ("backward_dq", 64): Config(width=64, block=64, stages=3, groups=3, ahead=False),
    ("backward_dq", 128): Config(width=128, block=128, stages=2, groups=2, ahead=False),
}
"""By kernel and head dim."""


def proposed(
    widths: Iterable[int],
) -> tuple[dict[int, Config], dict[tuple[Kernel, int], Config]]:
    """What `TABLE` and `BACKWARD` would have of head dims that they lack: of candidates the first.

    For tests, and for checks that come before anything is in those tables.
    """
    more = [width for width in widths if width not in TABLE]
    backward = {
        (kernel, width): configs[0]
        for (kernel, width), configs in BACKWARD_CANDIDATES.items()
        if width in more
        and (kernel not in OF_KEYS[1:] or (OF_KEYS[0], width) not in BACKWARD_CANDIDATES)
    }
    return {width: CANDIDATES[width][0] for width in more}, backward


def of_keys(width: int) -> tuple[Kernel, ...]:
    """The launches that make dk and dv, as `BACKWARD` has them; none if it has not."""
    both, *each = OF_KEYS
    if (both, width) in BACKWARD:
        return (both,)
    return tuple(each) if all((kernel, width) in BACKWARD for kernel in each) else ()


def head_dims(*, backward: bool) -> dict[int, int]:
    """What is served, of v by that of q and k; backward: with gradients."""
    return {
        width: config.width_v
        for width, config in TABLE.items()
        if not backward or (("backward_dq", width) in BACKWARD and of_keys(width))
    }


BACKWARD_CANDIDATES: dict[tuple[Kernel, int], tuple[Config, ...]] = {
    ("backward_dkdv", 64): (
        BACKWARD["backward_dkdv", 64],
        Config(64, 64, 3, 2),
        Config(64, 128, 2, 2, ahead=False),
    ),
    ("backward_dkdv", 128): (
        BACKWARD["backward_dkdv", 128],
        replace(BACKWARD["backward_dkdv", 128], ahead=False),
        Config(128, 64, 2, 2),
        Config(128, 80, 2, 2, ahead=False),
    ),
    ("backward_dq", 64): (
        BACKWARD["backward_dq", 64],
        replace(BACKWARD["backward_dq", 64], ahead=True),
        Config(64, 128, 2, 2),
    ),
    ("backward_dq", 128): (
        BACKWARD["backward_dq", 128],
        Config(128, 64, 2, 3, ahead=False),
        Config(128, 96, 2, 2),
        Config(128, 64, 3, 2),
    ),
    ("backward_dkdv", 96): (
        Config(96, 64, 3, 2),
        Config(96, 64, 3, 2, ahead=False),
        Config(96, 80, 2, 2),
        Config(96, 80, 2, 2, ahead=False),
    ),
    ("backward_dq", 96): (
        Config(96, 128, 2, 2, ahead=False),
        Config(96, 128, 2, 2),
        Config(96, 64, 2, 3, ahead=False),
        Config(96, 80, 2, 3, ahead=False),
    ),
    ("backward_dkdv", 192): (
        Config(192, 32, 3, 2, width_v=128),
        Config(192, 48, 2, 2, ahead=False, width_v=128),
    ),
    ("backward_dk", 192): (
        Config(192, 80, 2, 2, width_v=128),
        Config(192, 64, 2, 2, ahead=False, width_v=128),
    ),
    ("backward_dv", 192): (
        Config(192, 64, 3, 2, width_v=128),
        Config(192, 128, 2, 2, width_v=128),
    ),
    ("backward_dq", 192): (
        Config(192, 64, 2, 2, width_v=128),
        Config(192, 80, 2, 2, width_v=128),
        Config(192, 96, 2, 2, ahead=False, width_v=128),
    ),
    ("backward_dk", 256): (Config(256, 32, 2, 2), Config(256, 64, 1, 2, ahead=False)),
    ("backward_dv", 256): (Config(256, 64, 2, 2), Config(256, 64, 2, 2, ahead=False)),
    ("backward_dq", 256): (Config(256, 64, 1, 2, ahead=False), Config(256, 32, 2, 2)),
}
"""What is to be timed."""


ADDS_CANDIDATES: dict[int, tuple[Config, ...]] = {
    64: (
        Config(64, 64, 3, 2, ahead=False, shown=2),
        Config(64, 128, 2, 2, ahead=False, shown=2),
    ),
    128: (Config(128, 64, 2, 2, ahead=False, shown=2),),
}
"""What is to be timed. Two tiles are shown, of which dq's share of the first is asked for when the
second lies there: with one alone nobody could go on."""

ADDS: dict[int, Config] = {64: ADDS_CANDIDATES[64][1], 128: ADDS_CANDIDATES[128][0]}
"""By head dim, what who does not ask for the same bits gets where it has enough to do: `adds`."""
TURNS_ALIKE, TURNS_UNLIKE = 0.9, 1.9
"""Programs for each multiprocessor from which `backward_adding` is faster than two kernels: where
all have as much to do, and where a mask leaves the first with most. README.md, What it takes."""


def adds(width: int, keys: int, heads: int, multiprocessors: int, *, alike: bool) -> bool:
    """Whether what adds to dq is there and faster; heads: key heads of all batch entries."""
    if width not in ADDS:
        return False
    turns = math.ceil(keys / ADDS[width].own) * heads / multiprocessors
    return turns >= (TURNS_ALIKE if alike else TURNS_UNLIKE)


GATHERED_TURNS = 3.8
"""The same over gathered keys, by the tiles of all of them: the fewest that were timed."""


def gathered_adds(width: int, keys: int, heads: int, multiprocessors: int) -> bool:
    """As `adds`, of keys of all ranks, whose tiles never have as much to do."""
    if width not in ADDS:
        return False
    return math.ceil(keys / ADDS[width].own) * heads / multiprocessors >= GATHERED_TURNS


PACKED_CANDIDATES: dict[int, tuple[Config, ...]] = {
    64: (TABLE[64], Config(64, 128, 3, 2, lazy=False)),
    128: (TABLE[128], MORE_ROWS[128][0]),
}
"""By head dim, what is to be timed of the forward over packed documents: fewer rows waste less of a
tile where a document ends. Their backward has the configurations of `BACKWARD`."""

PACKED: dict[int, Config] = {64: PACKED_CANDIDATES[64][0], 128: PACKED_CANDIDATES[128][1]}
"""By head dim, the forward's; packed documents of others are refused. README.md, What it takes."""
