"""One run at a time writes into a folder, and who dies lets go of it."""

import signal
import subprocess
import sys

import pytest

from ring_attn_bench.errors import FileError
from ring_attn_bench.records.lock import alone_in

HOLDS = """
import sys, time
from pathlib import Path
from ring_attn_bench.records.lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


def test_a_second_run_is_refused_in_a_sentence_and_may_begin_afterwards(tmp_path):
    with alone_in(tmp_path):
        with pytest.raises(FileError) as raised, alone_in(tmp_path):
            pass
        assert str(raised.value) == (
            f"another run is writing into {tmp_path}; wait until it has ended, or name another "
            "folder with --out."
        )
    with alone_in(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_other_folders_are_free(tmp_path):
    (tmp_path / "other").mkdir()
    with alone_in(tmp_path), alone_in(tmp_path / "other"):
        pass


def test_a_run_that_is_killed_lets_go_of_its_folder(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FileError), alone_in(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with alone_in(tmp_path):
        pass
