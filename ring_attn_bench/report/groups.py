"""Which rows belong in one table or one figure, and what to call them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ring_attn_bench.records.cache_shape import CacheShape
from ring_attn_bench.report.columns import OPTIONS, ReportRow
from ring_attn_bench.ring.options import DEFAULTS, RingOptions, texts
from ring_attn_bench.text import shapes
from ring_attn_bench.text.digits import plural

Key = TypeVar("Key", bound=Hashable)
_OPTIONS = tuple(sorted(OPTIONS, key=lambda name: name != "schedule"))  # it says the most
WHO = ("backend", "partition", "transport", *_OPTIONS)
"""The columns that say who computed a row."""
_OURS = ("transport", *_OPTIONS)
"""Those of them that somebody else's ring has not got."""
_SAYS_NOTHING = (None, "auto", "unset")
"""Words of an option that is left to the library: a caption is silent about them."""
_BY_DEFAULT = texts(RingOptions())


@dataclass(frozen=True, slots=True)
class SharedShape:
    """What rows must share to be drawn together: all of a case but length, mask and direction."""

    world_size: int
    played_on: int | None
    batch: int
    heads_q: int
    heads_kv: int
    head_dim: int
    dtype: str
    window: tuple[int | None, int | None]
    softcap: float | None
    deterministic: bool
    cache: CacheShape | None = None
    documents: str | None = None

    @classmethod
    def of(cls, row: ReportRow) -> SharedShape:
        """The shape of the row's case."""
        return cls(
            row.world_size, row.played_on, row.batch, row.heads_q, row.heads_kv, row.head_dim,
            row.dtype, (row.window_left, row.window_right), row.softcap, row.deterministic,
            row.cache, row.documents,
        )  # fmt: skip

    @property
    def extras(self) -> tuple[str, ...]:
        """What is not plain attention, in words."""
        words = (
            shapes.window(*self.window),
            shapes.softcap(self.softcap),
            "deterministic" if self.deterministic else "",
            *(() if self.cache is None else self.cache.words),
            shapes.documents(self.documents),
        )
        return tuple(text for text in words if text)

    @property
    def title(self) -> str:
        """For people: batch 1, heads 32:8 of 128, bfloat16."""
        heads = shapes.heads_of(self.heads_q, self.heads_kv, self.head_dim)
        return ", ".join((shapes.batch(self.batch), heads, self.dtype, *self.extras))

    @property
    def but_for_ranks(self) -> SharedShape:
        """What rings of several sizes share."""
        return replace(self, world_size=0, played_on=None)

    @property
    def slug(self) -> str:
        """A slug for file names: w4_b1_h32-8_d128_bfloat16."""
        heads = f"h{self.heads_q}-{self.heads_kv}_d{self.head_dim}"
        played = f"on{self.played_on}" if self.played_on else ""
        size = f"w{self.world_size}{played}" if self.world_size else "ranks"
        parts = (size, f"b{self.batch}", heads, self.dtype, *self.extras)
        return "_".join(parts).replace(" ", "").replace(":", "-")


