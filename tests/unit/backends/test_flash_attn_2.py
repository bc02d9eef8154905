"""flash-attn 2's adapter over a fake package with the real one's signatures and quirks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ring_attn_backends.flash_attn_2 import FlashAttn2Backend
from ring_attn_backends.shared import flash_2, flash_2_limits

from ring_attn_bench.conformance.ask import refusal
from ring_attn_bench.conformance.cases import FULL, LOCAL
from ring_attn_bench.conformance.documents import PackedCase
from ring_attn_bench.contract.cache import Appended, Cache, CachedCall
from ring_attn_bench.contract.tensors import Keys, Rows
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.cached import CachedProblem
from ring_attn_bench.plan.problem import Mask, Score
from tests.flash_attn_cases import DOCUMENTS, SOME, clipped
from tests.unit.backends.fake_kernels.conformance import Asks, Direction, answer, made, questions
from tests.unit.backends.fake_kernels.flash_attn_2 import FlashAttn2

BOTH = (Direction.FORWARD, Direction.BACKWARD)
OVER_A_CACHE = CachedProblem(
    batch=2, queries=1, capacity=1000, heads_q=2, heads_kv=1, head_dim=64, head_dim_v=64,
    dtype="bfloat16", device="cpu", mask=Mask(causal=True),
)  # fmt: skip


class OnCpu(FlashAttn2Backend):
    """The adapter as it is, but that it takes CPU tensors: the fake has no other."""

    def never(self, problem):
        return flash_2_limits.unsupported(problem)


@pytest.fixture
def package():
    return FlashAttn2()


@pytest.fixture
def backend(package, monkeypatch):
    return made(OnCpu, monkeypatch, "flash_attn.flash_attn_interface", fake=package)


@pytest.mark.parametrize(("asks", "case", "direction"), questions("bfloat16"))
def test_it_answers_the_conformance_suite(backend, asks, case, direction):
    answer(backend, asks, case, direction)


@pytest.mark.parametrize(("asks", "case", "direction"), questions("float16", "alibi", "window"))
def test_alibi_and_windows_are_right_to_the_bits_of_float16(backend, asks, case, direction):
    reason = answer(backend, asks, case, direction)
    assert reason is None or "counts ALiBi's distances inside the block" in reason


# windows that a dense call reads as others: flash_api.cpp:399 compares both sides with the keys

CLIPPED = clipped()


@pytest.mark.parametrize("change", [{}, {"dropout_p": 0.25}, {"batch": 1}], ids=str)
@pytest.mark.parametrize("case", CLIPPED, ids=lambda case: case.title)
@pytest.mark.parametrize("direction", BOTH)
def test_windows_with_more_rows_than_keys_are_what_was_asked_for(backend, case, direction, change):
    case = replace(case, **change)
    assert answer(backend, Asks.RESULTS, case, direction) is None


def calls(backend, package, case, direction):
    """The package's calls in an answer, without those that ask what was built."""
    refusal(backend, Asks.RESULTS, case, direction, "cpu")
    package.calls.clear()
    assert answer(backend, Asks.RESULTS, case, direction) is None
    return package.calls


@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.parametrize("direction", BOTH)
def test_such_a_window_with_alibi(backend, package, direction, by_batch):
    case = replace(CLIPPED[2], alibi=True, alibi_by_batch=by_batch)
    names = [call.name for call in calls(backend, package, case, direction)]
    assert names == [f"varlen {direction.value}"] * 3


def test_the_fake_gets_them_wrong_as_the_package_does(package):
    """What the tests above would find, if the adapter made a dense call."""
    q, k = torch.randn(1, 60, 1, 16).bfloat16(), torch.randn(1, 20, 1, 16).bfloat16()
    rest = {"dropout_p": 0.0, "softmax_scale": 1.0, "causal": False, "softcap": 0.0}
    full, window, left = (
        package._flash_attn_forward(
            q, k, k, window_size_left=before, window_size_right=after, alibi_slopes=None,
            return_softmax=False, **rest,
        )
        for before, after in ((-1, -1), (-1, 50), (8, -1))
    )  # fmt: skip
    assert torch.equal(window[0], full[0]), "a right side of 50 keys binds the first 30 rows"
    assert left[1][0, 0, 0] == float("inf"), "row 0 sees keys, but not in flash-attn"


