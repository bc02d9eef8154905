"""The checks of one launch over gathered keys, with launches carried out on a CPU: what they ask
is what the contract says, what is wrong is told, and a folder built ahead has every kernel."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ring_attn_backends.cute import table

from tests.carried_out import carried_out as carried_out_alone
from tests.carried_out_gathered import carried_out

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
NAMES = "cute", "cute_landing", "cute_gathered_times", "cute_gathered"


@pytest.fixture
def scripts(monkeypatch):
    """The modules, on a CPU. spoil: what is done to a call's results; launched: all builds."""
    monkeypatch.syspath_prepend(SCRIPTS)
    before = {name for name in sys.modules if name.split(".")[0] == "measuring"}
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    import measuring.cute

    monkeypatch.setattr(measuring.cute, "DEVICE", "cpu")
    import measuring.cute_gathered
    import measuring.cute_gathered_times
    import measuring.cute_landing

    found = SimpleNamespace(
        **{name: getattr(measuring, name) for name in NAMES}, launched=[], spoil=lambda call: None
    )

    class Launch:
        def __init__(self, call, kept):
            self.call = call
            found.launched.append(call.build)

        def run(self, tensors):
            gathers = self.call.build.kernel.startswith("gathered")
            (carried_out if gathers else carried_out_alone)(self.call)
            found.spoil(self.call)

    stream = SimpleNamespace(wait_stream=lambda _: None)
    for owner, name, stand_in in (
        (found.cute_gathered, "Launch", Launch), (found.cute_gathered_times, "Launch", Launch),
        (torch.cuda, "synchronize", lambda: None), (torch.cuda, "Stream", lambda: stream),
        (torch.cuda, "current_stream", lambda: stream), (torch.cuda, "_sleep", lambda _: None),
        (torch.cuda, "stream", lambda _: nullcontext()),
        (torch.Tensor, "pin_memory", lambda x: x),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, stand_in)
    yield found
    for name in [x for x in sys.modules if x.split(".")[0] == "measuring"]:
        monkeypatch.delitem(sys.modules, name)


def faults(scripts, check, dim=64):
    truth = scripts.cute_gathered.Truth.of(check, dim)
    runs = scripts.cute_gathered.runs(check, truth, dim, None)
    return {name: scripts.cute_gathered.fault(check, truth, run) for name, run in runs}


def checks_of(scripts):
    """Those that are small, and lose nothing."""
    return [x for x in scripts.cute_landing.CHECKS if x.tokens < 500 and not x.lost]


def test_what_is_right_is_found_right_whether_it_had_landed_or_not(scripts):
    checks = checks_of(scripts)
    assert {check.late for check in checks} == {True, False}

    for check in checks:
        assert set(faults(scripts, check).values()) == {""}, check.name


@pytest.mark.parametrize("dim", [192, 256])
def test_head_dims_that_are_proposed_are_asked_too_and_built_ahead(scripts, monkeypatch, dim):
    for has, proposed in zip((table.TABLE, table.BACKWARD), table.proposed([dim]), strict=True):
        for key, config in proposed.items():
            monkeypatch.setitem(has, key, config)
    (check,) = (x for x in scripts.cute_landing.CHECKS if x.name == "all landed, causal")

    assert set(faults(scripts, check, dim).values()) == {""}
    assert set(scripts.launched) <= set(scripts.cute_gathered.builds([dim]))


@pytest.mark.parametrize("name", ["forward", "dk, dv", "dq"])
@pytest.mark.parametrize(
    ("change", "said"),
    [(lambda x: x.mul_(1.1), "is out by"), (lambda x: x.fill_(torch.nan), "is out by")],
    ids=["too large", "nan"],
)
def test_what_is_wrong_is_told(scripts, name, change, said):
    scripts.spoil = lambda call: [change(x) for x in call.results]
    (check,) = (x for x in scripts.cute_landing.CHECKS if x.name == "all landed, causal")
    told = {kernel: why for kernel, why in faults(scripts, check).items() if name in kernel}

    assert told
    assert all(said in why for why in told.values())


def test_a_lost_piece_that_is_not_told_is_found(scripts):
    (lost,) = (x for x in scripts.cute_landing.CHECKS if x.lost)
    landed = replace(lost, lost=False, late=False)  # the model does not wait
    truth = scripts.cute_gathered.Truth.of(landed, 64)
    runs = list(scripts.cute_gathered.runs(landed, truth, 64, None))
    told = [scripts.cute_gathered.fault(lost, truth, run) for _, run in runs]
    scripts.spoil = lambda call: [x.fill_(torch.nan) for x in written(call)]

    assert len(told) == 4
    assert all("does not tell that a piece is lost" in said for said in told)
    assert not any(scripts.cute_gathered.fault(lost, truth, run) for _, run in runs)


def written(call):
    """All results of a launch: lse too, and what is added to."""
    more = {"gathered.forward": 6, "gathered.backward_adding": 8}.get(call.build.kernel)
    return call.results if more is None else (*call.results, call.tensors[more])


def test_all_that_is_launched_is_built_ahead(scripts, monkeypatch, capsys):
    monkeypatch.setattr(scripts.cute_gathered_times, "KEY_HEADS", 1)
    monkeypatch.setattr(scripts.cute_gathered_times, "HEADS", 1)
    monkeypatch.setattr(scripts.cute_gathered_times, "LENGTHS", (300,))
    monkeypatch.setattr(
        scripts.cute_gathered_times, "in_turns", lambda calls, rounds: dict.fromkeys(calls, 1.0)
    )
    scripts.cute_gathered_times.print_times(None)
    printed = capsys.readouterr().out
    for dim in (64, 128):
        for check in scripts.cute_landing.CHECKS:
            if check.tokens < 300 and not check.late:
                faults(scripts, check, dim)

    assert set(scripts.launched) <= set(scripts.cute_gathered.builds())
    assert printed.count("forward") == printed.count("dk, dv") == 2
