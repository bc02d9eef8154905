"""What README says of measurements is what the files of results/ hold."""

import csv
import re
from pathlib import Path

import pytest

from ring_attn_bench.bench.record import read
from ring_attn_bench.conformance.features import FEATURES
from ring_attn_bench.report import csv as results_csv
from ring_attn_bench.report.rows import rows

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "results"
PEERS = RESULTS / "2026-11-21_4xH200_peers"
COVERAGE = RESULTS / "2026-11-27_1xH200_coverage"
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


@pytest.fixture(scope="module")
def measured():
    """By backend and direction, what README's table is of."""
    return {
        (row.backend, row.direction.value): row
        for row in results_csv.read(PEERS / "results.csv")
        if row.seqlen_per_gpu == 16384 and row.dtype == "bfloat16" and row.window_left is None
    }


def table():
    """The cells of its rows, by backend."""
    (text,) = re.findall(r"^\| ring \|.*\n\|[-|]+\n((?:\|.*\n)+)", README, re.MULTILINE)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {NAMES.get(name, name): cells for name, *cells in lines}


def test_readme_has_every_contestant_of_its_case_but_torchs_other_way_for_keys(measured):
    backends = {name for name, _ in measured if "allgather" not in name}
    assert table().keys() == backends
    for name in ("peer:torch_cp[cudnn,{}]", "peer:torch_cp[flash,{}]"):
        for direction in ("forward", "forward_backward"):
            one, other = (
                measured[name.format(way), direction] for way in ("alltoall", "allgather")
            )
            assert one.tflops_per_gpu == pytest.approx(other.tflops_per_gpu, rel=0.012)


def test_readmes_figures_are_those_of_the_records(measured):
    for name, cells in table().items():
        forward, both = (measured[name, x] for x in ("forward", "forward_backward"))
        assert cells == [
            f"{forward.tflops_per_gpu:.0f}", f"{forward.percent_of_one_gpu:.0f} %",
            f"{both.tflops_per_gpu:.0f}", f"{both.percent_of_one_gpu:.0f} %",
            f"{both.peak_extra_mib:,.0f}",
            *(f"{both.ratios[x].vs_pytorch:.2f}" for x in ("out", "dq", "dk", "dv")),
        ], name  # fmt: skip


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
        found = {line["feature"] for line in csv.DictReader(file)}
    pages = [(COVERAGE / "README.md").read_text(), README, (ROOT / "docs/coverage.md").read_text()]
    assert found <= set(FEATURES)
    for feature in set(FEATURES) - found:
        assert all(f"`{feature}`" in page for page in pages), feature


def test_what_the_matrix_says_of_packed_documents_docs_say_too():
    with (COVERAGE / "coverage.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    page = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", page, re.MULTILINE))
    for name in ("aten", "cudnn", "flash_attn_2", "flex", "reference", "triton"):
        takes = {x["verdict"] for x in lines if (x["backend"], x["feature"]) == (name, "documents")}
        words = said[name].strip()
        has = words == "everything" or ("documents" in words and "but documents" not in words)
        assert has is (takes == {"ok"}), name
