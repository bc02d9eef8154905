"""What a program that finds out facts of the machine does where another answers late."""

import subprocess

from ring_attn_bench.machine import environment as env


def test_a_program_that_takes_too_long_leaves_its_fact_unknown(monkeypatch):
    def hangs(command, **_):
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(subprocess, "run", hangs)
    monkeypatch.setattr(env.shutil, "which", lambda name: name)

    assert env._driver() is None
    assert env._commit().get("dirty") is None
