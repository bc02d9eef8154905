"""What the CuTe backend hands its kernel, and what it refuses, without a GPU or the compiler."""

import math
import re
from dataclasses import replace

import pytest
import torch
from ring_attn_backends import cute
from ring_attn_backends.cute import serves, table
from ring_attn_backends.cute.arguments import FAR, dkdv_call, dq_call, forward_call
from ring_attn_backends.cute.launch import enqueue
from ring_attn_backends.triton import TritonBackend

from ring_attn_bench.contract.backend import accumulating
from ring_attn_bench.contract.tensors import Keys, Rows, Running, Sums
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.block import Block, Form
from ring_attn_bench.plan.positions import Band, Span
from ring_attn_bench.plan.problem import Mask, Problem, Score
from ring_attn_bench.registry import backend_class

HOPPER = (9, 0)
PROBLEM = Problem(
    batch=2, seqlen=4096, heads_q=8, heads_kv=2, head_dim=128, head_dim_v=128, dtype="bfloat16",
    device="cuda", backward=False,
)  # fmt: skip
SCORE = Score(0.125)


def called(rows=300, keys=200, band=None, *, score=SCORE, first=True, target=None, dim=128):
    q = torch.empty(2, rows, 8, dim, dtype=torch.bfloat16, device="meta")
    k, v = torch.empty(2, keys, 2, 2, dim, dtype=torch.bfloat16, device="meta").unbind(2)
    acc = torch.empty(2, rows, 8, dim, device="meta")
    running = Running(acc, torch.empty(2, 8, rows, device="meta"), target and target(acc))
    block = Block((Span(0, rows),), (Span(0, keys),), band or Band())
    return forward_call(q, Keys(k, v), running, block, score, first=first)


def test_new_lengths_positions_and_strides_ask_for_no_other_kernel():
    one, other = called(), called(17, 4000, Band(low=-5, high=90), score=Score(0.3))

    assert one.build == other.build
    assert one.numbers != other.numbers


def test_more_rows_a_program_are_taken_where_their_turns_take_less():
    usual, (more, _) = table.TABLE[128], table.MORE_ROWS[128]

    assert table.chosen(128, 17, 16, 132) == usual
    assert table.chosen(128, 2048, 16, 132) == usual  # a turn and a third of 192 rows
    assert table.chosen(128, 16384, 16, 132) == more
    assert table.chosen(128, 65536, 16, 132) == more
    assert table.chosen(64, 16384, 16, 132) == table.TABLE[64]


def test_strides_are_those_of_views_and_of_a_dim_of_one_what_tma_takes():
    call = called(rows=1)

    assert call.strides[0] == (8 * 128, 128, 128)
    assert call.strides[1] == call.strides[2] == (200 * 512, 512, 128)
    assert call.strides[5] == (8, 1)


@pytest.mark.parametrize(
    ("band", "expected"),
    [(Band(), (-FAR, FAR)), (Band(low=0), (0, FAR)), (Band(low=-3, high=2**40), (-3, FAR))],
    ids=str,
)
def test_the_band_is_that_of_indices(band, expected):
    assert called(band=band).numbers.band == expected


def test_a_softcap_is_folded_into_two_factors_in_base_2():
    plain, capped = called(), called(score=Score(0.125, softcap=20.0))

    assert plain.numbers.factors == (0.125 * math.log2(math.e), 0.0)
    assert capped.numbers.factors == (0.125 / 20.0, 20.0 * math.log2(math.e))
    assert capped.build == replace(plain.build, capped=True)


def test_running_sums_are_read_from_the_running_out_and_written_to_the_target():
    call = called(first=False, target=lambda acc: acc.to(torch.bfloat16))

    assert call.build.carried
    assert call.build.out == "bfloat16"
    assert call.tensors[3].dtype is torch.float32
    assert call.tensors[4].dtype is torch.bfloat16


def test_no_more_heads_share_the_cache_than_there_are_and_at_least_those_of_a_key_head():
    assert called(keys=200).numbers.sizes[-1] == 16
    assert called(keys=400_000).numbers.sizes[-1] == 4


