"""A run of faults that hangs or dies is named as that, and leaves nothing behind."""

import tempfile

import pytest

from ring_attn_bench.selftest import run
from ring_attn_bench.selftest.planted import FAULTS


@pytest.fixture
def said(tmp_path, monkeypatch):
    """What is heard of two faults where `bench` is this source instead."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(run, "SERVE", "planted_bench")

    def hear(source):
        (tmp_path / "planted_bench.py").write_text(source)
        told = []
        every = run.selftest(run.planted("cpu", [x.name for x in FAULTS[:2]]), "cpu", told.append)
        assert sorted(told, key=str) == sorted(every, key=str)
        assert list((tmp_path / "temporary").iterdir()) == []
        assert [found.is_named for found in every] == [False, False]
        return {found.said for found in every}

    return hear


def test_a_bench_that_dies_is_told_of_with_its_last_words(said):
    (words,) = said("raise KeyError('planted')")

    assert words.endswith(
        "records; the run of bench died (exit code 1); its last words: KeyError: 'planted'"
    )


def test_a_bench_that_hangs_is_killed_and_said_to_be_silent(said, monkeypatch):
    monkeypatch.setattr(run, "SILENT_SECONDS", 0.5)

    (words,) = said("import time; time.sleep(60)")

    assert "no answer within 0.5 s; the run of bench was killed" in words
