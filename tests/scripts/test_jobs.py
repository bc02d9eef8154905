"""scripts/jobs.sh and test_jobs.sh: what run_tests.sh and .ci/run stand on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.patience import limit

SCRIPTS = Path(__file__).parents[2] / "scripts"
BEGINNING = f"""set -euo pipefail
source {SCRIPTS}/jobs.sh
"""


def shell(text, **environment):
    """A running shell; its output ends when its jobs have."""
    return subprocess.Popen(
        ["bash", "-c", BEGINNING + text],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


def finished(text, **environment):
    running = shell(text, **environment)
    output, _ = running.communicate(timeout=limit(30))
    return running.returncode, output


def test_all_jobs_run_whatever_becomes_of_the_first_and_the_table_says_what():
    code, output = finished(
        """
        fails_in_the_middle() { echo first line; false; echo never; }
        job "one" fails_in_the_middle
        job "two words" echo "a  b" '$HOME'
        job "three" bash -c 'exit 7'
        run_jobs
        echo not reached
        """,
        JOBS="1",
    )

    assert code == 1
    assert "first line" in output
    assert "never" not in output
    assert "not reached" not in output
    assert "a  b $HOME" in output
    assert re.search(
        r"\nseconds +result +job\n"
        r" +\d+ +failed \(1\) +one\n"
        r" +\d+ +passed +two words\n"
        r" +\d+ +failed \(7\) +three\n\Z",
        output,
    )


def test_jobs_side_by_side_print_in_one_piece_each():
    """Each waits for the other's file: one after another, they would wait for ever."""
    code, output = finished(
        """
        folder=$(mktemp -d)
        meets() { # own name, the other's
            echo "$1 begins"
            touch "$folder/$1"
            until [[ -e $folder/$2 ]]; do sleep 0.05; done
            echo "$1 ends"
        }
        job "left" meets left right
        job "right" meets right left
        run_jobs
        rm -r "$folder"
        """,
        JOBS="2",
    )

    assert code == 0
    for name in ("left", "right"):
        assert f"== {name}\n{name} begins\n{name} ends\n-- passed" in output


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process_and_shows_where_it_was(tmp_path, how):
    mark = tmp_path / "pid"
    running = shell(
        f"""
        stays() {{ echo so far; bash -c 'echo $$ >{mark}; while true; do sleep 0.1; done'; }}
        job "long" stays
        run_jobs
        """
    )
    wait_until(lambda: mark.exists() and mark.read_text())
    worker = Path(f"/proc/{mark.read_text().strip()}")
    assert worker.exists()

    running.send_signal(how)
    output, _ = running.communicate(timeout=limit(30))

    assert running.returncode == (-how if how is signal.SIGKILL else 128 + how)
    wait_until(lambda: not worker.exists())
    if how is not signal.SIGKILL:
        assert "== long\nso far\n-- interrupted after" in output


@pytest.mark.parametrize(
    ("options", "answer", "code"),
    [
        ("", 5, 5),
        ("--full", 5, 5),
        ("--full -k zigzag", 5, 79),
        ("-k zigzag", 0, 0),
        ("-k zigzag", 1, 1),
    ],
)
def test_a_job_without_a_test_fails_and_says_so_where_options_may_have_left_it_none(
    tmp_path, options, answer, code
):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexit {answer}\n")
    python.chmod(0o755)
    text = f"options=({options})\nsource {SCRIPTS}/test_jobs.sh\nrun_pytest tests"

    assert finished(text, PYTHON=str(python))[0] == code


@pytest.mark.parametrize(
    ("codes", "code", "results"),
    [
        ((79, 0), 0, ["nothing ran", "passed"]),
        ((79, 79), 1, ["nothing ran", "nothing ran"]),
        ((79, 1), 1, ["nothing ran", "failed (1)"]),
        ((5, 0), 1, ["failed (5)", "passed"]),
    ],
)
def test_a_job_may_have_nothing_to_do_and_not_all_of_them(codes, code, results):
    jobs = "\n".join(f'job "{n}" bash -c "exit {x}"' for n, x in enumerate(codes))
    found, output = finished(f"{jobs}\nrun_jobs")

    assert found == code
    assert re.findall(r"\n +\d+ +(\S.*\S) +\d", output.rpartition("seconds")[2]) == results
    assert ("Nothing ran" in output) == (set(codes) == {79})


def wait_until(condition):
    deadline = time.monotonic() + limit(20)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