@pytest.mark.parametrize("direction", BOTH)
def test_one_dense_call_where_that_is_right(backend, package, direction):
    for case in (FULL, LOCAL, replace(LOCAL, mask=Mask(True, 17)), replace(LOCAL, alibi=True)):
        found = calls(backend, package, replace(case, **SOME), direction)
        assert [call.name for call in found] == [f"dense {direction.value}"], case


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("mask", [Mask(True), Mask(True, 95), Mask(True, 500)], ids=str)
def test_alibi_never_runs_in_causal_mode_where_its_bias_is_the_columns(
    backend, package, mask, direction
):
    case = replace(LOCAL, mask=mask, **SOME)
    (plain,) = calls(backend, package, case, direction)
    assert plain.mask.is_causal
    (biased,) = calls(backend, package, replace(case, alibi=True), direction)
    assert not biased.mask.is_causal
    assert (biased.mask.left, biased.mask.right) == (95, 0)


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("dropout_p", [0.0, 0.25])
def test_too_many_elements_for_32_bits_go_entry_by_entry(
    backend, package, direction, dropout_p, monkeypatch
):
    monkeypatch.setattr(flash_2, "_overflows", lambda q: True)
    case = replace(LOCAL, **SOME, dropout_p=dropout_p, storage="token_major")
    names = {call.name for call in calls(backend, package, case, direction)}
    assert f"varlen {direction.value}" in names
    assert not any(name.startswith("dense") for name in names)


@pytest.mark.parametrize("deterministic", [False, True])
def test_determinism_is_asked_for(backend, package, deterministic):
    asks = Asks.REPEATS if deterministic else Asks.RESULTS
    assert answer(backend, asks, replace(LOCAL, **SOME), Direction.BACKWARD) is None
    assert package.calls[-1].deterministic is deterministic


def test_rows_that_begin_where_no_kernel_can_read_are_copied(backend):
    """At such addresses the package, and the fake, end in a misaligned access."""
    block, score = LOCAL.block, LOCAL.score("cpu")
    odd = torch.randn(5, 2, 96, 2, 68).bfloat16()[..., 2:66]
    even = odd.clone(memory_format=torch.contiguous_format)
    results = []
    for q, k, v, dout, _ in (odd, even):
        out, lse = backend.forward(q, Keys(k, v), block, score)
        rows = Rows(q, dout, out, lse)
        share = backend.backward(rows, Keys(k, v), block, score, deterministic=False)
        results.append((out, lse, *share))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_32_bits_are_counted_as_the_kernel_counts():
    def asked(*shape):
        return flash_2._overflows(torch.empty(shape, device="meta", dtype=torch.bfloat16))

    assert not asked(1, 2**20, 32, 128), "a lone entry begins at 0"
    assert not asked(2, 2**18 - 128, 32, 128)
    assert asked(2, 2**18, 32, 128)
    assert asked(2, 2**18 - 127, 32, 128), "rows are rounded up to 128"


# packed documents


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("case", DOCUMENTS, ids=str)
def test_documents(backend, case, direction):
    assert answer(backend, Asks.RESULTS, case, direction) is None


# refusals


def refused(backend, **changes):
    problem = replace(replace(FULL, dtype="bfloat16").problem("cpu"), **changes)
    return backend.unsupported(problem)


def test_what_no_build_can_do_is_refused(backend, monkeypatch):
    assert refused(backend) is None
    assert "float16" in refused(backend, dtype="float32")
    assert "256" in refused(backend, head_dim=264, head_dim_v=8)
    assert "256" in refused(backend, head_dim=8, head_dim_v=264)
    assert "both at once" in refused(backend, softcap=2.0, dropout_p=0.1)
    assert refused(backend, head_dim=256, head_dim_v=256, dropout_p=0.1) is None
    many = {"packed": True, "seqlen": 2**20, "heads_q": 32, "head_dim": 128, "head_dim_v": 128}
    assert "32 bits" in refused(backend, **many)
    assert refused(backend, **many, backward=False) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    large = {"head_dim": 200, "head_dim_v": 64, "dropout_p": 0.1}
    assert "144 KiB" in refused(backend, **large)
    assert refused(backend, **large, backward=False) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    assert "sm_80" in refused(backend)


def test_a_cpu_is_refused_before_anything_is_tried(backend, package):
    assert "CUDA" in FlashAttn2Backend.unsupported(backend, FULL.problem("cpu"))
    assert package.calls == []


def test_what_was_left_out_of_a_build_is_refused_in_its_words(monkeypatch):
    package = FlashAttn2(head_dims=(64, 128), dtypes=(torch.bfloat16,))
    backend = made(OnCpu, monkeypatch, "flash_attn.flash_attn_interface", fake=package)
    for dims in ((64, 64), (128, 128), (128, 64), (64, 126)):
        assert refused(backend, head_dim=dims[0], head_dim_v=dims[1]) is None
    tried = len(package.calls)
    assert refused(backend, seqlen=9999, batch=3, heads_q=8) is None
    assert len(package.calls) == tried, "one answer serves all lengths"
    for change in ({"head_dim": 32, "head_dim_v": 32}, {"dtype": "float16"}, {"head_dim": 136}):
        assert "without it: this build holds" in refused(backend, **change)


