"""What README says of measurements is what the files of results/ hold."""

import csv
import re
from pathlib import Path

import pytest
from ring_attn_backends import BACKENDS

from ring_attn_bench.conformance.features import FEATURES
from ring_attn_bench.records.record import read
from ring_attn_bench.report import csv as results_csv
from ring_attn_bench.report.rows import rows

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "results"
PEERS = RESULTS / "2026-11-21_4xH200_peers"
RING = RESULTS / "2026-11-30_2xH200_ring"
COVERAGE = RESULTS / "2026-12-01_1xH200_coverage"
NAMES = {
    "aten (FlashAttention-2)": "aten",
    "peer yunchang, Ulysses, flash_attn_4": "peer:yunchang[ulysses,flash_attn_4]",
    "peer yunchang, Ulysses, flash_attn_2": "peer:yunchang[ulysses,flash_attn_2]",
    "peer ring-flash-attn, flash_attn_4": "peer:ring_flash_attn[flash_attn_4]",
    "peer ring-flash-attn, flash_attn_2": "peer:ring_flash_attn[flash_attn_2]",
    "peer torch context_parallel, cuDNN": "peer:torch_cp[cudnn,alltoall]",
    "peer torch context_parallel, FlashAttention-2": "peer:torch_cp[flash,alltoall]",
}
"""By the name in the table, where it is another than that of `list`."""


RINGS = {
    "triton, one launch over copies": ("triton", "copy_engine", "one_launch"),
    "triton, steps over NCCL": ("triton", "p2p", "steps"),
    "flash_attn_4, steps over copies": ("flash_attn_4", "copy_engine", "steps"),
    "flash_attn_4, a gather over copies": ("flash_attn_4", "copy_engine", "gather"),
    "flash_attn_4, steps over NCCL": ("flash_attn_4", "p2p", "steps"),
}
"""Of ours by the name in the table: kernel, transport, schedule."""


@pytest.fixture(scope="module")
def measured():
    """By ring, direction and length, what README's table is of."""
    return {
        (_ring(row), row.direction.value, row.seqlen_per_gpu): row
        for row in results_csv.read(RING / "results.csv")
        if row.heads_kv == 8 and row.causal and row.window_left is None
        if row.partition != "striped" and row.options["gradients"] != "input"
        if row.options["keep_keys"] != "true"
    }


@pytest.fixture(scope="module")
def with_options():
    """Forward + backward by what is not as by default: kernel, gradients, keys kept, length."""
    return {
        (row.backend, row.options["gradients"], row.options["keep_keys"], row.seqlen_per_gpu): row
        for row in results_csv.read(RING / "results.csv")
        if row.heads_kv == 8 and row.causal and row.window_left is None
        if row.partition == "zigzag" and row.transport == "copy_engine"
        if row.options["schedule"] in {"steps", "one_launch"}
        if row.direction.value == "forward_backward"
    }


def _ring(row):
    """A peer by its name, ours as `RINGS` has it."""
    if row.backend.startswith("peer:"):
        return row.backend
    return row.backend, row.transport, row.options["schedule"]


def named(name):
    """A ring of a table."""
    return RINGS.get(name) or NAMES[name]


def table():
    """The cells of its rows, by ring."""
    (text,) = re.findall(r"^\| ring \|.*\n\|[-|]+\n((?:\|.*\n)+)", README, re.MULTILINE)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {named(name): cells for name, *cells in lines}


def test_readme_has_every_contestant_of_its_case(measured):
    assert table().keys() == {ring for ring, *_ in measured}


def test_readmes_figures_are_those_of_the_records(measured):
    for ring, cells in table().items():
        rates = [
            f"{measured[ring, way, length].tflops_per_gpu:.0f}"
            for way in ("forward", "forward_backward")
            for length in (4096, 8192, 16384, 32768)
        ]
        row = measured[ring, "forward_backward", 16384]
        assert cells == [
            *rates, f"{row.peak_extra_mib:,.0f}", f"{row.kept_mib:,.0f}",
            *(f"{row.ratios[x].vs_pytorch:.2f}" for x in ("out", "dq", "dk", "dv")),
        ], ring  # fmt: skip


