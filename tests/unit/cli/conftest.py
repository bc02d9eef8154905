"""A command line, run in this process."""

import sys

import pytest

from ring_attn_bench import cli
from ring_attn_bench.cli import exits


@pytest.fixture
def program(monkeypatch, capsys):
    """Runs words as a command line; its exit code, and what it said where."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["ring-attn-bench", *map(str, words)])
        monkeypatch.setattr(exits.signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run
