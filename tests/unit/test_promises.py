"""The figures of docs/promises.md, from the runs' CSV."""

import csv
import re
from pathlib import Path

import pytest

from ring_attn_bench.conformance.features.cache import CACHE

ROOT = Path(__file__).parents[2]
COVERAGE = "2026-12-01_1xH200_coverage/coverage.csv"
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
README, CHOOSING, BACKENDS = (
    " ".join((ROOT / name).read_text(encoding="utf-8").split())
    for name in ("README.md", "docs/choosing.md", "docs/backends.md")
)
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


def test_longest_sequences_are_those_that_fitted():
    with (ROOT / "results/2026-12-01_1xH200_longest/limits.csv").open(encoding="utf-8") as file:
        found = {(x["backend"], x["direction"]): x for x in csv.DictReader(file)}
    assert {row["status"] for row in found.values()} == {"oom"}

    def longest(backend, direction):
        return f"{int(found[backend, direction]['longest_total']):,}"

    forward, both = (longest("triton", x) for x in ("forward", "forward_backward"))
    assert forward == longest("flash_attn_2", "forward")
    said = LINES["the same longest sequence"]
    assert f"forward {forward} tokens, as flash-attn 2.8; with backward {both}, where it" in said
    assert f"ends at {longest('flash_attn_2', 'forward_backward')} " in said


@pytest.fixture(scope="module")
def findings():
    with (ROOT / "results" / COVERAGE).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def over_a_cache(findings, backend, status):
    """In how many features the backend has that status, forward."""
    names = {feature.name for feature in CACHE.features}
    return sum(
        row["feature"] in names and row["verdict"] == status
        for row in findings if (row["backend"], row["direction"]) == (backend, "forward")
    )  # fmt: skip


@pytest.mark.parametrize(("backend", "promised"), {"flag_gems": "FlagGems", "cute": "CuTe"}.items())
def test_cells_of_backends_that_were_promised_are_counted(findings, backend, promised):
    cells = [row["verdict"] for row in findings if row["backend"] == backend]

    assert set(cells) == {"ok", "unsupported"}
    said = f"{cells.count('ok')} of {len(cells)} cells are right, the others refused"
    assert said in LINES[next(x for x in LINES if x.startswith(promised))]


def test_cute_is_as_near_as_its_run_says_in_both_directions():
    def shares(direction):
        speeds = {
            (row["case"], row["backend"]): float(row["tflops_per_gpu"])
            for row in rows("2026-12-01_1xH200_cute")
            if row["direction"] == direction and row["seqlen_total"] == "16384"
        }
        found = [
            speed / speeds[case, "flash_attn_4"]
            for (case, name), speed in speeds.items() if name == "cute"
        ]  # fmt: skip
        assert len(found) == 4
        return f"{min(found):.2f} to {max(found):.2f}"

    forward, backward = shares("forward"), shares("backward")
    assert f"at 16k tokens it has {forward} of its speed forward, and {backward} with its" in PAGE


def test_features_of_a_cache_are_counted_by_backend(findings):
    (line,) = (x for x in PAGE.splitlines() if x.startswith("| a cache of keys"))
    asked = len(CACHE.features)
    right = {x: over_a_cache(findings, x, "ok") for x in {row["backend"] for row in findings}}
    assert right["triton"] == asked
    assert f"right in all {asked} features" in line
    assert f"of the [{asked}](" in line
    assert f"`reference` is right in {right['reference']}, " in line
    for name in ("flash_attn_2", "flag_gems", "flash_attn_4"):
        assert f"`{name}` in {right[name]}" in line
    assert not [row for row in findings if row["verdict"] == "wrong"]
    assert f"over a cache it is right in {right['flag_gems']} of {asked} features" in PAGE
    none = {"cudnn", "cute", "aten", "flex", "flash_attn_3"}
    assert {x for x, count in right.items() if not count} == none


def test_shapes_over_a_cache_are_those_of_the_runs():
    steps = [x["status"] for x in rows("2026-12-01_1xH200_decode") if x["backend"] == "triton"]
    assert set(steps) == {"ok"}
    assert f"in all {len(steps)} shapes of" in PAGE

    def of_theirs(few, many):
        """Of cases with so many queries, how many times as long flash-attn 2 takes: least, most.

        Without windows and given splits, where it may be several times as long.
        """
        by = {
            (x["case"], x["backend"]): float(x["graph_ms"])
            for x in rows("2026-12-01_1xH200_decode")
            if x["status"] == "ok" and few <= int(x["queries"]) <= many and not x["splits"]
            and not x["window_left"]
        }  # fmt: skip
        ratios = [
            took / by[case, "triton"]
            for (case, name), took in by.items()
            if name.startswith("peer")
        ]
        return min(ratios), max(ratios)

    least, most = of_theirs(1, 1)
    assert round(least, 2) >= 1.0
    decoding, chunks = (
        f"up to {most:.1f} times as fast",
        "{:.1f} to {:.1f}".format(*of_theirs(64, 4096)),
    )
    assert (
        f"as fast as flash-attn 2 or {decoding}, and take chunks of a prompt {chunks} times"
        in README
    )
    assert (
        f"as fast as flash-attn 2 there, or {decoding}, and takes chunks of a prompt {chunks}"
        in CHOOSING
    )

    found = [x for x in rows("2026-12-01_1xH200_decode_backends") if x["status"] == "ok"]
    ours = {x["case"]: x for x in found if x["backend"] == "triton"}
    for column in ("latency_ms", "graph_ms"):
        assert all(float(x[column]) >= float(ours[x["case"]][column]) for x in found)
    assert f"in a CUDA graph the fastest in all {len(ours)} of" in PAGE
    assert f"behind them in a CUDA graph in all {len(ours)} shapes of" in README

    def times(name):
        """How many times as long it takes in a CUDA graph, from the least to the most."""
        shares = [
            float(x["graph_ms"]) / float(ours[x["case"]]["graph_ms"])
            for x in found if x["backend"] == name
        ]  # fmt: skip
        return len(shares), f"{min(shares):.2f} to {max(shares):.2f}"

    count, gems = times("flag_gems")
    assert f"all {count} shapes that it was given, in {gems} times the time of `triton`" in PAGE
    _, fourth = times("flash_attn_4")
    assert f"flash_attn_4 takes {fourth} times its time, and flag_gems {gems} " in CHOOSING
    others = sum(times(x)[0] for x in ("flash_attn_2", "flash_attn_4", "flag_gems"))
    assert f"all {others} rows of the suite `decode-backends` that they took" in BACKENDS


def test_the_losses_of_training_are_those_of_its_run():
    with (ROOT / "results/2026-12-01_1xH200_training/losses.csv").open(encoding="utf-8") as file:
        loss = {(x["curve"], x["seed"], x["step"]): float(x["loss"]) for x in csv.DictReader(file)}

    def ends(name):
        """By seed."""
        (curve,) = {curve for curve, *_ in loss if curve.startswith(name)}
        return [loss[curve, seed, "299"] for seed in "012"]

    ours, theirs = ends("triton"), ends("flash_attn_2")
    said = LINES["training with the same results"]
    assert f"flash-attn 2 end at {ours[0]:.4f} and {theirs[0]:.4f} nats (seed 0)" in said
    apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    assert apart < min(max(seeds) - min(seeds) for seeds in (ours, theirs))
