"""What calls took of GPUs beside what their plans say: like for like, and who is far off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ring_attn_bench.report.columns import MEANINGS, ReportRow
from ring_attn_bench.report.groups import direction, group
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Heading, Prose
from ring_attn_bench.text.digits import digits, plural, times

FAR = 0.2
"""As a share of the prediction: what is further from it is named."""
_FAR = f"{100 * FAR:g} %"
ROUNDING = 2.0
"""MiB that torch's allocator may round up to: a smaller difference is none."""
_RING = "ring"
"""Of what, where the kernel does not say what it takes."""
_COVERED = (
    "Predicted is what the plan of a call says before anything runs: results, keys that leave and "
    "land, accumulators, partial gradients on their way, and what a launch returns. It has what a "
    "kernel takes for itself only where the kernel says so; what stays between calls is in neither."
)


def blocks(material: Material) -> Iterator[Block]:
    """Sentences and a table; nothing where nothing was both measured and predicted."""
    rows = [row for row in material.rows if _ratio(row) is not None and row.status.value == "ok"]
    if not rows:
        return
    by_cover = group(rows, lambda row: row.predicted_of != _RING)
    yield Heading("Measured beside predicted")
    told = [_whole(by_cover.get(True, [])), _without_kernel(by_cover.get(False, []))]
    yield Prose((_COVERED, *filter(None, told)))
    yield _grid(material, rows)


def _ratio(row: ReportRow) -> float | None:
    if row.peak_extra_mib is None or not row.predicted_mib:
        return None
    return row.peak_extra_mib / row.predicted_mib


def _is_far(row: ReportRow) -> bool:
    took, expected = row.peak_extra_mib or 0.0, row.predicted_mib or 0.0
    return abs(took - expected) > max(FAR * expected, ROUNDING)


def _is_unexplained(row: ReportRow) -> bool:
    """Whether no memory of the kernel's own, which nobody predicted, may be the difference."""
    return _is_far(row) and (row.predicted_of != _RING or (_ratio(row) or 0.0) < 1)


def _whole(rows: Sequence[ReportRow]) -> str:
    """Of predictions that have all of a call."""
    if not rows:
        return ""
    far = [row for row in rows if _is_far(row)]
    near = [row for row in rows if not _is_far(row)]
    within = f" ({_range(near)} of it)" if near else ""
    text = (
        f"Of {plural(len(rows), 'row')} whose kernel says what it takes, {len(near):,} took what "
        f"was predicted, to {_FAR}{within}."
    )
    return f"{text} Off by more: {_named(far)}." if far else text


def _without_kernel(rows: Sequence[ReportRow]) -> str:
    """Of predictions for the ring alone: what is above is the kernel's, what is below a mistake."""
    if not rows:
        return ""
    text = (
        f"Of {plural(len(rows), 'row')} the ring alone is predicted, because the kernel does not "
        f"say what it takes; what is above the prediction is the kernel's own ({_range(rows)})."
    )
    far = [row for row in rows if _is_far(row)]
    above = [row for row in far if (_ratio(row) or 0.0) > 1]
    below = [row for row in far if row not in above]
    if above:
        text += f" By more than {_FAR}: {_named(above)}."
    if below:
        text += f" Below it by more than that, which no kernel explains: {_named(below)}."
    return text


def _named(rows: Sequence[ReportRow]) -> str:
    """Backends and directions with their ratios: aten forward + backward 1.29x to 1.40x."""
    alike = group(rows, lambda row: (row.backend, row.direction)).values()
    return "; ".join(f"{x[0].backend} {direction(x[0])} {_range(x)}" for x in alike)


def _range(rows: Sequence[ReportRow]) -> str:
    ratios = sorted(_ratio(row) or 0.0 for row in rows)
    low, high = times(ratios[0]), times(ratios[-1])
    return low if low == high else f"{low} to {high}"


def _grid(material: Material, rows: Sequence[ReportRow]) -> Cells:
    columns = (
        *material.places,
        Column("who", "word"),
        Column("measured MiB", meaning=MEANINGS["peak_extra_mib"]),
        Column("predicted MiB", meaning=MEANINGS["predicted_mib"]),
        Column("measured / predicted"),
        Column("predicted of", "word", MEANINGS["predicted_of"]),
    )
    body = tuple(
        (
            *material.where(row),
            material.who(row),
            Cell(digits(row.peak_extra_mib, 4), row.peak_extra_mib),
            Cell(digits(row.predicted_mib, 4), row.predicted_mib),
            Cell(times(_ratio(row)), _ratio(row), "bad" if _is_unexplained(row) else ""),
            Cell(row.predicted_of or ""),
        )
        for row in rows
    )
    return Cells(f"MiB of a call, {plural(len(rows), 'row')}", columns, body, folded=True)
