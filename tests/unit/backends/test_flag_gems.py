"""FlagGems' adapter over a stand-in with the real functions' signatures and quirks.

The stand-in was held against the package's own kernels in Triton's interpreter: the same results,
and the same mistakes, in some hundred calls.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton
from ring_attn_backends.flag_gems import FlagGemsBackend
from ring_attn_backends.reference import ReferenceBackend
from ring_attn_backends.triton import TritonBackend

from ring_attn_bench.calls import kernel
from ring_attn_bench.conformance.cases import ALL, CAUSAL, FULL, LOCAL, BlockCase, lengths
from ring_attn_bench.contract.backend import PackedBackend
from ring_attn_bench.contract.tensors import Keys
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.one_device.one_by_one import OneByOne
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Documents, Mask, Score
from tests.unit.backends.fake_kernels.conformance import Asks, Direction, answer, made, questions
from tests.unit.backends.fake_kernels.flag_gems import FlagGems

SOME = {"heads": 4, "key_heads": 2, "batch": 3, "dtype": "float16"}


class OnCpu(FlagGemsBackend):
    """The adapter as it is, but that it takes CPU tensors: the stand-in has no other."""

    def unsupported(self, problem):
        return super().unsupported(replace(problem, device="cuda"))


class Gradients(ReferenceBackend):
    """In our Triton kernels' place: bias and mask by position, documents packed."""

    def packed_backward(self, *arguments, deterministic):
        return OneByOne(self).packed_backward(*arguments, deterministic=deterministic)


@pytest.fixture(params=[32, 128], ids="{} keys in a tile".format)
def package(request):
    return FlagGems(request.param)


@pytest.fixture
def backend(package, monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.6.0")
    found = made(OnCpu, monkeypatch, "flag_gems", fake=package)
    found._gradients = Gradients()
    return found


@pytest.mark.parametrize(("asks", "case", "direction"), questions("bfloat16"))
def test_it_answers_the_conformance_suite(backend, asks, case, direction):
    answer(backend, asks, case, direction)


# more rows than a tile has, where the package looks for the last tile's keys in the wrong place

LONG = [
    lengths(LOCAL, 200),
    lengths(LOCAL, 129),
    replace(lengths(LOCAL, 300), mask=Mask(window_left=60, window_right=0)),
    replace(lengths(LOCAL, 200), mask=Mask(window_left=9, window_right=30)),
    replace(lengths(LOCAL, 300), mask=Mask(window_right=11)),
    BlockCase("causal, fewer rows than keys", (Span(100, 200),), (Span(0, 300),), CAUSAL),
    BlockCase("full, odd lengths", (Span(0, 201),), (Span(0, 77),), ALL),
]


@pytest.mark.parametrize("direction", [Direction.FORWARD, Direction.BACKWARD])
@pytest.mark.parametrize("alibi", [False, True], ids=["", "alibi"])
@pytest.mark.parametrize("case", LONG, ids=str)
def test_rows_of_several_tiles(backend, case, alibi, direction):
    reason = answer(backend, Asks.RESULTS, replace(case, **SOME, alibi=alibi), direction)
    assert reason is None or "counts ALiBi's distances" in reason


@pytest.mark.parametrize(
    ("mask", "rows", "keys"),
    [
        (Mask(window_left=8), Span(40, 20), Span(20, 50)),
        (Mask(window_left=8), Span(0, 60), Span(40, 20)),
        (Mask(False, 25, 22), Span(0, 80), Span(30, 20)),
        (Mask(window_right=10), Span(0, 60), Span(0, 20)),
    ],
    ids=str,
)
@pytest.mark.parametrize("alibi_by_batch", [False, True])
def test_windows_that_the_dense_kernel_cannot_be_told(backend, mask, rows, keys, alibi_by_batch):
    case = BlockCase("", (rows,), (keys,), mask, **SOME, alibi_by_batch=alibi_by_batch)
    assert answer(backend, Asks.RESULTS, case, Direction.FORWARD) is None
    slopes = replace(case, alibi=True)
    if slopes.block.index_alibi is not None:
        assert answer(backend, Asks.RESULTS, slopes, Direction.FORWARD) is None


def close(found, expected):
    """Of out and lse, float16 and float32."""
    torch.testing.assert_close(found[0], expected[0], rtol=4e-3, atol=2e-3)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [LOCAL, FULL], ids=str)
def test_tensors_that_lie_in_memory_as_the_kernel_does_not_think(backend, case):
    """v apart from k, and batch entries that are no multiple of their heads apart."""
    every = torch.randn(2, 97, 4 + 2 + 2 + 1, 64).half()[:, 1:]
    slopes = (0.5 ** torch.arange(1, 5.0)).expand(2, 4).T.contiguous().T
    q, k, cut_v = every[:, :, :4], every[:, :, 4:6], every[:, :, 6:8]
    for v in (cut_v, torch.randn(2, 2, 96, 64).half().transpose(1, 2)):
        for score in (Score(0.1), Score(0.1, alibi_slopes=slopes)):
            if score.alibi_slopes is not None and case.block.index_alibi is None:
                continue
            tensors = (q, Keys(k, v), case.block, score)
            close(kernel.forward(backend, *tensors), ReferenceBackend().forward(*tensors))