def test_rows_without_keys_get_zeros_and_minus_infinity_and_keep_what_they_have():
    q, k = torch.ones(1, 3, 2, 64, dtype=torch.float16), torch.ones(1, 0, 2, 64).half()
    running = Running(torch.full((1, 3, 2, 64), 7.0), torch.full((1, 2, 3), 7.0))
    block = Block((Span(0, 3),), (), Band())

    enqueue(forward_call(q, Keys(k, k), running, block, SCORE, first=False))
    assert (running.out == 7).all()
    target = running._replace(target=torch.zeros(1, 3, 2, 64, dtype=torch.float16))
    enqueue(forward_call(q, Keys(k, k), target, block, SCORE, first=False))
    assert (target.result == 7).all()
    enqueue(forward_call(q, Keys(k, k), running, block, SCORE, first=True))
    assert (running.out == 0).all()
    assert (running.lse == -math.inf).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"device": "cpu"}, "CUDA device"),
        ({"dtype": "float32"}, "float32"),
        ({"alibi": True}, "ALiBi"),
        ({"dropout_p": 0.1}, "dropout_p is 0.1"),
        ({"head_dim": 80, "head_dim_v": 80}, r"\(80, 80\)"),
        ({"head_dim_v": 64}, r"\(128, 64\)"),
        ({"softcap": 1e6}, "above 1024"),
        ({"seqlen": FAR}, f"below {FAR}"),
    ],
    ids=str,
)
def test_what_the_kernel_lacks_is_refused_in_a_sentence(change, said):
    why = serves.refused(replace(PROBLEM, **change), HOPPER)

    assert why is not None
    assert re.search(said, why)


@pytest.mark.parametrize(
    ("capability", "others"),
    [
        ((8, 0), "triton, flash_attn_2 or cudnn"),
        ((10, 0), "triton, flash_attn_4 or cudnn"),
        ((12, 0), "triton or cudnn"),
    ],
)
def test_other_gpus_are_told_what_serves_them(capability, others):
    why = serves.refused(PROBLEM, capability)

    assert "not for sm_{}{}; use {} there".format(*capability, others) in (why or "")


@pytest.mark.parametrize(
    ("change", "other"),
    [
        ({"alibi": True}, "triton"),
        ({"dropout_p": 0.1}, "triton"),
        ({"head_dim": 80, "head_dim_v": 80}, "triton"),
        ({"softcap": 1e6}, "triton"),
        ({"dtype": "float32"}, "triton"),
        ({"dtype": "float64"}, "reference"),
        ({"device": "cpu"}, "reference"),
    ],
    ids=str,
)
def test_what_a_refusal_names_does_serve_the_problem(change, other):
    problem = replace(PROBLEM, **change)

    assert other in serves.refused(problem, HOPPER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TritonBackend, "interpreted", lambda _: False)
        assert backend_class(other)().unsupported(problem) is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("dim", table.TABLE)
@pytest.mark.parametrize("mask", [Mask(), Mask(causal=True), Mask(window_left=9)], ids=str)
@pytest.mark.parametrize("backward", [False, True])
def test_hopper_is_served(dtype, dim, mask, backward):
    dims = {"head_dim": dim, "head_dim_v": table.TABLE[dim].width_v}
    asked = replace(PROBLEM, dtype=dtype, mask=mask, softcap=30.0, **dims)
    problem = replace(asked, backward=backward)

    assert serves.refused(problem, HOPPER) is None


def test_tensors_that_tma_cannot_read_are_copied_and_such_results_refused():
    whole = torch.randn(2, 8, 4, 64).half()

    for fine in (whole, whole[..., :32], whole[:1, ::3]):
        assert serves.unreadable("out", fine) is None
        assert serves.readable(fine) is fine
    for odd in (
        torch.randn(2, 8, 4, 72).half()[..., 4:68],
        torch.randn(2, 8, 4, 65).half()[..., :64],
        torch.randn(2, 8, 64, 64).half().transpose(2, 3),
        whole[:, :1].expand(2, 8, 4, 64),
        torch.randn(2, 8, 4, 64).half().flatten()[4:2052].view(1, 8, 4, 64),
    ):
        assert "16 bytes" in (serves.unreadable("out", odd) or "")
        copy = serves.readable(odd)
        assert serves.unreadable("q", copy) is None
        assert torch.equal(copy, odd)
    assert "not torch.float32" in (serves.unreadable("out", whole, torch.float32) or "")


@pytest.fixture
def backend(monkeypatch):
    for lacks in ("lacking", "lacking_gpu"):  # nothing here compiles, or is launched
        monkeypatch.setattr(serves, lacks, lambda: None)
    return cute.CuteBackend()


def test_what_cannot_be_written_is_refused_before_anything_is_launched(backend):
    q = torch.zeros(1, 4, 2, 64, dtype=torch.float16)
    block, odd = Block((Span(0, 4),), (Span(0, 4),), Band()), torch.zeros(1, 4, 2, 65).half()

    running = Running(odd[..., :64], torch.zeros(1, 2, 4))
    with pytest.raises(Unsupported, match="out begins, or has strides, beside"):
        backend.forward_into(q, Keys(q, q), running, block, SCORE, first=True)
    with pytest.raises(Unsupported, match=r"v is torch\.float32"):
        backend.forward(q, Keys(q, q.float()), block, SCORE)


