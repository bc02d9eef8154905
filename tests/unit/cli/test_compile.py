"""`compile`: what a backend compiles before it is called, and which have nothing to."""

import pytest
import ring_attn_backends
from ring_attn_backends.cute import serves
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.contract.ahead import CompiledAhead
from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.errors import BackendUnavailable


class Ahead(ReferenceBackend):
    name = "ahead"
    architectures = ("sm_90a", "sm_100a")
    asked: list
    fails = False

    @classmethod
    def kernels_ahead(cls, architecture):
        return 2

    @classmethod
    def compile_ahead(cls, architecture, jobs):
        Ahead.asked.append((architecture, jobs))
        yield CompiledAhead("forward d64", 3.25)
        if cls.fails:
            raise BackendUnavailable("ahead", "the compiler ended with 1 on forward d128")
        yield CompiledAhead("forward d128", None)


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    monkeypatch.setattr(Ahead, "asked", [], raising=False)
    monkeypatch.setitem(ring_attn_backends.BACKENDS, "ahead", f"{__name__}:Ahead")
    return Ahead.asked


def test_each_kernel_is_told_when_it_is_done_and_how_many_were_there(program, asked):
    code, said, _ = program("compile", "ahead", "--jobs", "3")

    assert code == 0
    assert said.splitlines()[:2] == ["1/2  forward d64  3.2 s", "2/2  forward d128  was there"]
    assert "2 kernels for sm_90a: 1 compiled in" in said
    assert said.rstrip().endswith("1 were there.")
    assert asked == [("sm_90a", 3)]


def test_the_architecture_is_one_that_the_backend_has(program, asked):
    assert program("compile", "ahead", "--arch", "sm_100a", "--jobs", "1")[0] == 0
    code, _, error = program("compile", "ahead", "--arch", "sm_80")

    assert asked == [("sm_100a", 1)]
    assert code == 2
    assert "it has no kernels for sm_80; it has some for sm_90a, sm_100a" in " ".join(error.split())


def test_a_backend_without_kernels_of_its_own_says_so(program):
    code, _, error = program("compile", "reference")

    assert code == 2
    assert "it has nothing to compile ahead" in " ".join(error.split())


def test_what_the_compiler_said_is_shown_after_what_was_compiled(program, monkeypatch):
    monkeypatch.setattr(Ahead, "fails", True)
    code, said, error = program("compile", "ahead")

    assert code == 2
    assert "forward d64" in said
    assert "ended with 1 on forward d128" in " ".join(error.split())


def test_a_machine_without_the_compiler_is_told_what_installs_it(program, monkeypatch):
    def version(name):
        raise serves.PackageNotFoundError(name)

    monkeypatch.setattr(serves, "version", version)
    code, said, error = program("compile", "cute", "--arch", "sm_90a")

    assert code == 3
    assert said == ""
    assert COMMANDS["nvidia_cutlass_dsl"] in " ".join(error.split())


def test_the_kernels_of_cute_are_for_hopper(program):
    code, _, error = program("compile", "cute", "--arch", "sm_100a")

    assert code == 2
    assert "it has no kernels for sm_100a; it has some for sm_90a" in " ".join(error.split())
