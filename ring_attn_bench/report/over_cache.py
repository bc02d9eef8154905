"""Rows over a cache: apart from those of rings, and which of them belong in one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ring_attn_bench.report.columns import ReportRow
from ring_attn_bench.report.groups import SharedShape, group, machine, mask


@dataclass(frozen=True, slots=True)
class Family:
    """Of a case over a cache, what stays where lengths and the kind of cache change."""

    shape: SharedShape
    """Of no batch size, no cache and no window or softcap."""
    head_dim_v: int | None
    causal: bool

    @classmethod
    def of(cls, row: ReportRow) -> Family:
        """The family of a row that is over a cache."""
        shape = replace(
            SharedShape.of(row), batch=0, cache=None, window=(None, None), softcap=None,
            deterministic=False,
        )  # fmt: skip
        return cls(shape, row.head_dim_v, row.causal)

    @property
    def slug(self) -> str:
        """For file names: w1_h32-8_d128_bfloat16_causal."""
        own = f"_dv{self.head_dim_v}" if self.head_dim_v else ""
        kind = "causal" if self.causal else "full"
        return f"{self.shape.slug.replace('_b0', '')}{own}_{kind}"

    def heading(self, rows: Sequence[ReportRow]) -> str:
        """Where its rows ran, and what they share: 1 x NVIDIA H200, heads 32:8 of 128, bfloat16."""
        words = self.shape.title.partition(", ")[2]  # without the batch size
        of_v = f", {self.head_dim_v} of v" if self.head_dim_v else ""
        return f"{machine(rows)}, over a cache: {words}{of_v}, {mask(rows[0])}"


def kind(row: ReportRow) -> tuple[str, ...]:
    """What there is to a row over a cache but its lengths, in words: page 16, softcap 30."""
    cache = row.cache
    assert cache is not None  # it is a row over one
    others = replace(SharedShape.of(row), cache=None).extras
    # what is said of a whole family is in its heading
    own = tuple(word for word in cache.details if not word.startswith("head dim"))
    return (*own, *others) or ("rows",)


def apart(rows: Iterable[ReportRow]) -> tuple[list[ReportRow], list[ReportRow]]:
    """Rows of rings, and rows over a cache: nothing of one is held against the other."""
    rings: list[ReportRow] = []
    caches: list[ReportRow] = []
    for row in rows:
        (rings if row.queries is None else caches).append(row)
    return rings, caches


def families(rows: Iterable[ReportRow]) -> dict[Family, list[ReportRow]]:
    """Rows over a cache by family."""
    return group(rows, Family.of)
