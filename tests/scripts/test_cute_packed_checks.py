"""The checks of packed documents, with launches carried out on a CPU: what they ask is what the
contract says, what is wrong is told, and a folder built ahead has every kernel."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.carried_out_packed import carried_out

SCRIPTS = str(Path(__file__).parents[2] / "scripts")


@pytest.fixture
def scripts(monkeypatch):
    """The module, on a CPU. spoil: what is done to a call's results; launched: all builds."""
    monkeypatch.syspath_prepend(SCRIPTS)
    for name in [x for x in sys.modules if x.split(".")[0] in ("measuring", "documents")]:
        monkeypatch.delitem(sys.modules, name)
    import measuring.cute

    monkeypatch.setattr(measuring.cute, "DEVICE", "cpu")
    import measuring.cute_packed
    import measuring.cute_packed_times

    found = SimpleNamespace(
        checks=measuring.cute_packed, times=measuring.cute_packed_times, launched=[],
        spoil=lambda call: None,
    )  # fmt: skip

    class Launch:
        def __init__(self, call, kept):
            self.call = call
            found.launched.append(call.build)

        def run(self, tensors):
            carried_out(self.call)
            found.spoil(self.call)

    for module in (found.checks, found.times):
        monkeypatch.setattr(module, "Launch", Launch)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    yield found
    for name in [x for x in sys.modules if x.split(".")[0] in ("measuring", "documents")]:
        monkeypatch.delitem(sys.modules, name)


def faults(scripts, check, dim=64):
    truth = scripts.checks.Truth.of(check, dim)
    runs = scripts.checks.runs(check, truth, dim, None)
    return {name: scripts.checks.fault(check, truth, run) for name, run in runs}


def small(scripts):
    return [
        x for x in scripts.checks.CHECKS
        if sum(keys for _, keys in x.lengths) < 3000 and len(x.lengths) <= 100
    ]  # fmt: skip


def test_what_is_right_passes_every_check_and_is_built_ahead(scripts):
    checks = small(scripts)
    assert len(checks) > 15

    for check in checks:
        assert set(faults(scripts, check).values()) == {""}, check.name
    assert set(scripts.launched) <= set(scripts.checks.builds())


def too_large(call):
    for x in call.results:
        x.mul_(1.1)


def of_the_next_document(call):
    starts = call.tensors[-1 if call.build.kernel == "packed.backward_dkdv" else -2]
    for x in call.results:
        x[: int(starts[2])] = x[: int(starts[2])].roll(1, 0)


def other_bits(call):
    for x in call.results:
        x[20, 0, 0] += torch.rand(()).to(x.dtype) * 2**-6


def beside(call):
    for x in call.results:
        torch.as_strided(x, (1,), (1,), x.storage_offset() - 1).fill_(1.0)


def outside(call):
    for x in call.results:
        x[0] = 0.0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (too_large, "is out by"), (of_the_next_document, "is out by"), (other_bits, "other bits"),
        (beside, "beside its results"), (outside, "outside of documents"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)  # fmt: skip
def test_what_is_wrong_is_told(scripts, spoil, said):
    (check,) = [x for x in scripts.checks.CHECKS if x.name == "mixed, tokens outside"]
    scripts.spoil = spoil
    told = faults(scripts, check)

    assert len(told) > 3
    assert all(said in why for why in told.values()), told


@pytest.mark.parametrize("dim", [64, 128])
def test_what_is_timed_is_built_ahead_too(scripts, monkeypatch, capsys, dim):
    monkeypatch.setattr(scripts.times, "TOKENS", 256)
    monkeypatch.setattr(scripts.times, "lengths_of", lambda tokens: {"two": [100, tokens - 100]})
    monkeypatch.setattr(scripts.times, "in_turns", lambda calls, rounds: dict.fromkeys(calls, 1.0))

    def of(lengths, mask, dim):
        q, k = torch.zeros(2, 256, 16, dim).bfloat16(), torch.zeros(2, 256, 4, dim).bfloat16()
        starts = torch.tensor([0, 100, 256], dtype=torch.int32)
        line = torch.zeros(16, 256)
        rows = scripts.times.Rows(q[0], q[1], q[0], line, line)
        documents = scripts.times.Documents(starts, starts, 156, 156, mask)
        return scripts.times.Timed(
            rows, scripts.times.Keys(*k), documents, scripts.times.Score(0.1)
        )

    monkeypatch.setattr(scripts.times.Timed, "of", of)
    scripts.times.print_times(dim, None)
    said = capsys.readouterr().out

    assert set(scripts.launched) <= set(scripts.checks.builds())
    assert said.count("triton is left out") == 2  # there is no GPU for it
    assert "dk, dv" in said
    assert "forward over 256 tokens" in said
