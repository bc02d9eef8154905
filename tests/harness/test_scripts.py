"""The scripts that measure on a GPU, where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.patience import limit

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_says_what_it_is_for_and_that_it_needs_a_gpu(script):
    def run(*words):
        command = [sys.executable, str(script), *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=limit(120), check=False
        )

    help_text, alone = run("--help"), run()

    assert help_text.returncode == 0
    assert "--tokens" in help_text.stdout
    if torch.cuda.is_available():
        pytest.skip("here it would measure")
    assert alone.returncode == 2
    assert "no CUDA device" in alone.stderr
