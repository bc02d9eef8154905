"""A signal while groups are closed leaves no folder and no process of any of them."""

import sys
import tempfile
from contextlib import suppress
from functools import partial

import pytest

from ring_attn_bench.bench.run import Groups
from ring_attn_bench.errors import Terminated
from ring_attn_bench.workers.group import TorchrunGroup

WORKER = """
import socket, sys, time
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
time.sleep(60)
"""


@pytest.fixture
def group(monkeypatch, tmp_path):
    """Makes groups whose one process connects and answers nothing."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def made():
        found = TorchrunGroup("none", [], 1, {}, "quit")
        found._command = lambda folder: [sys.executable, "-c", WORKER, str(folder / "socket")]
        found._channel()
        return found

    return made


@pytest.mark.parametrize("by", [KeyboardInterrupt, Terminated])
def test_a_signal_that_comes_while_a_run_closes_its_groups_leaves_nothing(
    group, tmp_path, monkeypatch, by
):
    groups = Groups(None, [])
    groups._groups = {("one", 2): group(), ("other", 2): group()}
    started = [one._started.runner for one in groups._groups.values()]

    def comes(runner, timeout=None):
        if timeout is not None:
            raise by
        return type(runner).wait(runner)

    for runner in started:
        monkeypatch.setattr(runner, "wait", partial(comes, runner))
    assert len(list(tmp_path.iterdir())) == 2

    with pytest.raises(by):
        groups.close()

    assert list(tmp_path.iterdir()) == []
    assert [runner.poll() for runner in started] == [-9, -9]


def test_a_signal_while_a_process_is_started_leaves_no_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def comes(folder):
        raise Terminated

    found = TorchrunGroup("none", [], 1, {}, "quit")
    found._command = comes
    with suppress(Terminated):
        found._channel()
    assert list(tmp_path.iterdir()) == []
