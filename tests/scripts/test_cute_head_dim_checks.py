"""The checks of head dims that the CuTe tables lack, with launches carried out on a CPU."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ring_attn_backends.cute import table

from tests.carried_out import carried_out

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
DIMS = 96, 192, 256
ALONE = [
    (kernel, configs[0])
    for (kernel, width), configs in table.BACKWARD_CANDIDATES.items()
    if width in DIMS
]


def forget():
    for name in [x for x in sys.modules if x.split(".")[0] in ("measuring", "cute_check")]:
        del sys.modules[name]


@pytest.fixture
def scripts(monkeypatch):
    """The modules, on a CPU. spoil: what is done to a call's results; launched: all builds."""
    pytest.importorskip("tabulate")
    monkeypatch.syspath_prepend(SCRIPTS)
    forget()
    before = dict(table.TABLE), dict(table.BACKWARD)
    import measuring.cute

    monkeypatch.setattr(measuring.cute, "DEVICE", "cpu")
    import cute_check
    import measuring.cute_backward

    found = SimpleNamespace(
        forward=cute_check, backward=measuring.cute_backward, launched=[], spoil=lambda _: None,
        propose=measuring.cute.propose,
        small=[x for x in measuring.cute.CHECKS if x.rows * x.keys < 2**17],
    )  # fmt: skip

    def enqueue(call, kept):
        found.launched.append(call.build)
        carried_out(call)
        found.spoil(call)

    for module in (cute_check, measuring.cute_backward):
        monkeypatch.setattr(module, "enqueue", enqueue)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    yield found
    forget()
    for has, was in zip((table.TABLE, table.BACKWARD), before, strict=True):
        has.clear()
        has.update(was)


def test_a_forward_that_is_right_passes_and_is_built_ahead(scripts):
    scripts.propose(DIMS)
    for dim in DIMS:
        config = table.CANDIDATES[dim][0]
        faults = {x.name: scripts.forward.fault(x, config, None) for x in scripts.small}

        assert len(faults) > 9
        assert not any(faults.values()), faults
    built = set(scripts.forward.builds(DIMS, "forward", candidates=True))
    assert set(scripts.launched) <= built
    assert {x.config for x in built} == {x for dim in DIMS for x in table.CANDIDATES[dim]}


@pytest.mark.parametrize("alone", ALONE, ids=lambda x: "{} {}".format(*x))
def test_a_kernel_by_itself_that_is_right_passes_and_is_built_ahead(scripts, alone):
    dim = alone[1].width
    scripts.propose(DIMS)
    fault = scripts.backward.fault
    faults = {x.name: fault(x, dim, None, None, alone) for x in scripts.small}

    assert len(faults) > 9
    assert not any(faults.values()), faults
    assert {x.kernel for x in scripts.launched} == {alone[0]}
    assert set(scripts.launched) <= set(scripts.backward.builds(DIMS, candidates=True))


def test_a_kernel_by_itself_leaves_alone_what_is_nan_in_float16(scripts):
    (check,) = [x for x in scripts.small if x.name == "one tile"]
    half = replace(check, dtype=torch.float16)

    assert not scripts.backward.fault(half, 256, None, None, ALONE[-2])


def test_all_launches_of_a_head_dim_are_right_together(scripts):
    scripts.propose(DIMS)
    (check,) = [x for x in scripts.small if x.name == "causal, rows that see nothing"]
    for dim in DIMS:
        assert not scripts.backward.fault(check, dim, None, None)
    kernels = [x.kernel for x in scripts.launched if x.config.width == 256]
    assert kernels == ["backward_dq", "backward_dk", "backward_dv"] * 2


def other_gradient(call):
    call.tensors[7].fill_(1.0)


def wrong_columns(call):
    dk = call.tensors[6]
    dk[..., 32:64] = dk[..., 64:96].clone()


@pytest.mark.parametrize(
    ("spoil", "said"), [(other_gradient, "dv is not left alone"), (wrong_columns, "dk is out by")]
)
@pytest.mark.parametrize("name", ["two tiles", "carried"])
def test_what_is_wrong_of_a_kernel_by_itself_is_told(scripts, spoil, said, name):
    (check,) = [x for x in scripts.forward.CHECKS if x.name == name]
    alone = "backward_dk", table.BACKWARD_CANDIDATES["backward_dk", 256][0]
    scripts.propose(DIMS)
    scripts.spoil = spoil

    assert said in scripts.backward.fault(check, 256, None, None, alone)


def test_a_forward_with_the_columns_of_another_swizzle_is_told(scripts):
    (check,) = [x for x in scripts.small if x.name == "two tiles"]

    def spoil(call):
        out = call.tensors[4]
        out[..., 32:64] = out[..., 64:96].clone()

    scripts.spoil = spoil
    assert "out is out by" in scripts.forward.fault(check, table.CANDIDATES[96][0], None)


def test_what_is_proposed_is_nothing_that_the_tables_have(scripts):
    before = dict(table.TABLE), dict(table.BACKWARD)
    scripts.propose([64, 128])
    assert before == (table.TABLE, table.BACKWARD)
    scripts.propose([96])
    assert set(table.TABLE) - set(before[0]) <= {96}
    assert {width for _, width in set(table.BACKWARD) - set(before[1])} <= {96}
