"""`quick` is quick, and says what cannot run here once."""

import pytest
import torch

from ring_attn_bench import registry
from ring_attn_bench.bench import quick
from ring_attn_bench.bench.contestant import Refused
from ring_attn_bench.errors import MachineLacks
from ring_attn_bench.machine import plug_ins
from ring_attn_bench.machine.plug_ins import PlugIn

MISSING = ("flash_attn_2", "flash_attn_3")


@pytest.fixture
def said(monkeypatch):
    """What it says, over two backends that are not here and two that are."""

    def ask(names):
        reasons = {name: "it is not installed" for name in names if name in MISSING}
        lost = {name: PlugIn(status="unsupported", reason=x) for name, x in reasons.items()}
        return plug_ins.Inventory({}, {**dict.fromkeys(names, PlugIn()), **lost})

    def fared(name, partition, machine):
        if name == "flex" and partition == "striped":
            raise Refused("it does not deal so.")
        return "ok", False

    table = dict.fromkeys(("aten", "flash_attn_2", "flex", "flash_attn_3"))
    monkeypatch.setattr(plug_ins, "ask", ask)
    monkeypatch.setattr(registry, "backends", lambda: table)
    monkeypatch.setattr(quick, "_fared", fared)
    return []


def test_each_reason_is_said_once_and_last(said):
    assert quick.quick_check((), said.append) == 0
    assert [line.split() for line in said[:5]] == [
        ["aten", "contiguous", "ok"], ["aten", "zigzag", "ok"], ["aten", "striped", "ok"],
        ["flex", "contiguous", "ok"], ["flex", "zigzag", "ok"],
    ]  # fmt: skip
    assert said[5:] == [
        "unsupported: flash_attn_2, flash_attn_3: it is not installed.",
        "unsupported: flex striped: it does not deal so.",
    ]


def test_a_backend_that_is_asked_for_by_name_and_not_here_is_what_the_machine_lacks(said):
    with pytest.raises(MachineLacks, match="backend 'flash_attn_3' is unavailable here: it is not"):
        quick.quick_check(("aten", "flash_attn_3"), said.append)
    assert said == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("planted"), ("oom: out of memory: planted", False)),
        (ValueError("planted"), ("error: ValueError: planted", True)),
    ],
)
def test_out_of_memory_is_an_answer_and_an_error_is_none(monkeypatch, error, told):
    def prepare(*arguments):
        raise error

    monkeypatch.setattr(quick, "prepare", prepare)

    assert quick._fared("aten", "zigzag", plug_ins.Inventory({})) == told


def test_an_interpreted_kernel_is_asked_less_and_the_same():
    whole, short = (quick._case(gpu=False, short=short) for short in (False, True))

    assert short.batch * short.heads_q * short.head_dim * 8 == (
        whole.batch * whole.heads_q * whole.head_dim
    )
    assert short.heads_q // short.heads_kv == whole.heads_q // whole.heads_kv == 2