def group(rows: Iterable[ReportRow], key: Callable[[ReportRow], Key]) -> dict[Key, list[ReportRow]]:
    """The rows by key, groups and rows in the order of the file."""
    groups: dict[Key, list[ReportRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def by_shape(rows: Iterable[ReportRow]) -> dict[SharedShape, list[ReportRow]]:
    """The rows of each shape."""
    return group(rows, SharedShape.of)


def mask(row: ReportRow) -> str:
    """The row's mask in a word: causal or full."""
    return "causal" if row.causal else "full"


def direction(row: ReportRow) -> str:
    """The row's direction in words: forward + backward."""
    return row.direction.value.replace("_", " + ")


def machine(rows: Sequence[ReportRow]) -> str:
    """What the rows ran on: 4 x NVIDIA H200."""
    places = dict.fromkeys(_place(row) for row in rows)
    return " / ".join(places)


def device(rows: Sequence[ReportRow]) -> str:
    """Per what work is counted: GPU, or process on a CPU."""
    return "GPU" if any(row.gpu for row in rows) else "process"


def holder(rows: Sequence[ReportRow]) -> str:
    """Per what tokens are counted: GPU, or rank where several share one or none is there."""
    return "rank" if any(row.transport == "loopback" or not row.gpu for row in rows) else "GPU"


def varying(rows: Sequence[ReportRow], names: Sequence[str] = WHO) -> tuple[str, ...]:
    """Those of the columns that differ between the rows; backend always."""
    return tuple(name for name in names if name == "backend" or len(_values(rows, name)) > 1)


def _values(rows: Sequence[ReportRow], name: str) -> list[str | None]:
    """What a column holds; that a peer has its own transport and no options, its name says."""
    words = dict.fromkeys(row.word(name) for row in rows)
    if len(words) > 1:
        words.pop("own" if name == "transport" else None, None)
    return list(words)


def constants(rows: Sequence[ReportRow], names: Sequence[str] = WHO) -> tuple[str, ...]:
    """The other columns, in words for a caption: partition zigzag."""
    fixed = [(name, _values(rows, name)[0]) for name in names if name not in varying(rows, names)]
    return tuple(f"{name} {word}" for name, word in fixed if not _is_silent(name, word))


def _is_silent(name: str, word: str | None) -> bool:
    """Whether it is left to the library, or a switch that is off as it is by itself."""
    return word in _SAYS_NOTHING or (word == "false" and DEFAULTS.get(name) is False)


def heading(rows: Sequence[ReportRow]) -> str:
    """All that rows of one shape share: where they ran, what they computed and who did.

    Beside somebody else's rings, how keys travel and the options are said of ours alone.
    """
    words, where = constants(rows), f"{machine(rows)}, {SharedShape.of(rows[0]).title}"
    if len({row.transport == "own" for row in rows}) > 1:
        common = constants(rows, [name for name in WHO if name not in _OURS])
        ours = ", ".join(word for word in words if word not in common)
        words = (*common, *([f"our ring: {ours}"] if ours else []))
    return "; ".join((where, *words))


@dataclass(frozen=True, slots=True)
class Naming:
    """By which columns contestants are told apart: settings of our ring share one, in short words.

    told: the settings in it; where only one varies, it has a column of its own.
    """

    columns: tuple[str, ...]
    told: tuple[str, ...] = ()

    @classmethod
    def of(cls, rows: Sequence[ReportRow], among: Sequence[str] = WHO) -> Naming:
        """Of those columns, the ones that differ between the rows."""
        columns = tuple(name for name in varying(rows) if name in among)
        told = tuple(name for name in columns if name in _OURS)
        if len(told) < 2:
            return cls(columns)
        return cls(tuple(name for name in columns if name not in told), told)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads of the columns."""
        return (*self.columns, *(("settings",) if self.told else ()))

    def cells(self, row: ReportRow) -> tuple[str, ...]:
        """The row's cells in those columns."""
        plain = tuple(row.word(column) or "" for column in self.columns)
        return (*plain, *((", ".join(words(row, self.told)),) if self.told else ()))

    def label(self, row: ReportRow) -> str:
        """The row's contestant in one word: triton/zigzag."""
        return label(row, (*self.columns, *self.told))


def took(rows: Sequence[ReportRow], naming: Naming) -> tuple[str, ...]:
    """In a sentence for each choice, what stood for options that were `auto`, and for whom.

    naming: by which contestants are called; nobody is, where all were given the same.
    """
    auto = [row for row in rows if row.took]
    choices = group(auto, lambda row: row.took or "")
    sentences = []
    for choice, of_choice in choices.items():
        who = ", ".join(dict.fromkeys(naming.label(row) for row in of_choice))
        whose = "" if len(choices) == 1 else f" for {who}"
        sentences.append(f"auto took {choice.replace('grouping unset', 'grouping 1 each')}{whose}.")
    return tuple(sentences)


def label(row: ReportRow, names: Sequence[str]) -> str:
    """The row's contestant by these columns: triton/zigzag/copy_engine/one_launch."""
    return "/".join(words(row, names)) or "as by default"


def words(row: ReportRow, names: Sequence[str]) -> tuple[str, ...]:
    """These columns in short words; an option as by default has none, but for a schedule."""
    return tuple(filter(None, (_short(row, name) for name in names)))


def _short(row: ReportRow, name: str) -> str:
    word = row.word(name)
    if name == "transport" and word == "own":  # a peer's, which its name says
        return ""
    if word is None or name not in row.options or name == "schedule":
        return word or ""
    if word == _BY_DEFAULT[name]:
        return ""
    return name if word == "true" else f"{name} {word}"


def _place(row: ReportRow) -> str:
    if row.transport == "loopback":
        return f"{plural(row.world_size, 'rank')} in one process on {row.gpu or 'a CPU'}"
    if row.played_on is not None:
        where = f"{row.played_on} x {row.gpu}" if row.gpu else f"{row.played_on} CPU processes"
        return f"W = {row.world_size} played on {where}"
    return f"{row.world_size} x {row.gpu}" if row.gpu else plural(row.world_size, "CPU rank")
