"""`selftest`, as a person types it."""

import json
import os
import signal

import pytest

from ring_attn_bench.records.status import Status
from ring_attn_bench.selftest.planted import FAULTS
from tests.harness.conftest import processes_of, wait_until

SERVE = "ring_attn_bench.selftest.serve"


def test_faults_that_are_planted_are_named_and_the_exit_code_is_0(program):
    some = ["--fault", "no fault in a transport", "--fault", "missing*", "--fault", "a sleep*"]

    done = program.run("selftest", "--json", *some)

    assert done.returncode == 0, done.stdout + done.stderr
    found = {line["fault"]: line for line in json.loads(done.stdout)["faults"]}
    assert {name: line["named"] for name, line in found.items()} == {
        "no fault in a transport": True, "missing dk/dv hop": True, "a sleep on one rank": True,
    }  # fmt: skip
    assert "dk (" in found["missing dk/dv hop"]["said"]
    assert "rank 1 takes" in found["a sleep on one rank"]["said"]
    assert list(program.temporary.iterdir()) == []


def test_a_selftest_that_is_killed_leaves_no_process_and_no_file(program):
    started = program.start("selftest", "--fault", "no fault in a transport")
    wait_until(lambda: processes_of(SERVE, program))

    os.kill(started.pid, signal.SIGKILL)
    started.wait()

    wait_until(lambda: not processes_of(SERVE, program))
    wait_until(lambda: list(program.temporary.iterdir()) == [])


@pytest.mark.full
def test_every_fault_that_shows_between_processes_or_ends_one_is_named(program):
    """Those of kernels' numbers are asked in one process: unit/selftest/test_planted_kernels.py."""
    numbers = [x for x in FAULTS if x.kind == "backend" and x.names.status is Status.WRONG]
    others = [x for x in FAULTS if x not in numbers]

    done = program.run("selftest", *(word for x in others for word in ("--fault", x.name)))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 of 10 faults are named, and 2 of 2 controls are right." in done.stdout
