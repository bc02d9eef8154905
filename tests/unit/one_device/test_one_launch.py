"""Calls of one device that are made again: what is remembered of them, and what is not."""

import pytest
import torch

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.calls.options import Options
from ring_attn_bench.calls.prepare import prepared
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.one_device.call import OneDevice
from ring_attn_bench.one_device.one_launch import OneLaunch
from ring_attn_bench.ring.call import RingCall


def qkv(rows=5, keys=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows * 7 + keys)
    sizes = ((1, rows, 2, 8), (1, keys, 2, 8), (1, keys, 2, 8))
    return [torch.randn(*size, generator=generator, dtype=dtype) for size in sizes]


def attend(*tensors, **options):
    return flash_attn_func(*tensors, **{"backend": "reference", **options})


def local_call(way, *tensors, **changed):
    options = Options(**{"backend": "reference", "causal": True} | changed)
    return prepared(*tensors, options, way)[0]


def test_one_block_goes_straight_to_the_kernel_and_is_remembered():
    way = OneDevice()
    call = local_call(way, *qkv())

    assert isinstance(call, OneLaunch)
    assert local_call(way, *qkv()) is call


@pytest.mark.parametrize(
    ("sizes", "changed"),
    [((7, 3), {}), ((5, 5), {"sink": torch.zeros(2)}), ((5, 5), {"window_size": (0, 0)})],
    ids=["rows without keys", "a sink", "a window of one"],
)
def test_more_than_one_launch_is_a_ring_of_one_and_right_both_times(sizes, changed):
    q, k, v = (x.requires_grad_() for x in qkv(*sizes))
    kind = RingCall if changed.get("window_size") is None else OneLaunch
    assert isinstance(local_call(OneDevice(), q, k, v, **changed), kind)
    results = []
    for _ in range(2):
        out = attend(q, k, v, causal=True, **changed)
        results.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))

    for again, first in zip(*results, strict=True):
        assert torch.equal(again, first)
    assert (results[0][0][0, : sizes[0] - sizes[1]] == 0).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"causal": True},
        {"softmax_scale": 0.5},
        {"softcap": 0.3},
        {"window_size": (1, 1)},
        {"alibi_slopes": torch.tensor([0.5, 0.25])},
        {"dropout_p": 0.5, "dropout_seed": 1},
        {"sink": torch.ones(2)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_remembered_call_is_not_taken_for_another(changed):
    plain = attend(*qkv())
    other = attend(*qkv(), **changed)

    assert torch.equal(attend(*qkv()), plain)
    assert torch.equal(attend(*qkv(), **changed), other)
    assert not torch.allclose(other, plain)


def test_slopes_and_seeds_are_those_of_the_call():
    def with_slope(slope):
        return attend(*qkv(), alibi_slopes=torch.full((2,), float(slope)))

    def with_seed(seed):
        return attend(*qkv(), dropout_p=0.5, dropout_seed=seed)

    for made in (with_slope, with_seed):
        one, two = made(1), made(2)
        assert not torch.allclose(one, two)
        assert torch.equal(made(1), one)


def test_a_drawn_seed_is_drawn_for_each_call():
    assert not torch.equal(attend(*qkv(), dropout_p=0.5), attend(*qkv(), dropout_p=0.5))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"dropout_seed": -1}, "dropout_seed"),
        ({"dropout_p": 1.5}, "dropout_p"),
        ({"window_size": "wide"}, "window_size"),
        ({"window_size": [1, 2, 3]}, "window_size"),
        ({"softmax_scale": float("nan")}, "softmax_scale"),
        ({"alibi_slopes": torch.zeros(3)}, "alibi_slopes"),
        ({"sink": "none"}, "sink"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_refused_is_refused_each_time_and_after_what_was_right(changed, named):
    attend(*qkv())
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=named):
            attend(*qkv(), **changed)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"dropout_seed": -1}, "dropout_seed"),
        ({"window_size": "wide"}, "window_size"),
        ({"max_seqlen_q": 1}, "max_seqlen_q"),
        ({"cu_seqlens_k": torch.tensor([0, 3, 5])}, "cu_seqlens_k"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_documents_are_refused_in_a_sentence_each_time_and_after_what_was_right(changed, named):
    starts = torch.tensor([0, 3, 5], dtype=torch.int32)
    given = {
        "cu_seqlens_q": starts, "cu_seqlens_k": starts, "max_seqlen_q": 3, "max_seqlen_k": 3,
        "backend": "reference",
    }  # fmt: skip
    q, k, v = (x[0] for x in qkv())
    flash_attn_varlen_func(q, k, v, **given)
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=named):
            flash_attn_varlen_func(q, k, v, **given | changed)


def test_a_window_may_be_a_list():
    assert torch.equal(attend(*qkv(), window_size=[1, 1]), attend(*qkv(), window_size=(1, 1)))


@pytest.mark.parametrize("wanted", range(3))
def test_only_the_gradient_that_is_needed_is_given(wanted):
    tensors = qkv(dtype=torch.float64)
    tensors[wanted].requires_grad_()
    attend(*tensors, causal=True).sum().backward()

    assert [x.grad is not None for x in tensors] == [index == wanted for index in range(3)]


def test_gradients_of_one_launch_are_those_of_finite_differences():
    tensors = [x.requires_grad_() for x in qkv(4, 6, torch.float64)]

    assert torch.autograd.gradcheck(lambda *x: attend(*x, causal=True), tensors)
