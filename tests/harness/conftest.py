"""Runs the program as a person would, with the planted backends installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ring_attn_bench.bench.record import read

PLANTED = Path(__file__).parent / "planted"
ROOT = Path(__file__).parents[2]

SUITE = """
name = "planted"
case_seconds = {case_seconds}
[timing]
warmup = 0
min_samples = 3
max_samples = 3
seconds = 1
[[grid]]
backends = {backends}
partitions = ["zigzag"]
seqlen_per_gpu = [16]
heads = ["2:1"]
head_dim = [8]
dtype = ["float32"]
deterministic = [{deterministic}]
directions = ["forward", "backward"]
"""


class Program:
    """`python -m ring_attn_bench` in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.out = folder / "run"
        here = filter(None, [os.environ.get("PYTHONPATH")])  # where a machine keeps its packages
        path = [str(ROOT), str(ROOT / "backends"), str(PLANTED), *here]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path),
            "OMP_NUM_THREADS": "1",
        }

    def suite(self, *backends, case_seconds=60.0, deterministic=False):
        """Writes a suite over these backends; returns its path."""
        path = self.folder / "planted.toml"
        text = SUITE.format(
            backends=list(backends),
            case_seconds=case_seconds,
            deterministic=str(deterministic).lower(),
        )
        path.write_text(text.replace("'", '"'))
        return path

    def command(self, *arguments, processes=None):
        """The command line, under torchrun if a number of processes is given."""
        run = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        return [sys.executable, *(run if processes else []), "-m", "ring_attn_bench", *arguments]

    def run(self, *arguments, processes=None, seconds=240):
        """Runs to the end."""
        return subprocess.run(
            self.command(*arguments, processes=processes),
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=self.folder,
            env=self.environment,
            check=False,
        )

    def start(self, *arguments):
        """Starts, and leaves it running."""
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env=self.environment,
        )

    def records(self):
        """By backend and direction, the records of the run."""
        found = read(self.out / "records.jsonl")
        return {(r.contestant.backend, r.direction.value): r for r in found}


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path)


@pytest.fixture(scope="session")
def program_in():
    """For a run that several tests look at."""
    return Program
