"""flash-attn and FlashInfer as their users call them, over stand-ins that run on a CPU."""

from dataclasses import replace

import pytest
import torch
from ring_attn_backends.peers import over_cache
from ring_attn_backends.peers.over_cache import FlashAttn, FlashInfer

from ring_attn_bench.bench.cached.inputs import draw, lay
from ring_attn_bench.bench.cached.runners import call_of, problem_of
from ring_attn_bench.bench.cached.truth import expect, judge
from ring_attn_bench.bench.place import WorkerPlace
from ring_attn_bench.bench.suite import Check, Suite
from ring_attn_bench.contract.peer import over_caches
from ring_attn_bench.errors import BackendUnavailable, Unsupported
from tests.unit.backends.fake_kernels import flashinfer
from tests.unit.backends.fake_kernels.flash_attn_2 import FlashAttn2

PLACE = WorkerPlace(0, 1, torch.device("cpu"), (0,), 1)
GRID = {
    "backends": ["reference"], "batch": [2], "seqlen_total": [70], "heads": ["8:2"],
    "head_dim": [32], "dtype": ["float16"], "directions": ["forward"], "queries": [1, 3],
}  # fmt: skip
CASES = {
    "rows": {},
    "pages": {"page": [16, 256]},
    "exactly full pages": {"page": [10]},
    "a window": {"window": [[20, 0]]},
    "softcap": {"softcap": [4.0]},
    "no mask": {"causal": [False]},
    "left padding": {"leftpad": [5]},
    "splits": {"splits": [3]},
    "append": {"append": [True], "rotary": ["unset", "pairs", "halves"]},
    "latent keys": {"head_dim": [64], "head_dim_v": [32], "latent": [True]},
}
REFUSED = {
    "flash_attn[flash_attn_2]": {"exactly full pages", "latent keys"},
    "flashinfer[pages]": {"left padding", "splits", "append", "latent keys"},
}
"""Of which nothing is asked of it."""


class OnCpu(FlashAttn):
    """The peer as it is, but that its build is asked with CPU tensors: the fake has no other."""

    def build_refusal(self, problem):
        return super().build_refusal(replace(problem, device="cpu"))


def cases(name):
    suite = Suite.model_validate({"name": "peers", "grid": [{**GRID, **CASES[name]}]})
    return [entry.case for entry in suite.entries(1, "real")]


def made(monkeypatch, kind, package):
    monkeypatch.setattr(over_cache, "import_module", lambda name: package)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    peer = kind()
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    return peer


def refusal(peer, case):
    """As on a GPU."""
    return peer.cached_unsupported(replace(problem_of(case, PLACE), device="cuda"))


@pytest.fixture(params=[(OnCpu, FlashAttn2), (FlashInfer, lambda: flashinfer)],
                ids=["flash_attn", "flashinfer"])  # fmt: skip
def peer(request, monkeypatch):
    kind, package = request.param
    return made(monkeypatch, kind, package())


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_refused_is_right_by_float64_call_after_call(peer, name):
    right = 0
    for case in cases(name):
        if refusal(peer, case) is not None:
            continue
        tokens = draw(case, 1, PLACE.device)
        x = lay(case, tokens, 1)
        expected = expect(case, tokens, x, Check(), 0)
        step = over_caches(peer).over_cache(call_of(case, x))
        for _ in range(2):
            out, lse = step()
            results = {"out": out} if lse is None else {"out": out, "lse": lse}
            errors = judge(case, PLACE, expected, results)
            assert all(error.is_right for error in errors.values()), case.name
        right += 1
    assert (right == 0) is (name in REFUSED[peer.name])


def test_flash_attn_has_pages_of_256_and_is_asked_as_it_is(monkeypatch):
    peer = made(monkeypatch, OnCpu, FlashAttn2())
    rows, *_ = cases("rows")

    assert "multiple of 256" in refusal(peer, cases("pages")[0])
    assert "float16 and bfloat16" in refusal(peer, rows.model_copy(update={"dtype": "float32"}))


def test_what_was_left_out_of_a_build_of_flash_attn_is_refused_in_its_words(monkeypatch):
    package = FlashAttn2(head_dims=(32, 64, 128))
    peer = made(monkeypatch, OnCpu, package)
    rows, *_ = cases("rows")

    assert refusal(peer, rows) is None
    reason = refusal(peer, rows.model_copy(update={"head_dim": 256}))
    assert reason.startswith("what is installed was built without it: this build holds")
    assert "at most 256" in refusal(peer, rows.model_copy(update={"head_dim": 264}))
    assert len(package.calls) == 1, "the calls of a few tokens that it was asked by"


def test_flashinfer_decodes_on_tensor_cores_where_four_heads_share_keys(monkeypatch):
    peer = made(monkeypatch, FlashInfer, flashinfer)
    chosen = []
    for heads in (8, 4):
        case = cases("rows")[0].model_copy(update={"heads_q": heads})
        x = lay(case, draw(case, 1, PLACE.device), 1)
        step = peer.over_cache(call_of(case, x))
        chosen.append(step.args[0].use_tensor_cores)
    assert chosen == [True, False]


def test_what_is_missing_is_said_with_the_command_that_installs_it(monkeypatch):
    for kind, name in ((FlashAttn, "flash_attn"), (FlashInfer, "flashinfer")):
        with pytest.raises(BackendUnavailable, match=rf"importing {name} failed .* pip install"):
            kind()
    monkeypatch.setattr(over_cache, "import_module", lambda name: flashinfer)
    with pytest.raises(BackendUnavailable, match="no CUDA device"):
        FlashInfer()


def test_they_have_no_ring(peer):
    words = "it attends over a cache on one GPU, and has no ring"
    case, *_ = cases("rows")

    assert peer.unsupported(problem_of(case, PLACE).without_cache, "zigzag", 4) == words
    with pytest.raises(Unsupported, match="no ring"):
        peer.join(None, "zigzag", None)


def test_versions_are_those_of_the_packages(peer, monkeypatch):
    monkeypatch.setattr(over_cache, "version", lambda name: f"{name} 1.0")

    assert peer.version() in ("flash-attn flash-attn 1.0", "flashinfer flashinfer-python 1.0")
