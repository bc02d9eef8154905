"""report.md: what was measured, where and how; every table and picture; how to see it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ring_attn_bench.records.record import Record
from ring_attn_bench.report import tables
from ring_attn_bench.report.columns import MEANINGS, NESTED, TENSORS, ReportRow
from ring_attn_bench.report.digits import plural
from ring_attn_bench.report.groups import WHO, by_shape, group, heading, machine, varying
from ring_attn_bench.report.rows import latest, rows
from ring_attn_bench.report.tables.table import Table, escape

_HOW = """\
- A **latency** is the median over iterations of the slowest rank's time. **±** is the larger side
  of that median's 95 % confidence interval, from order statistics (binomial, no assumption about
  the distribution); below 6 samples there is none.
- **TFLOP/s** count *useful* work, from the exact area of the mask: 4 x area x heads x head_dim x
  batch for a forward, 2.5 times that for a backward, 3.5 times for both. They are divided by the
  latency and by the GPUs (CPU processes) that shared the work.
- **% of 1 GPU** is the ring's speed beside the same kernel's in one call on one GPU, at one GPU's
  share of the useful work. 100 would be a ring that costs nothing.
- **% of twin** is its speed beside the same launches on local keys. What is missing to 100 is
  communication.
- **MiB per call** is the peak of torch's allocator during a call beyond what was held before it:
  without the inputs, with the results (a forward's also while its backward runs). **MiB kept** is
  what stays on the GPU between calls, by the GPU's free memory before the ring was made and after
  its first call: the communicator's buffers and symmetric memory, which torch's allocator does not
  count. Rings, peers' too, are made anew for it, so that each shows a communicator of its own; `-`
  is not measured. Both are the largest over ranks.
- **Errors** are against float64, over all ranks. A result is *wrong* if its max_abs or its rmse
  exceeds its bound: 2 times (out, lse) or 3 times (dq, dk, dv) the error that plain PyTorch makes
  in the same precision on the same inputs, and a few units in the last place. **rmse /
  PyTorch's** is its ratio to plain PyTorch's, **rmse / no ring** to that of the same kernel in one
  call: of errors, not of speeds. Above 10 the other error is next to nothing (results.csv has the
  figure), and **of bound** says whether that matters: the share of the allowed error that is used,
  of max_abs or rmse the worse.
- **auto took** says, below a table, what stood for options that were left to `auto`.
- **W = 4 played on 2**: each of two GPUs does what one rank of a ring of 4 does, and gets from the
  other what the other ranks would send it, in the same steps. The time is of that; the numbers mean
  nothing, and what was judged is the same ring by loopback, all of its ranks on one GPU (of
  `judged_tokens`). TFLOP/s, % of 1 GPU and % of twin are those of a GPU of the larger ring.
- A wrong row has no speed, and neither has an interpreted kernel. `unsupported` and `oom` are
  answers, not failures. An empty cell is a figure that does not apply."""


def report(records: Iterable[Record], pictures: Sequence[Path], skipped: Sequence[str]) -> str:
    """The page; pictures are paths relative to it."""
    newest = latest(records)
    lines = rows(newest)
    parts = (
        f"# Ring attention on {escape(machine(lines))}",
        _about(lines),
        *_verdict(lines),
        "## Speed",
        *_by_shape(lines, _speed, pictures, "throughput"),
        "## Errors",
        *_by_shape(lines, _errors, pictures, "errors"),
        "## Memory",
        *_by_shape(lines, _nothing, pictures, "memory"),
        *skipped,
        "## How it was measured",
        _HOW,
        "## Where it was measured",
        _environment(newest),
        "## How to measure it again",
        _again(lines),
        "## Columns of results.csv",
        _glossary(),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(lines: Sequence[ReportRow]) -> str:
    suites = ", ".join(dict.fromkeys(row.suite for row in lines))
    dates = sorted(row.started_at for row in lines if row.started_at)
    when = f", measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}" if dates else ""
    contestants = plural(len({row.contestant for row in lines}), "contestant")
    cases = plural(len({row.case for row in lines}), "case")
    return escape(f"Suite {suites}{when}: {contestants}, {cases}, {plural(len(lines), 'record')}.")


def _verdict(lines: Sequence[ReportRow]) -> Iterator[str]:
    yield "## Verdict"
    yield tables.counts(lines).markdown()
    for failure in tables.failures(lines):
        where = "; ".join(failure.where())
        command = failure.rows[0].command
        again = f"<br>again: `{command}`" if command else ""
        title = f"**{failure.status.value}: {escape(failure.contestant)}**"
        yield f"- {title}: {escape(failure.reason)}<br>in {escape(where)}{again}"


def _by_shape(
    lines: Sequence[ReportRow],
    text: Callable[[Sequence[ReportRow]], Iterator[str]],
    pictures: Sequence[Path],
    topic: str,
) -> Iterator[str]:
    """For each shape of a topic its heading, its picture and its text."""
    for shape, alike in by_shape(lines).items():
        shown = [
            *(_picture(path) for path in pictures if path.stem == f"{topic}_{shape.slug}"),
            *text(alike),
        ]
        if shown:
            yield f"### {escape(heading(alike))}"
            yield from shown


def _picture(path: Path) -> str:
    return f"![{path.stem.replace('_', ' ')}]({path.as_posix()})"


def _speed(lines: Sequence[ReportRow]) -> Iterator[str]:
    """First the sweeps, then every case, folded away if there were sweeps."""
    sweeps = tables.overview(lines)
    yield from (table.markdown() for table in sweeps)
    for table in tables.speed(lines):
        yield _folded(table.caption, table) if sweeps else table.markdown()


def _errors(lines: Sequence[ReportRow]) -> Iterator[str]:
    """By backend; where there are more contestants, all of them too, folded away."""
    yield from (table.markdown() for table in tables.accuracy(lines))
    if len(varying(lines)) > 1:
        for table in tables.accuracy(lines, WHO):
            yield _folded(f"every contestant: {table.caption}", table)


def _nothing(_: Sequence[ReportRow]) -> Iterator[str]:
    """Memory stands in the tables of speed."""
    yield from ()


def _folded(title: str, table: Table) -> str:
    return f"<details><summary>{escape(title)}</summary>\n\n{table.markdown()}\n\n</details>"


def _environment(records: Sequence[Record]) -> str:
    """Every fact, with all the values that it had."""
    facts: dict[str, list[str]] = {}
    for record in records:
        for name, value in record.environment.items():
            if value is not None and str(value) not in facts.setdefault(name, []):
                facts[name].append(str(value))
    kernels = group(rows(records), lambda row: f"{row.backend} {row.backend_version or ''}".strip())
    facts["backends"] = list(kernels)
    body = tuple((name, ", ".join(values)) for name, values in facts.items() if values)
    return Table("Environment", ("fact", "value"), body, names=2).markdown()


def _again(lines: Sequence[ReportRow]) -> str:
    """One command for each backend; the file has one for each row."""
    firsts = [of_backend[0] for of_backend in group(lines, lambda row: row.backend).values()]
    commands = [f"# {row.contestant}, {row.direction.value}\n{row.command}" for row in firsts
                if row.command]  # fmt: skip
    shown = "\n".join(["```sh", *commands, "```"]) if commands else ""
    text = "Every row of `results.csv` has its own command in the column `command`. For example:"
    made = "This page, `results.csv` and the plots are made from the records alone, without a GPU."
    return "\n\n".join(part for part in (made, text if shown else "", shown) if part)


def _glossary() -> str:
    """Each column once; the five tensors' columns by their pattern."""
    lines: dict[str, str] = {}
    for name, meaning in MEANINGS.items():
        tensor, _, key = name.partition("_")
        nested = tensor in TENSORS and any(key in kind.model_fields for kind in NESTED.values())
        pattern = f"{{{','.join(TENSORS)}}}_{key}" if nested else name
        lines.setdefault(pattern, meaning)
    return "\n".join(f"- `{name}`: {escape(meaning)}" for name, meaning in lines.items())
