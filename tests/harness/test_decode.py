"""Attention over a cache, judged by the program as it is typed, on this machine."""

import csv

import torch

from ring_attn_bench.records.status import Status


def test_rows_and_pages_of_a_cache_are_right_and_come_with_a_report(program):
    done = program.run(
        "check", "--suite", "decode-cpu", "--case", "*_d32_float16_*", "--out", str(program.out),
        seconds=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    records = program.records()
    assert {record.status for record in records.values()} == {Status.OK}
    assert {name for name, _ in records} == {"reference", "triton"}
    assert all(record.case.cache is not None for record in records.values())
    assert (program.out / "report.md").read_text().startswith("# Attention over a cache on ")
    assert torch.cuda.is_available() or "interpreted" in done.stdout


def test_latent_keys_are_judged_on_ranks_too_and_are_a_column_of_the_results(program):
    done = program.run(
        "check", "--suite", "decode-cpu", "--case", "*_q1_page16_dv512_latent", "--ranks", "2",
        "--out", str(program.out), seconds=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    records = program.records()
    assert {record.status for record in records.values()} == {Status.OK}
    assert {name for name, _ in records} == {"reference", "triton"}
    with (program.out / "results.csv").open() as file:
        cells = {(row["head_dim_v"], row["latent"]) for row in csv.DictReader(file)}
    assert cells == {("512", "true")}
