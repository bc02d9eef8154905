"""Packed documents, measured by the program as it is typed: on one rank, and on a ring of gloo."""

import csv

import pytest

from ring_attn_bench.records.status import Status

SMALL = {
    "backends": "reference", "transport": "p2p", "seqlen_per_gpu": "256", "heads": "4:2",
    "head_dim": "16", "dtype": "float32", "documents": "histogram:1", "timing.seconds": "0.1",
    "timing.min_samples": "3", "timing.max_samples": "3", "timing.warmup": "0",
}  # fmt: skip
"""The suite `documents`, where there is no GPU."""


@pytest.mark.parametrize(("ranks", "partitions"), [
    (1, {"contiguous"}), (2, {"contiguous", "zigzag", "balanced", "head_tail"}),
])  # fmt: skip
def test_the_suite_is_right_and_has_speeds_and_imbalances(program, ranks, partitions):
    words = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    done = program.run(
        "bench", "--suite", "documents", "--ranks", str(ranks), "--out", str(program.out), *words,
        seconds=180,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    with (program.out / "results.csv").open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert {row["status"] for row in rows} == {Status.OK.value}
    assert {row["partition"] for row in rows} == partitions
    assert {row["documents"] for row in rows} == {"histogram:1"}
    assert all(float(row["latency_ms"]) > 0 for row in rows)
    assert {float(row["executed_over_useful_flops"]) for row in rows} == {1.0}
    by_name = {row["partition"]: float(row["imbalance"]) for row in rows if row["causal"] == "true"}
    assert by_name.get("balanced", 1.0) < 1.01 <= by_name["contiguous"] or ranks == 1
    assert "documents histogram:1" in (program.out / "report.md").read_text(encoding="utf-8")


def test_the_longest_sequence_is_no_question_about_documents(program):
    done = program.run("longest", "--suite", "documents", "--out", str(program.out))

    assert done.returncode == 2
    assert "'documents' has packed documents, which are others at each length" in done.stderr
    assert not program.out.exists()
