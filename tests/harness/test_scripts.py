"""The scripts that measure: what they say of themselves, and of a machine without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.patience import limit

SCRIPTS = {path.name: path for path in (Path(__file__).parents[2] / "scripts").glob("*.py")}
ON_A_CPU = "host_time.py"


def run(script, *words):
    command = [sys.executable, str(SCRIPTS[script]), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit(120), check=False)


@pytest.mark.parametrize("script", sorted(SCRIPTS.keys() - {ON_A_CPU}))
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
    ]  # fmt: skip
    assert all(float(taken) > 0 and unit == "us" for _, taken, unit in lines)
