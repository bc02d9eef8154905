"""A self-check says what is right here and what is wrong, and one fault does not hide the rest."""

import json

import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend
from typer.testing import CliRunner

from ring_attn_bench import registry
from ring_attn_bench.cli import app
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.machine import as_json, plug_ins, self_check, terminal
from ring_attn_bench.machine.looks import Look
from ring_attn_bench.records.gpus import GpuLook
from ring_attn_bench.records.status import Status
from ring_attn_bench.workers.reply import WorkerFailed


class Off(ReferenceBackend):
    """A twentieth too much of one gradient."""

    def backward(self, *arguments, **options):
        dq, dk, dv = super().backward(*arguments, **options)
        return dq, dk * 1.05, dv


class Raises(ReferenceBackend):
    def forward(self, *arguments):
        raise RuntimeError("no kernel image is available")


def planted(monkeypatch, **kinds):
    """These backends alone; one that is no class cannot be had."""

    def load(name):
        if not isinstance(kinds[name], type):
            raise BackendUnavailable(name, kinds[name])
        return type(name, (kinds[name],), {"name": name})()

    monkeypatch.setattr(registry, "backends", lambda: kinds)
    monkeypatch.setattr(registry, "load", load)
    (look,) = (x for x in self_check.look_around() if x.what == "attention")
    return look


def test_what_can_run_here_is_right():
    looks = list(self_check.look_around())

    assert looks[0].what == "attention"
    assert [x for x in looks if x.is_right is False] == []
    if not torch.cuda.is_available():
        assert "on cpu: forward and backward in" in looks[0].found


def test_the_first_kernel_that_can_is_asked(monkeypatch):
    look = planted(monkeypatch, gone="it is not installed", here=ReferenceBackend)

    assert look.is_right
    assert look.found.startswith("here on ")


def test_a_wrong_gradient_is_named(monkeypatch):
    look = planted(monkeypatch, off=Off)

    assert look.is_right is False
    assert "dk is out by" in look.found


def test_a_kernel_that_fails_is_named_with_its_words(monkeypatch):
    look = planted(monkeypatch, raises=Raises)

    assert look.is_right is False
    assert "raises on " in look.found
    assert "no kernel image is available" in look.found


def test_where_no_kernel_can_the_reasons_are_said(monkeypatch):
    look = planted(monkeypatch, gone="it is not installed", lost="it is lost")

    assert look.is_right is False
    assert "gone: it is not installed; lost: it is lost" in look.found


def test_clocks_are_told_with_their_limits_and_what_holds_them_back():
    now = GpuLook(sm_mhz=1755, watts=648.1, celsius=61, held_back=("SW power cap",))

    assert self_check.clocks(now, 1980, 700.0) == (
        "1755 of 1980 MHz, 648.1 of 700 W, 61 degrees C; held back by SW power cap"
    )
    assert self_check.clocks(GpuLook(), None, None) == "NVML says nothing of them"


def test_a_look_that_raises_is_a_fault_and_the_next_goes_on():
    def fails():
        raise OSError("libcuda.so.1: cannot open shared object file")

    assert self_check._guarded("multicast", fails) == Look(
        what="multicast",
        found="OSError: libcuda.so.1: cannot open shared object file",
        is_right=False,
    )


def test_a_process_that_ends_while_it_looks_is_a_fault(monkeypatch):
    def ends(hand, *question):
        raise WorkerFailed(Status.ERROR, "the process died (signal 11)")

    monkeypatch.setattr(plug_ins.Hand, "ask", ends)
    (look,) = plug_ins.check()

    assert look.is_right is False
    assert "signal 11" in look.found


LOOKS = (
    Look(what="attention", found="aten on cpu " * 20, is_right=True),
    Look(what="multicast", found="the GPU can"),
)


def test_what_was_found_fits_the_terminal():
    shown = terminal.looks(LOOKS, 80)

    assert max(map(len, shown.splitlines())) <= 80
    assert "right" in shown
    assert terminal.looks((), 80) == ""
    assert json.loads(as_json.machine({}, LOOKS))["looks"][1] == {
        "what": "multicast", "found": "the GPU can", "is_right": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "is_right", "code"),
    [((), True, 0), ((), False, 1), (("--json",), False, 1), (("--no-check",), False, 0)],
)
def test_env_ends_with_1_where_something_is_wrong(monkeypatch, words, is_right, code):
    look = Look(what="attention", found="so it is", is_right=is_right)
    monkeypatch.setattr(plug_ins, "check", lambda: (look,))
    monkeypatch.setattr(plug_ins, "ask", lambda: plug_ins.Inventory({"torch": "2"}))
    done = CliRunner().invoke(app, ["env", *words])

    assert done.exit_code == code
    assert ("so it is" in done.output) is (words != ("--no-check",))