def gradients(rows=300, keys=200, *, dtype=torch.bfloat16, **changes):
    """Rows, keys, and sums in which dq, dk and dv are written."""
    q, dout = torch.empty(2, 2, rows, 8, 128, dtype=dtype, device="meta")
    lse, delta = torch.empty(2, 2, 8, rows, device="meta")
    k, v = torch.empty(2, keys, 2, 2, 128, dtype=dtype, device="meta").unbind(2)
    sums = Sums(*(torch.empty(x.shape, dtype=dtype, device="meta") for x in (q, k, v)))
    told = {"q": q, "dout": dout, "out": dout, "lse": lse, "delta": delta}
    of_rows = {name: changes.pop(name, x) for name, x in told.items()}
    return Rows(**of_rows), Keys(k, v), sums._replace(**changes)


def backward_calls(rows, keys, sums, band=None, *, score=SCORE, first=True):
    block = Block((Span(0, rows.q.shape[1]),), (Span(0, keys.k.shape[1]),), band or Band())
    return (
        dq_call(rows, keys, sums.dq, block, score, first=first),
        dkdv_call(rows, keys, sums.dk, sums.dv, block, score, first=first),
    )


def test_a_backward_is_two_launches_that_are_compiled_once_for_all_lengths_and_positions():
    one = backward_calls(*gradients())
    other = backward_calls(*gradients(17, 4000), Band(low=-5, high=90), score=Score(0.3))

    assert [call.build.kernel for call in one] == ["backward_dq", "backward_dkdv"]
    assert [call.build for call in one] == [call.build for call in other]
    assert [call.numbers for call in one] != [call.numbers for call in other]


def test_a_backward_is_told_what_dq_and_dk_are_multiplied_by_at_last():
    for call in backward_calls(*gradients(), score=Score(0.125, softcap=20.0)):
        assert call.build.capped
        assert call.numbers.factors == (0.125 / 20.0, 20.0 * math.log2(math.e), 0.125)
    for call in backward_calls(*gradients()):
        assert call.numbers.factors == (0.125 * math.log2(math.e), 0.0, 0.125)


def test_gradients_that_are_added_to_are_read_in_float32():
    rows, keys, sums = gradients()
    wide = Sums(*(x.float() for x in sums))

    for call in backward_calls(rows, keys, wide, first=False):
        assert call.build.carried
        assert call.build.out == "float32"
    for call in backward_calls(rows, keys, sums):
        assert not call.build.carried
        assert call.build.out == "bfloat16"


def test_no_more_key_heads_share_the_cache_than_there_are_and_one_at_least():
    dkdv = [backward_calls(*gradients(rows=rows))[1] for rows in (200, 400_000)]

    assert [call.numbers.sizes[-1] for call in dkdv] == [4, 1]


def test_without_rows_or_keys_gradients_are_zeros_or_stay_what_they_are(backend):
    for rows, keys in ((0, 3), (3, 0)):
        q, k = torch.ones(1, rows, 2, 64).half(), torch.ones(1, keys, 2, 64).half()
        line = torch.ones(1, 2, rows)
        block = Block((Span(0, rows),), (Span(0, keys),), Band())
        sums = Sums(*(torch.full_like(x, 7.0, dtype=torch.float32) for x in (q, k, k)))
        asked = Rows(q, q, q, line, line), Keys(k, k), sums, block, SCORE

        backend.backward_into(*asked, first=False, first_keys=False, deterministic=True)
        assert all((x == 7).all() for x in sums)
        backend.backward_into(*asked, first=True, first_keys=True, deterministic=False)
        assert all((x == 0).all() for x in sums)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"delta": None}, "delta is missing"),
        ({"dout": torch.empty(2, 300, 8, 128)}, r"dout is torch\.float32, not torch\.bfloat16"),
        ({"dq": torch.empty(2, 300, 8, 129).bfloat16()[..., :128]}, "dq begins, or"),
        ({"delta": torch.empty(2, 8, 300).double()}, r"delta is torch\.float64"),
        ({"dv": torch.empty(2, 200, 2, 128)}, r"dv is torch\.float32, not torch\.bfloat16"),
    ],
    ids=str,
)
def test_what_a_backward_cannot_read_is_refused(backend, changes, said):
    rows, keys, sums = gradients(**changes)
    block = Block((Span(0, 300),), (Span(0, 200),), Band())

    with pytest.raises(Unsupported, match=said):
        backend.backward_into(
            rows, keys, sums, block, SCORE, first=True, first_keys=True, deterministic=True
        )


def test_gradients_that_are_added_to_in_16_bits_are_refused(backend):
    rows, keys, sums = gradients()
    block = Block((Span(0, 300),), (Span(0, 200),), Band())

    with pytest.raises(Unsupported, match=r"dk is torch\.bfloat16, not torch\.float32"):
        backend.backward_into(
            rows, keys, sums, block, SCORE, first=True, first_keys=False, deterministic=True
        )


def test_it_meets_the_contract_and_goes_on_from_running_sums(backend):
    assert accumulating(backend) is backend
    assert backend.forms == {Form.FULL, Form.CAUSAL, Form.WINDOW}
