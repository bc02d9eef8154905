"""flash-attn-4's adapter over a fake package with the real one's signatures and head dims."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ring_attn_backends.flash_attn_4 import FlashAttn4Backend

from ring_attn_bench.conformance.cases import FULL, LOCAL
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.plan.problem import Documents, Mask, Score
from tests.flash_attn_cases import DOCUMENTS, HEAD_DIMS
from tests.unit.backends.fake_kernels.conformance import Asks, Direction, answer, made, questions
from tests.unit.backends.fake_kernels.flash_attn_4 import FlashAttn4

BOTH = (Direction.FORWARD, Direction.BACKWARD)


class OnCpu(FlashAttn4Backend):
    """The adapter as it is, but that it takes CPU tensors: the fake has no other."""

    def unsupported(self, problem):
        return super().unsupported(replace(problem, device="cuda"))


def backend_of(package, monkeypatch):
    capability = (package.architecture, 0)
    return made(OnCpu, monkeypatch, "flash_attn.cute.interface", capability, fake=package)


@pytest.mark.parametrize(("asks", "case", "direction"), questions("bfloat16"))
def test_it_answers_the_conformance_suite(asks, case, direction, monkeypatch):
    answer(backend_of(FlashAttn4(), monkeypatch), asks, case, direction)


@pytest.mark.parametrize("architecture", [9, 10])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("dims", HEAD_DIMS, ids=str)
@pytest.mark.parametrize("direction", BOTH)
def test_every_head_dim_is_widened_to_one_that_is_right(
    architecture, dims, key_heads, direction, monkeypatch
):
    backend = backend_of(FlashAttn4(architecture), monkeypatch)
    case = replace(LOCAL, dim=dims[0], dim_v=dims[1], heads=4, key_heads=key_heads, batch=1,
                   dtype="bfloat16")  # fmt: skip
    assert answer(backend, Asks.RESULTS, case, direction) is None


def test_head_dims_that_are_right_stay_as_they_are(monkeypatch):
    package = FlashAttn4()
    backend = backend_of(package, monkeypatch)
    for direction, dims, taken in [
        (Direction.FORWARD, (40, 72), (40, 72)),
        (Direction.BACKWARD, (96, 64), (96, 64)),
        (Direction.BACKWARD, (40, 72), (96, 96)),
    ]:
        case = replace(FULL, dim=dims[0], dim_v=dims[1], dtype="bfloat16")
        assert answer(backend, Asks.RESULTS, case, direction) is None
        assert (package.calls[-1]["q"].shape[-1], package.calls[-1]["v"].shape[-1]) == taken


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("case", DOCUMENTS, ids=str)
def test_documents(case, direction, monkeypatch):
    assert answer(backend_of(FlashAttn4(), monkeypatch), Asks.RESULTS, case, direction) is None


def test_nothing_behind_the_last_document_reaches_the_kernels(monkeypatch):
    package = FlashAttn4()
    backend = backend_of(package, monkeypatch)
    x, starts = torch.ones(9, 2, 64, dtype=torch.bfloat16), torch.tensor([0, 5], dtype=torch.int32)
    x[5:] = float("nan")
    documents, score = Documents(starts, starts, 5, 5), Score(0.125)
    out, lse = backend.packed_forward(x, Keys(x, x), documents, score)
    backend.packed_backward(Rows(x, x, out, lse), Keys(x, x), documents, score, deterministic=False)

    assert torch.equal(out[:5], x[:5])
    forward, backward = package.calls
    assert not forward["v"][5:].any()
    assert not backward["q"][5:].any()
    assert not backward["v"][5:].any()


def test_what_it_cannot_do_is_refused(monkeypatch):
    def refused(architecture, **changes):
        backend = backend_of(FlashAttn4(architecture), monkeypatch)
        return backend.unsupported(
            replace(replace(FULL, dtype="bfloat16").problem("cuda"), **changes)
        )

    assert refused(9) is None
    assert "dropout" in refused(9, dropout_p=0.1)
    assert "ALiBi" in refused(9, alibi=True)
    assert "256" in refused(9, head_dim=8, head_dim_v=264)
    assert "sm_12x" in refused(12)
    for extra in ({"softcap": 2.0}, {"mask": Mask(True, 9)}):
        for dims in ((256, 256), (200, 40), (192, 136)):
            asked = {"head_dim": dims[0], "head_dim_v": dims[1], **extra}
            assert "Blackwell" in refused(10, **asked)
            assert refused(10, **asked, backward=False) is None
            assert refused(9, **asked) is None
        assert refused(10, head_dim=192, head_dim_v=128, **extra) is None
        assert "Blackwell" in refused(10, head_dim=192, head_dim_v=128, heads_kv=1, **extra)
