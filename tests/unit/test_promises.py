"""The figures of docs/promises.md, from the runs' CSV."""

import csv
import re
from pathlib import Path

import pytest

from ring_attn_bench.conformance.features.cache import CACHE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
LINES = {
    line.split("|")[1].strip(): line.split("|")[2] for line in PAGE.splitlines() if "|" in line
}


def rows(run):
    with (ROOT / "results" / run / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def numbers(promised):
    (line,) = (said for name, said in LINES.items() if name.startswith(promised))
    return [float(x) for x in re.findall(r"(?<![\w-])\d+(?:\.\d+)?(?= |$)", line.strip())]


def test_errors_are_those_of_the_ring_run():
    ours = [row for row in rows("2026-11-30_2xH200_ring") if row["backend"] == "triton"]

    def largest(*names):
        return max(float(row[f"{x}_max_abs"]) for row in ours for x in names if row[f"{x}_max_abs"])

    assert f"all {len(ours)} rows" in PAGE
    assert numbers("outputs") == [round(largest("out"), 4)]
    assert numbers("gradients") == [round(largest("dq", "dk", "dv"), 3)]


RATIOS = {"60 to 80 %": "tflops_per_gpu", "at most 150 %": "peak_extra_mib"}


@pytest.mark.parametrize(("promised", "column"), RATIOS.items())
def test_speed_and_memory_are_those_of_the_run_on_one_gpu(promised, column):
    found = rows("2026-11-27_1xH200_triton")
    plain = [row for row in found if row["deterministic"] in {"0", "False", "false"}]

    def ratios(other):
        def by(name):
            return {
                tuple(row[x] for x in ("case", "direction")): float(row[column])
                for row in plain if row["backend"] == name
            }  # fmt: skip

        ours, theirs = by("triton"), by(other)
        assert len(ours) == 26
        return [100 * ours[key] / theirs[key] for key in ours]

    second, fourth = ratios("flash_attn_2"), ratios("flash_attn_4")
    said = [x for x in numbers(promised) if x not in {2.8, 4.0}]
    assert said == [round(f(x)) for x in (second, fourth) for f in (min, max)]


def test_cells_of_flag_gems_and_features_of_a_cache_are_counted():
    with (ROOT / "results/2026-11-27_1xH200_coverage/coverage.csv").open() as file:
        cells = [row["verdict"] for row in csv.DictReader(file) if row["backend"] == "flag_gems"]

    assert f"{cells.count('ok')} of {len(cells)} cells are right, the others refused" in PAGE
    assert set(cells) == {"ok", "unsupported"}
    assert f"right in {len(CACHE.features)} features" in PAGE
    steps = [x["status"] for x in rows("2026-11-30_1xH200_decode") if x["backend"] == "triton"]
    assert set(steps) == {"ok"}
    assert f"in all {len(steps)} shapes" in PAGE
