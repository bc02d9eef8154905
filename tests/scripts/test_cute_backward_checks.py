"""The checks of the CuTe backward, with launches carried out on a CPU: what they ask is what the
contract says, what is wrong is told, and a folder built ahead has every kernel."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ring_attn_backends.cute import table

from tests.carried_out import carried_out

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
ADDS = table.ADDS_CANDIDATES[64][0]
WAYS = pytest.mark.parametrize("adds", [None, ADDS], ids=["two kernels", "one that adds"])


@pytest.fixture
def scripts(monkeypatch):
    """The module, on a CPU. spoil: what is done to a call's results; launched: all builds."""
    monkeypatch.syspath_prepend(SCRIPTS)
    for name in [x for x in sys.modules if x.split(".")[0] == "measuring"]:
        monkeypatch.delitem(sys.modules, name)
    import measuring.cute

    monkeypatch.setattr(measuring.cute, "DEVICE", "cpu")
    import measuring.cute_backward

    found = SimpleNamespace(checks=measuring.cute_backward, launched=[], spoil=lambda _: None)

    def enqueue(call, kept):
        found.launched.append(call.build)
        carried_out(call)
        found.spoil(call)

    monkeypatch.setattr(found.checks, "enqueue", enqueue)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    yield found
    for name in [x for x in sys.modules if x.split(".")[0] == "measuring"]:
        monkeypatch.delitem(sys.modules, name)


def small(scripts):
    return [x for x in scripts.checks.CHECKS if x.rows * x.keys < 2**19]


@WAYS
def test_what_is_right_passes_every_check_and_is_built_ahead(scripts, adds):
    faults = {x.name: scripts.checks.fault(x, 64, adds, None) for x in small(scripts)}

    assert len(faults) > 15
    assert not any(faults.values()), faults
    assert set(scripts.launched) <= set(scripts.checks.builds())


def off_by_a_row(call):
    dq = call.tensors[6]
    dq.copy_(dq.roll(1, dims=1))


def other_bits(call):
    dk = call.results[0]
    dk[0, 0, 0, 0] += torch.rand(()).to(dk.dtype) * 2**-6


def beside(call):
    dq = call.tensors[6]
    torch.as_strided(dq, (1,), (1,), dq.storage_offset() - 1).fill_(1.0)


@WAYS
@pytest.mark.parametrize(
    ("spoil", "said"),
    [(off_by_a_row, "dq is out by"), (other_bits, "other bits"), (beside, "beside its results")],
)
def test_what_is_wrong_is_told(scripts, adds, spoil, said):
    (check,) = [x for x in scripts.checks.CHECKS if x.name == "two tiles"]
    scripts.spoil = spoil

    assert said in scripts.checks.fault(check, 64, adds, None)


def test_only_dq_that_is_added_to_may_be_other_bits(scripts):
    (check,) = [x for x in scripts.checks.CHECKS if x.name == "two tiles"]

    def spoil(call):
        call.tensors[6][0, 0, 0, 0] *= 1 + 1e-6 * torch.rand(())

    scripts.spoil = spoil
    assert not scripts.checks.fault(check, 64, ADDS, None)