@pytest.mark.parametrize("queries", [(1, 1, 1), (1, 0, 1), (3, 1, 40), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("keys", [(9, 1, 30), (5, 0, 3), (0, 0, 0)], ids=str)
@pytest.mark.parametrize(
    "mask", [ALL, CAUSAL, Mask(window_left=3), Mask(window_right=2), Mask(True, 40)], ids=str
)
def test_short_and_empty_documents(backend, queries, keys, mask):
    ends = [torch.tensor([0, *side]).cumsum(0).int() for side in (queries, keys)]
    documents = Documents(*ends, max(queries), max(keys), mask)
    q = torch.randn(sum(queries), 4, 40).half()
    keys = Keys(*(torch.randn(sum(keys), 2, 40).half() for _ in range(2)))
    expected = OneByOne(ReferenceBackend()).packed_forward(q, keys, documents, Score(0.1))
    close(backend.packed_forward(q, keys, documents, Score(0.1)), expected)


def test_no_documents_at_all(backend):
    ends = torch.zeros(1, dtype=torch.int32)
    q, k = torch.empty(0, 4, 40).half(), torch.empty(0, 2, 40).half()
    out, lse = backend.packed_forward(q, Keys(k, k), Documents(ends, ends, 0, 0), Score(0.1))
    assert out.shape == (0, 4, 40)
    assert lse.shape == (4, 0)


def test_a_kernel_made_for_whole_tiles_is_not_given_others(backend):
    """Blocks of one buffer have one set of strides, which is all that the package's cache sees."""
    whole = replace(lengths(FULL, 256), **SOME, storage="token_major")
    for rows, keys in ((256, 256), (255, 255), (256, 200), (200, 256), (128, 160), (256, 256)):
        for base in (whole, replace(whole, mask=Mask(window_left=64, window_right=0))):
            case = replace(base, rows=(Span(256, rows),), keys=(Span(256, keys),))
            assert answer(backend, Asks.RESULTS, case, Direction.FORWARD) is None


def test_what_the_stand_in_gets_wrong(package):
    """What the tests above would find if the adapter called the package as it suggests."""

    def run(rows, keys, dim=32, **options):
        q, k = torch.ones(1, rows, 2, dim).half(), torch.ones(1, keys, 2, dim).half()
        options = {"disable_splitkv": True, **options}
        causal = options.pop("causal", False)
        return package.flash_attention_forward(
            q, k, k, None, None, rows, keys, 0.0, causal, False, **options
        )[1].exp()  # fmt: skip

    one = run(1, 1)[0, 0, 0]
    missed = run(200, 200, causal=True)[0, 0] / one - torch.arange(1, 201)
    assert (missed.abs().max() > 30) == (package._tile_keys == 32), "32 keys of row 127"
    assert run(60, 60, window_size_left=5).min() > 59 * one, "a window that is none"
    assert run(9, 4, window_size_left=0, window_size_right=0)[0, 0, 0].isinf(), "not -inf"
    with pytest.raises(AssertionError, match="rounded to 32"):
        run(8, 8, dim=16)
    with pytest.raises(AssertionError, match="writes beyond"):
        run(8, 8, disable_splitkv=False)
    run(256, 256)
    slopes = torch.ones(2)
    causal, window = (
        run(40, 40, alibi_slopes=slopes, **mask)
        for mask in ({"causal": True}, {"window_size_left": 39, "window_size_right": 0})
    )
    assert torch.allclose((window / causal).log()[0, 0], 39.0 - torch.arange(40), atol=1e-3)


def test_which_kernel_runs(backend, package):
    def calls(case):
        package.calls.clear()
        assert answer(backend, Asks.RESULTS, replace(case, **SOME), Direction.FORWARD) is None
        return package.calls

    assert calls(FULL) == [("dense", False, None)]
    assert calls(LOCAL) == [("dense", True, None)]
    assert calls(replace(LOCAL, alibi=True)) == [("dense", False, (95, 0))]
    assert calls(replace(LOCAL, mask=Mask(True, 17))) == [("dense", False, (17, 0))]
    assert calls(replace(LOCAL, mask=Mask(window_right=11))) == [("dense", False, (95, 11))]
    clipped = BlockCase("", (Span(0, 60),), (Span(40, 20),), Mask(window_left=8))
    assert [call[0] for call in calls(clipped)] == ["packed"]


def test_it_says_whose_the_gradients_are(backend, monkeypatch):
    monkeypatch.setattr("ring_attn_backends.flag_gems.version", lambda _: "5.0.2")
    backend._gradients = TritonBackend()
    ours = backend._gradients.version()
    assert ours.startswith("triton 3.6.0")
    assert backend.version() == f"forward: flag-gems 5.0.2; backward: {ours}"
    assert "own Triton kernels, not FlagGems'" in FlagGemsBackend.__doc__.splitlines()[0]
    problem = replace(LOCAL, dtype="float16").problem("cuda")
    monkeypatch.setattr(TritonBackend, "unsupported", lambda *_: "it cannot")
    reason = backend.unsupported(problem)
    assert reason == "its gradients are those of our backend triton: it cannot"
    assert backend.unsupported(replace(problem, backward=False)) is None
    assert isinstance(backend, PackedBackend)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float32"}, {"dropout_p": 0.1}, {"head_dim": 64, "head_dim_v": 32},
        {"head_dim": 264, "head_dim_v": 264}, {"batch": 70000},
    ],
    ids=str,
)  # fmt: skip
def test_what_it_lacks_is_refused(backend, change):
    problem = replace(replace(LOCAL, dtype="float16").problem("cuda"), **change)
    assert backend.unsupported(problem)


def test_a_newer_triton_is_refused(monkeypatch):
    monkeypatch.setattr(triton, "__version__", "3.7.1")
    with pytest.raises(BackendUnavailable, match=r"newer than 3\.6 \(this is 3\.7\.1\)"):
        made(FlagGemsBackend, monkeypatch, "flag_gems", fake=FlagGems())


def test_it_is_not_imported_where_there_is_no_gpu():
    with pytest.raises(BackendUnavailable, match="there is no CUDA device"):
        FlagGemsBackend()
