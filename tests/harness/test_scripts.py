"""The scripts that measure: what they say of themselves, and of a machine without a GPU."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ring_attn_bench.plan.deal import DEALS
from ring_attn_bench.plan.partition import PARTITIONS
from tests.patience import limit

SCRIPTS = {path.name: path for path in (Path(__file__).parents[2] / "scripts").glob("*.py")}
ON_A_CPU = "host_time.py"
HOSTILE = "hostile_calls.py"  # tests/unit/test_hostile_calls.py has its calls
OF_RECORDS = "memory.py"
PICTURE = "plan_figure.py"
FIGURES = "advise_figures.py"  # tests/unit/advise says whether they are of these results
UPSTREAM = "upstream_tests.py"  # tests/scripts/test_upstream_tests.py runs it
OF_DOCUMENTS = "documents_balance.py"
NEED_NO_GPU = {ON_A_CPU, HOSTILE, OF_RECORDS, PICTURE, FIGURES, UPSTREAM, OF_DOCUMENTS}
RESULTS = Path(__file__).parents[2] / "results"


def run(script, *words):
    command = [sys.executable, str(SCRIPTS[script]), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit(120), check=False)


@pytest.mark.parametrize("script", sorted(SCRIPTS.keys() - NEED_NO_GPU))
def test_a_script_says_what_it_is_for_and_that_it_needs_a_gpu(script):
    help_text, alone = run(script, "--help"), run(script)

    assert help_text.returncode == 0
    assert "--tokens" in help_text.stdout
    if torch.cuda.is_available():
        pytest.skip("here it would measure")
    assert alone.returncode == 2
    assert "no CUDA device" in alone.stderr


def test_the_hosts_time_is_measured_without_a_gpu():
    done = run(ON_A_CPU, "--rounds", "1")

    assert done.returncode == 0, done.stderr
    lines = [line.rsplit(maxsplit=2) for line in done.stdout.splitlines()]
    assert [name.strip() for name, _, _ in lines] == [
        "one launch, forward", "one launch, both", "a ring's rank, forward", "a ring's rank, both",
        "copy_engine, forward", "copy_engine, both", "p2p, forward", "p2p, both",
    ]  # fmt: skip
    assert all(float(taken) > 0 and unit == "us" for _, taken, unit in lines)


def test_a_batch_of_documents_is_dealt_evenly_by_the_partition_that_is_made_for_it():
    done = run(OF_DOCUMENTS, "--batches", "2", "--ranks", "4", "--tokens", "1024")

    assert done.returncode == 0, done.stderr
    imbalance = dict(re.findall(r"^(\w+) +(\d\.\d+) ", done.stdout, re.MULTILINE))
    assert imbalance.keys() == {*PARTITIONS, *DEALS}
    assert float(imbalance["balanced"]) < 1.1 < float(imbalance["contiguous"])


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_what_records_measured_of_memory_is_what_their_plans_say():
    done = run(OF_RECORDS, str(RESULTS / "2026-11-21_4xH200_peers" / "records.jsonl.gz"))

    assert done.returncode == 0, done.stderr
    found = re.findall(r" triton/.* measured, .* predicted \((.*)\)", done.stdout)
    assert len(found) >= 8
    assert {0.99 < float(ratio) < 1.01 for ratio in found} == {True}


def test_the_picture_of_a_plan_is_drawn_and_is_the_one_that_the_docs_show(tmp_path):
    done = run(PICTURE, "--out", str(tmp_path / "plan.png"))

    assert done.returncode == 0, done.stderr
    drawn, shown = (
        np.asarray(Image.open(path).convert("RGB"))
        for path in (tmp_path / "plan.png", SCRIPTS[PICTURE].parents[1] / "docs/zigzag_plan.png")
    )
    assert drawn.shape == shown.shape
    assert (drawn == shown).mean() > 0.9  # fonts differ between machines; what is coloured does not
