"""What is asked of another process, and what is said where it gives no answer."""

import subprocess
import tempfile

import pytest

from ring_attn_bench.errors import NoAnswer
from ring_attn_bench.machine import environment as env

SERVES = """
import sys
from ring_attn_bench.machine.environment import Described
from ring_attn_bench.workers.serving import serve
def answer(line):
    {}
serve(sys.argv[1:], lambda: answer)
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Asks a process that serves a module with this statement in it."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def ask(statement):
        (tmp_path / "planted_machine.py").write_text(SERVES.format(statement))
        try:
            return env.asked("planted_machine", env.ToDescribe(), env.Described)
        finally:
            assert list((tmp_path / "temporary").iterdir()) == []

    return ask


def test_what_it_finds_out_comes_as_it_is_whatever_else_it_prints(asked):
    facts = {"gpu": None, "gpu_memory_gib": 80.0, "cpu_count": 2, "dirty": True, "cuda": "13.0"}

    found = asked(f"print('imported'); return Described(environment={facts})").environment

    assert found == facts
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in facts.items()
    }


def test_one_that_dies_is_told_of_with_its_last_words(asked):
    with pytest.raises(NoAnswer, match=r"cannot find out .* died \(exit code 1\).*KeyError: 'it'"):
        asked("raise KeyError('it')")


def test_one_that_is_silent_is_killed(asked, monkeypatch):
    monkeypatch.setattr(env, "ANSWER_SECONDS", 0.5)

    with pytest.raises(NoAnswer, match=r"no answer within 0\.5 s; the process was killed"):
        asked("import time; time.sleep(60)")


def test_a_program_that_takes_too_long_leaves_its_fact_unknown(monkeypatch):
    def hangs(command, **_):
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(subprocess, "run", hangs)
    monkeypatch.setattr(env.shutil, "which", lambda name: name)

    assert env._driver() is None
    assert env._commit().get("dirty") is None
