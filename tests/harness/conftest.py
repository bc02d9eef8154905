"""Runs the program as a person would, with the planted backends installed."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path

import pytest

from ring_attn_bench.records.record import read
from tests.patience import limit

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
        self.temporary = Path(tempfile.mkdtemp(prefix="t-"))  # short: a socket's path is in there
        weakref.finalize(self, shutil.rmtree, self.temporary, ignore_errors=True)
        here = filter(None, [os.environ.get("PYTHONPATH")])  # where a machine keeps its packages
        path = [str(ROOT), str(ROOT / "backends"), str(PLANTED), *here]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path),
            "TMPDIR": str(self.temporary),
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
        """Runs to the end; seconds: of a quiet machine."""
        return subprocess.run(
            self.command(*arguments, processes=processes),
            capture_output=True,
            text=True,
            timeout=limit(seconds),
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


class Finished:
    """A run of a suite that several tests look at: to start its processes takes most of its time.

    Each of them imports torch, and there are three for each backend.
    """

    def __init__(self, program, *words, seconds=240):
        self.program = program
        self.out = program.out
        self.done = program.run(*words, "--out", str(program.out), seconds=seconds)
        self.records = program.records()


@pytest.fixture
def program(tmp_path):
    return Program(tmp_path)


@pytest.fixture(scope="session")
def program_in():
    """For a run that several tests look at."""
    return Program


@pytest.fixture(scope="session")
def failing(tmp_path_factory):
    """`bench` over backends that fail, each in its own way, and two that are right."""
    program = Program(tmp_path_factory.mktemp("failing"))
    backends = (
        "crash crash_on_import hang raise_on_one_rank out_of_memory wrong crash_when_timed "
        "reference aten"
    )
    suite = program.suite(*backends.split(), case_seconds=limit(16))
    return Finished(program, "bench", "--suite", str(suite))


@pytest.fixture(scope="session")
def refusing(tmp_path_factory):
    """`bench` over what refuses, or cannot run, and a peer that needs a call without a mask."""
    program = Program(tmp_path_factory.mktemp("refusing"))
    suite = program.suite("no_backward", "unimportable", "peer:torch_cp[math]")
    text = suite.read_text().replace('["zigzag"]', '["contiguous"]').replace('"2:1"', '"2:2"')
    suite.write_text(f"{text}causal = [false]\n")
    return Finished(program, "bench", "--suite", str(suite))


@pytest.fixture(scope="session")
def listing(tmp_path_factory):
    """The finished `list`."""
    return Program(tmp_path_factory.mktemp("list")).run("list")


def pytest_collection_modifyitems(items):
    """A run of the program hangs after 280 s of a quiet machine; patience is measured if needed."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.timeout(limit(280)))


def wait_until(condition, seconds=90):
    """Fails if it does not hold within so many seconds of a quiet machine."""
    deadline = time.monotonic() + limit(seconds)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes_of(module, program):
    """Process ids of the processes that a program has started; module: what they run."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - names are enough
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            home = Path(f"/proc/{pid}/cwd").readlink()
        except OSError:
            continue
        runs = words[words.index("-m") + 1] if "-m" in words else ""
        if module == runs and home == program.folder:
            found.add(int(pid))
    return found