def test_readmes_rates_with_gradients_in_the_inputs_dtype_are_those_of_the_records(with_options):
    rates = [
        f"{with_options['flash_attn_4', 'input', 'false', n].tflops_per_gpu:.0f}"
        for n in (4096, 8192, 16384, 32768)
    ]
    text = " ".join(README.split())
    assert f"has {', '.join(rates[:3])} and {rates[3]} forward + backward, at the same" in text


def test_what_pages_say_of_a_faster_host_is_what_the_older_run_has():
    older = {
        (row.backend, row.direction.value): f"{row.tflops_per_gpu:.0f}"
        for row in results_csv.read(RESULTS / "2026-11-29_2xH200_ring" / "results.csv")
        if row.seqlen_per_gpu == 4096 and row.heads_kv == 8 and row.transport == "copy_engine"
        if row.options["schedule"] in {"steps", "one_launch"}
        if row.options["gradients"] != "input" and row.options["keep_keys"] != "true"
    }
    fa4, triton = (
        [older[name, way] for way in ("forward", "forward_backward")]
        for name in ("flash_attn_4", "triton")
    )
    here = table()[RINGS["flash_attn_4, steps over copies"]][0]
    assert f"{here} forward where that has {fa4[0]}." in " ".join(README.split())
    said = f"had {fa4[0]} for flash_attn_4 forward and {fa4[1]} with backward, and"
    assert f"{said} {triton[0]} and {triton[1]} for triton" in " ".join(CHOOSING.split())


def test_pages_count_the_records():
    number = len(list(read(RING / "records.jsonl.gz")))
    assert f"All {number} records" in README
    assert f"{number} measurements, all right" in (RING / "README.md").read_text(encoding="utf-8")


def shares(rows, direction):
    """The least and the most percent of one call, from 4096 tokens on."""
    found = [
        row.percent_of_one_gpu
        for row in rows
        if row.direction.value == direction and row.seqlen_per_gpu >= 4096
    ]
    return f"{min(found):.0f} to {max(found):.0f} %"


def test_readmes_shares_of_one_call_are_those_of_the_records(measured):
    ours = [row for (ring, *_), row in measured.items() if ring == RINGS[next(iter(RINGS))]]
    played = [
        row
        for row in results_csv.read(RESULTS / "2026-11-29_2xH200_played" / "results.csv")
        if row.options["gradients"] != "input"
    ]
    text = " ".join(README.split())
    assert f"{shares(ours, 'forward')} of the pace" in text
    assert f"{shares(ours, 'forward_backward')} with backward" in text
    both = f"{shares(played, 'forward')}, and {shares(played, 'forward_backward')}"
    assert both in text


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in RESULTS.glob("*/records.jsonl.gz")),
    ids=lambda x: x.name,
)
def test_a_shipped_file_of_results_has_the_figures_and_columns_of_its_records(folder, tmp_path):
    results_csv.write(rows(read(RESULTS / folder / "records.jsonl.gz")), tmp_path / "results.csv")

    assert (RESULTS / folder / "results.csv").read_bytes() == (
        tmp_path / "results.csv"
    ).read_bytes()


