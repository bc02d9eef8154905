"""The speeds of light that rows are held against, as they were measured in their runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ring_attn_bench.records.ceilings import Ceilings
from ring_attn_bench.records.record import Record
from ring_attn_bench.report.page.material import Material
from ring_attn_bench.report.page.model import Block, Cell, Cells, Column, Prose
from ring_attn_bench.text.digits import digits

_READ = "a maximum over a large tensor, which writes next to nothing"


def blocks(material: Material) -> Iterator[Block]:
    """A line for each time that they were measured, and why where they were not."""
    found: dict[Ceilings, Record] = {}
    for record in material.records:
        if record.ceilings is not None:
            found.setdefault(record.ceilings, record)
    reads = any(ceilings.read_gbs for ceilings in found)  # records of before have none
    lines = tuple(
        _line(ceilings, record, reads=reads)
        for ceilings, record in found.items()
        if ceilings.copy_gbs
    )
    columns = (
        Column("run", "word"),
        Column("ranks"),
        Column("dtype", "word"),
        Column("matmul TFLOP/s", meaning="a product of square matrices, with torch as it is set"),
        Column("copy GB/s", meaning="inside the device, read and written"),
        *([Column("read GB/s", meaning=_READ)] if reads else []),
        Column("messages GB/s", meaning="to the next rank by torch.distributed, one direction"),
        Column("pulls GB/s", meaning="copies out of the rank before's memory"),
        Column("measured", "word"),
    )
    if lines:
        caption = "speeds of light, on all ranks at once; from the slowest to the fastest of them"
        yield Cells(caption, columns, lines)
    reasons = {ceilings.unmeasured: None for ceilings in found if ceilings.unmeasured}
    if reasons:
        yield Prose(tuple(f"Of some speeds of light nothing is known: {why}" for why in reasons))


def _line(ceilings: Ceilings, record: Record, *, reads: bool) -> tuple[Cell, ...]:
    return (
        Cell(record.run),
        Cell(str(record.case.world_size)),
        Cell(ceilings.dtype),
        _rates(ceilings.matmul_tflops),
        _rates(ceilings.copy_gbs),
        *([_rates(ceilings.read_gbs)] if reads else []),
        _rates(ceilings.messages_gbs),
        _rates(ceilings.pulls_gbs),
        Cell(ceilings.measured_at),
    )


def _rates(rates: Sequence[float]) -> Cell:
    """698 to 712; one figure where they round to the same."""
    if not rates:
        return Cell("")
    low, high = digits(min(rates)), digits(max(rates))
    return Cell(low if low == high else f"{low} to {high}", min(rates))
