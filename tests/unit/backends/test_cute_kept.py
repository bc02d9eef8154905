"""What is compiled is kept, found again and announced: with a compiler that leaves a file."""

import json
import logging
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ring_attn_backends.cute import ahead, build

from ring_attn_bench.errors import BackendUnavailable
from tests.cute_builds import REPRESENTATIVE

ONE, OTHER = REPRESENTATIVE[:2]


class Launch(SimpleNamespace):
    """What the compiler gives back: it can be written, unless the disk is full."""

    full = False

    def export_to_c(self, folder, name, symbol):
        (Path(folder) / f"{name}.o").write_text("half")
        if self.full:
            raise OSError(28, "No space left on device")
        (Path(folder) / f"{name}.o").write_text(f"{self.of}: {symbol}")


@pytest.fixture
def compiled(monkeypatch):
    """Which builds were compiled, by this process or by one of its own, which this one plays."""
    done = []

    def compile_here(one, options=""):
        done.append(one)
        return Launch(of=str(one))

    def run(command, **_):
        said = []
        monkeypatch.setattr(build, "print", lambda text, **_: said.append(str(text)), raising=False)
        try:
            build.keep_all(command[-1])
        except SystemExit as ended:
            return SimpleNamespace(returncode=ended.code, stderr=" ".join(said), stdout="")
        return SimpleNamespace(returncode=0, stderr="", stdout="")

    monkeypatch.setattr(build, "compiled", compile_here)
    monkeypatch.setattr(build, "loaded", lambda path: path.read_text())
    monkeypatch.setattr(build, "version", lambda name: "4.8.1")
    monkeypatch.setattr(build.subprocess, "run", run)
    build.function.cache_clear()
    yield done
    build.function.cache_clear()


def test_a_kernel_is_compiled_once_for_all_processes(compiled, tmp_path):
    first = build.function(ONE, tmp_path)
    build.function.cache_clear()  # as in another process

    assert build.function(ONE, tmp_path) == first
    assert compiled == [ONE]
    build.function(OTHER, tmp_path)
    assert compiled == [ONE, OTHER]


def test_what_is_kept_is_whole_and_nothing_else_is_left(compiled, tmp_path):
    build.build_all([ONE, OTHER], tmp_path)

    assert {x.name for x in tmp_path.iterdir()} == {build.name_of(x) for x in (ONE, OTHER)}
    assert all(x.read_text().endswith(": launch") for x in tmp_path.iterdir())


def test_whoever_is_interrupted_while_it_writes_leaves_nothing_behind(
    compiled, monkeypatch, tmp_path
):
    monkeypatch.setattr(Launch, "full", True)

    with pytest.raises(OSError, match="No space left"):
        build.build_all([ONE], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (build, "_sources", lambda: "others"),
        (build, "version", lambda name: "4.8.2"),
        (build.sys, "version_info", (3, 99)),
        (build, "ARCHITECTURE", "sm_91a"),
    ],
    ids=["sources", "compiler", "Python", "architecture"],
)
def test_a_name_is_of_all_that_an_object_depends_on(compiled, monkeypatch, owner, name, value):
    before = build.name_of(ONE)

    monkeypatch.setattr(owner, name, value)
    assert build.name_of(ONE) != before


def test_every_build_has_a_name_of_its_own(compiled):
    every = list(ahead.builds())

    assert len(set(map(build.name_of, every))) == len(every)
    lazy = replace(ONE, config=replace(ONE.config, lazy=False))
    assert build.name_of(lazy) != build.name_of(ONE)


def test_in_a_folder_that_is_read_only_what_is_there_is_found(compiled, monkeypatch, tmp_path):
    build.function(ONE, tmp_path)
    build.function.cache_clear()
    monkeypatch.setattr(build.os, "access", lambda path, mode: mode != os.W_OK)

    assert build.function(ONE, tmp_path)
    assert compiled == [ONE]


def test_what_is_not_there_is_compiled_for_the_process(compiled, monkeypatch, tmp_path):
    monkeypatch.setattr(build.os, "access", lambda path, mode: mode != os.W_OK)

    assert build.function(ONE, tmp_path).of == str(ONE)
    assert list(tmp_path.iterdir()) == []
    assert compiled == [ONE]


def test_a_full_disk_costs_a_compilation_and_no_call(compiled, monkeypatch, tmp_path):
    monkeypatch.setattr(Launch, "full", True)

    assert build.function(ONE, tmp_path).of == str(ONE)
    assert list(tmp_path.iterdir()) == []


def test_a_user_without_a_home_gets_it_compiled_and_compile_says_why_it_cannot(
    compiled, monkeypatch
):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)

    assert build.function(ONE).of == str(ONE)
    with pytest.raises(BackendUnavailable, match="nothing can be kept: Could not determine home"):
        ahead.compile_all(1)


def test_compile_says_why_nothing_can_be_kept(compiled, tmp_path):
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(BackendUnavailable, match="file"):
        list(ahead.compile_all(1, tmp_path / "file" / "kept"))


@pytest.mark.parametrize(
    ("seconds", "folder", "said"),
    [
        (4.0, "kept", f"had {ONE} ready after 4.0 s; `ring-attn-bench compile cute` does it ahead"),
        (4.0, "file/kept", f"had {ONE} ready after 4.0 s; this process alone has it: "),
        (0.4, "kept", None),
    ],
)
def test_what_takes_over_a_second_is_said_once(
    compiled, monkeypatch, caplog, tmp_path, seconds, folder, said
):
    (tmp_path / "file").write_text("no folder")
    clock = iter((100.0, 100.0 + seconds))
    monkeypatch.setattr(build.time, "perf_counter", lambda: next(clock))

    with caplog.at_level(logging.DEBUG, logger="ring_attn_bench"):
        build.function(ONE, tmp_path / folder)
        build.function(ONE, tmp_path / folder)

    told = [(x.levelname, x.getMessage()) for x in caplog.records]
    assert len(told) == (said is not None)
    assert all(level == "WARNING" and said in message for level, message in told)


def test_what_the_compiler_said_last_is_told(compiled, monkeypatch, tmp_path):
    def fails(command, **_):
        assert json.loads(command[-1])[0][0] == asdict(ONE)
        assert command[2] == sys.executable
        return SimpleNamespace(returncode=1, stderr="a\nb: no such\n  instruction", stdout="")

    monkeypatch.setattr(build.subprocess, "run", fails)

    with pytest.raises(BackendUnavailable, match=r"ended with 1 on .*: a b: no such instruction"):
        build.function(ONE, tmp_path)