def test_what_is_probed_and_not_in_the_shipped_matrix_is_named_beside_it():
    with (COVERAGE / "coverage.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    found = {x["feature"] for x in lines}
    columns = {x["backend"] for x in lines}
    pages = [(COVERAGE / "README.md").read_text(), README, (ROOT / "docs/coverage.md").read_text()]
    assert found <= set(FEATURES)
    # other tests put stand-ins there
    shipped = {name for name, at in BACKENDS.items() if at.startswith("ring_attn_backends.")}
    assert len(shipped) >= 10
    for name in (set(FEATURES) - found) | (shipped - columns):
        assert all(f"`{name}`" in page for page in pages), name


def test_what_the_matrix_says_of_packed_documents_docs_say_too():
    with (COVERAGE / "coverage.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    page = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    first_table = page[page.index("\n| name |") :].partition("\n\n")[0]
    said = dict(re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", first_table, re.MULTILINE))
    for name in said.keys() - {"flash_attn_3"}:
        takes = {x["verdict"] for x in lines if (x["backend"], x["feature"]) == (name, "documents")}
        words = said[name].strip()
        has = words == "everything" or ("documents" in words and "but documents" not in words)
        assert has is (takes == {"ok"}), name


# docs/choosing.md

CHOOSING = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
DIRECTIONS = {"forward": "forward", "forward + backward": "forward_backward"}


def tables(text):
    """Of a page, each with its heads and rows."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        cells = ([x.strip() for x in line[1:-1].split("|")] for line in block.splitlines())
        head, _, *lines = cells
        yield head, lines


def rates(folder, **wanted):
    """By backend, direction and length, TFLOP/s of one run's causal bfloat16."""
    found = results_csv.read(RESULTS / folder / "results.csv")
    return {
        (row.backend, row.direction.value, row.seqlen_per_gpu): f"{row.tflops_per_gpu:.0f}"
        for row in found
        if row.causal and row.dtype == "bfloat16" and row.window_left is None
        if row.tflops_per_gpu and not row.deterministic
        if all(getattr(row, name) == value for name, value in wanted.items())
    }


def test_choosings_rates_are_those_of_the_records():
    measured = rates(PEERS.name, partition="contiguous") | rates(PEERS.name, partition="zigzag")
    (lines,) = (lines for head, lines in tables(CHOOSING) if head[0] == "4 x H200")
    assert len(lines) >= 6
    for name, direction, *cells in lines:
        keys = [(NAMES.get(name, name), DIRECTIONS[direction], n) for n in (4096, 8192, 16384)]
        assert cells == [measured[key] for key in keys], name


def test_choosings_rates_of_h100_and_of_partitions_are_those_of_the_records():
    h100 = rates("2026-11-27_4xH100_triton")
    (lines,) = (lines for head, lines in tables(CHOOSING) if head[0] == "4 x H100")
    for name, *cells in lines:
        assert cells == [h100[name, x, 8192] for x in ("forward", "forward_backward")], name
    for partition, said in re.findall(r"(zigzag|striped|contiguous) (\d{3})", CHOOSING):
        hopper = rates("2026-11-20_4xH200_hopper", partition=partition)
        assert hopper["flash_attn_4", "forward", 8192] == said, partition


def test_choosings_shares_of_one_launch_are_those_of_its_run():
    run = (RESULTS / "2026-11-29_2xH200_one_launch" / "README.md").read_text(encoding="utf-8")
    (heads, measured), *_ = tables(run)
    of = {line[0]: dict(zip(heads[1:], line[1:], strict=True)) for line in measured}
    (found,) = (
        (head, lines) for head, lines in tables(CHOOSING) if head[0].startswith("2 x H200, tokens")
    )
    head, lines = found
    assert len(lines) >= 4
    for name, *cells in lines:
        assert cells == [of[name][x] for x in head[1:]], name


def test_choosings_rings_are_those_of_the_records(measured):
    (lines,) = (lines for head, lines in tables(CHOOSING) if head[0] == "2 x H200, 32:8 heads")
    assert len(lines) >= 8
    for name, direction, *cells in lines:
        lengths = (2048, 4096, 8192, 16384, 32768)
        found = [measured[named(name), DIRECTIONS[direction], n].tflops_per_gpu for n in lengths]
        assert cells == [f"{x:.0f}" for x in found], name


def test_choosings_options_of_a_backward_are_those_of_the_records(with_options):
    options = {
        "neither": ("float32", "false"),
        '`gradients="input"`': ("input", "false"),
        "`keep_keys=True`": ("float32", "true"),
    }
    (lines,) = (lines for head, lines in tables(CHOOSING) if head[0].startswith("flash_attn_4, "))
    assert len(lines) == len(options)
    for name, *cells in lines:
        found = [
            with_options.get(("flash_attn_4", *options[name], n))
            for n in (4096, 8192, 16384, 32768)
        ]
        row = found[2]
        assert cells == [
            *(f"{x.tflops_per_gpu:.0f}, {x.percent_of_one_gpu:.0f} %" if x else "" for x in found),
            f"{row.peak_extra_mib:,.0f}", f"{row.kept_mib:,.0f}",
        ], name  # fmt: skip


def test_choosings_sentences_on_options_are_those_of_the_records(with_options):
    text = " ".join(CHOOSING.split())
    for n in (4096, 8192, 16384, 32768):
        narrow, wide = (
            with_options["flash_attn_4", gradients, "false", n].ratios
            for gradients in ("input", "float32")
        )
        for name in ("dk", "dv"):
            assert narrow[name].vs_one_gpu == pytest.approx(wide[name].vs_one_gpu, rel=1e-5)
    most = [
        max(row.ratios[x].vs_one_gpu for (name, *_), row in with_options.items() if "4" in name)
        for x in ("dk", "dv")
    ]
    assert f"at most {most[0]:.2f} and {most[1]:.2f} times those of one call" in text

    def triton(gradients, keeps, n):
        return with_options["triton", gradients, keeps, n]

    whole, half = (triton(x, "false", 16384) for x in ("float32", "input"))
    assert f"adds {100 * (half.ratios['dk'].vs_one_gpu - 1):.0f} % to its error in dk" in text
    taken = [f"{x.peak_extra_mib:.0f} + {x.kept_mib:.0f}" for x in (half, whole)]
    assert f"takes {taken[0]} MiB at 16K instead of {taken[1]}" in text
    rates = [f"{triton('float32', x, 4096).tflops_per_gpu:.0f}" for x in ("true", "false")]
    longer = [f"{triton('float32', x, 16384).tflops_per_gpu:.0f}" for x in ("true", "false")]
    assert f"{rates[0]} for {rates[1]} at 4K, and {longer[0]} for {longer[1]} at 16K" in text
    other = with_options["flash_attn_4", "float32", "false", 16384]
    mib = [f"{x.peak_extra_mib:.0f}" for x in (whole, other)]
    assert f"by one launch {mib[0]}, where flash_attn_4 takes {mib[1]} |" in text


def test_choosings_errors_of_rings_are_those_of_the_records():
    worst = {}
    with (RESULTS / "2026-11-30_1xH200_errors" / "results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name in ("out", "dq", "dk", "dv"):
                ring = row["backend"], row["schedule"], name == "out"
                if row["world_size"] != "1" and (ratio := row[f"{name}_vs_one_gpu"]):
                    worst.setdefault(ring, []).append(float(ratio))
    text = (ROOT / "docs" / "choosing.md").read_text()
    said = " ".join(text.partition("**Errors.**")[2].partition("\n\n")[0].split())

    def largest(backend):
        return f"{max(max(found) for ring, found in worst.items() if ring[0] == backend):.2f}"

    launch = [
        x for ring, found in worst.items() if ring[:2] == ("triton", "one_launch") for x in found
    ]
    assert {f"{x:.2f}" for x in launch} == {"1.00"}
    steps = worst["triton", "steps", True]
    assert f"{min(steps):.2f} to {max(steps):.2f} times as much" in said
    assert {f"{x:.2f}" for x in worst["triton", "steps", False]} == {"1.00"}
    assert f"cudnn and aten at most {max(map(largest, ('cudnn', 'aten')))} times" in said
    assert f"flash_attn_4 {largest('flash_attn_4')}" in said


def test_readme_leads_to_choosing():
    assert "(docs/choosing.md)" in README


def test_choosings_times_and_memory_are_those_of_the_records():
    text = " ".join(CHOOSING.split())
    one_gpu = (RESULTS / "2026-11-27_1xH200_triton" / "README.md").read_text(encoding="utf-8")
    mib = {
        row.backend: f"{row.peak_extra_mib:,.0f}"
        for row in results_csv.read(PEERS / "results.csv")
        if row.seqlen_per_gpu == 16384 and row.direction.value == "forward_backward"
    }
    assert f"{mib['triton']} MiB beyond the inputs where" in text
    assert f"where flash_attn_4 takes {mib['flash_attn_4']} and cuDNN {mib['cudnn']} (16K" in text

    (lines,) = (lines for head, lines in tables(one_gpu) if head[0] == "head dim")
    shares = {}
    for dim, _, way, _, _, share, *_ in lines:
        if dim == "128":
            shares.setdefault(way, []).append(float(share))
    back, same_bits, whole = (
        shares[x] for x in ("backward", "backward, deterministic", "forward + backward")
    )
    every = [*back, *whole, *shares["forward"]]
    assert f"backward alone takes {min(back):.2f} to {max(back):.2f} of triton's time" in text
    assert f"backward takes {min(same_bits):.2f} to {max(same_bits):.2f} of its time" in text
    assert f"which takes {min(every):.2f} to {max(every):.2f} of triton's time" in text
    short = (
        "causal 0.182 ms for triton, 0.243 cuDNN, 0.413 FlashAttention-2, 0.440 FlashAttention-4"
    )
    assert short in " ".join(one_gpu.split())
    assert "with 0.182 ms where cuDNN takes 0.243 and flash_attn_4 0.440" in text