def test_what_is_broken_is_no_refusal(backend, package, monkeypatch):
    def broken(**_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(package, "_flash_attn_forward", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        refused(backend)


def refused_over_a_cache(backend, **changes):
    return backend.cached_unsupported(replace(OVER_A_CACHE, **changes))


def test_what_was_left_out_of_a_build_is_refused_over_a_cache_too(monkeypatch):
    package = FlashAttn2(head_dims=(64, 128), dtypes=(torch.bfloat16,))
    backend = made(OnCpu, monkeypatch, "flash_attn.flash_attn_interface", fake=package)
    assert refused_over_a_cache(backend) is None
    for change in ({"head_dim": 256, "head_dim_v": 256}, {"dtype": "float16"}):
        assert "without it: this build holds" in refused_over_a_cache(backend, **change)


def test_kernels_over_a_cache_are_asked_themselves_and_once(backend, package):
    assert refused_over_a_cache(backend) is None
    assert [call.name for call in package.calls] == ["over a cache"]
    for change in ({"capacity": 70_000}, {"batch": 64}, {"heads_q": 32, "heads_kv": 8}):
        assert refused_over_a_cache(backend, **change) is None
    assert len(package.calls) == 1, "one answer serves all lengths"
    kinds = (
        {"queries": 5}, {"mask": Mask(causal=True, window_left=9)}, {"softcap": 2.0},
        {"alibi": True}, {"page_size": 512}, {"padded": True}, {"indexed": True}, {"splits": 7},
        {"queries": 3, "appended": 3}, {"appended": 1, "rotary_dim": 32},
    )  # fmt: skip
    for tried, change in enumerate(kinds, 2):
        for _ in range(2):
            assert refused_over_a_cache(backend, **change) is None
        assert len(package.calls) == tried, change


def test_a_build_that_lacks_nothing_but_a_feature_over_a_cache_is_refused_there_alone(
    backend, package, monkeypatch
):
    def without(*_, softcap, **__):
        if softcap:
            raise RuntimeError("This flash attention build does not support softcap.\nSee setup.py")

    whole = package.flash_attn_with_kvcache
    monkeypatch.setattr(
        package, "flash_attn_with_kvcache", lambda *x, **y: without(*x, **y) or whole(*x, **y)
    )
    assert refused_over_a_cache(backend) is None
    assert refused(backend, softcap=2.0) is None
    reason = refused_over_a_cache(backend, softcap=2.0)
    assert reason.endswith("without it: This flash attention build does not support softcap.")


def test_what_is_broken_over_a_cache_is_no_refusal(backend, package, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(package, "flash_attn_with_kvcache", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        refused_over_a_cache(backend)


def test_a_cache_that_begins_where_no_kernel_can_read_is_refused_and_such_queries_are_copied(
    backend,
):
    odd, even = (
        torch.randn(3, 90, 2, 68).bfloat16()[..., 2:66],
        torch.randn(3, 90, 2, 64).bfloat16(),
    )
    for cache in (Cache(odd, even), Cache(even, odd)):
        with pytest.raises(Unsupported, match="multiples of 16 bytes"):
            backend.cached_forward(CachedCall(even[:, :1], cache, Mask(), Score(1.0)))
    lengths, q = torch.full((3,), 60, dtype=torch.int32), odd[:, :5]
    results = []
    for x in (q, q.contiguous()):
        cache = Cache(even.clone(), even.clone(), lengths)
        call = CachedCall(x, cache, Mask(True), Score(0.1), Appended(x, x))
        results.append((*backend.cached_forward(call), cache.k, cache.v))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# dropout


def test_dropout_leaves_the_default_generator_where_it_was(backend):
    case = replace(LOCAL, dtype="bfloat16", dropout_p=0.25)
    before = torch.default_generator.get_state()
    for direction in BOTH:
        assert answer(backend, Asks.RESULTS, case, direction) is None
    assert torch.equal(torch.default_generator.get_state(), before)


@pytest.mark.parametrize("direction", BOTH)
def test_dropout_of_packed_documents_is_one_mask_in_both_directions(backend, direction):
    q, k, v, dout = (torch.randn(90, 2, 64).bfloat16() for _ in range(4))
    case = PackedCase("", ((40, 57), (50, 33)), Mask(True), dtype="bfloat16")
    documents = case.documents("cpu")
    score = replace(case.score("cpu"), dropout_p=0.5, dropout_seed=7)
    out, lse = backend.packed_forward(q, Keys(k, v), documents, score)
    again, _ = backend.packed_forward(q, Keys(k, v), documents, score)
    other, _ = backend.packed_forward(q, Keys(k, v), documents, replace(score, dropout_seed=8))
    assert torch.equal(out, again)
    assert not torch.equal(out, other)
    # out is linear in v: its gradient along v is dout.out, if the weights are the same ones
    _, _, dv = backend.packed_backward(
        Rows(q, dout, out, lse), Keys(k, v), documents, score, deterministic=False
    )
    along_v, along_out = ((a.double() * b.double()).sum() for a, b in ((dv, v), (dout, out)))
    assert abs(along_v - along_out) < 0.02 * abs(out).double().sum() ** 0.5
