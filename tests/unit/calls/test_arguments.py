"""Arguments are what they seem: what is exact is taken, everything else ends in a sentence."""

import gc
import weakref

import numpy as np
import pytest
import torch
from ring_attn_backends.reference import ReferenceBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from ring_attn_bench import flash_attn_func, flash_attn_varlen_func
from ring_attn_bench.calls.options import Options
from ring_attn_bench.errors import InvalidArgument

X = torch.randn(1, 5, 2, 8, generator=torch.Generator().manual_seed(0))
STARTS = torch.tensor([0, 2, 5], dtype=torch.int32)

WRONG = {
    "dropout_p": [None, "0.1", True, torch.tensor(0.1), [0.1], 0.1j, 10**400],
    "dropout_seed": [1.0, "1", True, torch.tensor(1.0), torch.tensor(True), -1, 2**63, [1]],
    "softmax_scale": [
        "0.3", True, torch.tensor(0.3), torch.nn.Parameter(torch.tensor(0.3)), [0.3],
        np.array([0.3]),
    ],
    "causal": [
        "no", "False", None, 2, 1.0, torch.tensor(True), torch.tensor(1), np.array([True]), [],
    ],
    "window_size": [
        None, 3, "ab", (1,), (1, 2, 3), (1.0, 1.0), (True, 1), {1, 2}, {1: 2, 3: 4}, ("1", "2"),
        torch.ones(2), torch.ones(2, 2, dtype=torch.int64), np.ones(2), (None, None),
    ],
    "softcap": [
        None, "1", True, torch.tensor(1.0), [1.0], float("inf"), float("nan"), 10**400,
    ],
    "alibi_slopes": [[0.5, 0.25], 0.5, (0.5, 0.25), np.ones(2, np.float32)],
    "deterministic": ["no", None, 2, 0.0, torch.tensor(False)],
    "return_attn_probs": ["no", None, 2, torch.tensor(False)],
    "backend": [None, 3, b"aten", ["aten"], True],
    "sink": [[0.0, 0.0], 0.0, np.zeros(2)],
}  # fmt: skip
"""By argument, values that are not what it means."""

MEANT = {
    "dropout_p": [(0, 0.0), (np.float32(0.5), 0.5), (np.int64(0), 0.0)],
    "softmax_scale": [(1, 1.0), (np.float64(0.3), 0.3), (np.float32(0.5), 0.5)],
    "causal": [(1, True), (0, False), (np.True_, True), (np.int32(1), True)],
    "window_size": [
        ((2**40, 2**31), (-1, -1)), ([1, 2], (1, 2)),
        (np.array([1, 2]), (1, 2)), (torch.tensor([1, 2]), (1, 2)),
        ((np.int64(1), torch.tensor(2)), (1, 2)), (torch.Size([1, 2]), (1, 2)),
    ],
    "softcap": [
        (2, 2.0), (np.float32(0.5), 0.5), (-1.0, 0.0), (-0.0, 0.0), (float("-inf"), 0.0), (-3, 0.0),
    ],
    "deterministic": [(1, True), (np.False_, False)],
    "dropout_seed": [(np.int64(7), 7), (torch.tensor(7), 7)],
}  # fmt: skip
"""By argument, values of other types that mean exactly one of its own."""


def dense(**options):
    return flash_attn_func(X, X, X, **{"backend": "reference"} | options)


def packed(**options):
    given = {"backend": "reference", "max_seqlen_q": 3, "max_seqlen_k": 3} | options
    return flash_attn_varlen_func(X[0], X[0], X[0], STARTS, STARTS, **given)


def each(table):
    return [
        pytest.param(name, value, id=f"{name}={value!r}"[:60])
        for name, values in table.items()
        for value in values
    ]


@pytest.mark.parametrize("function", [dense, packed])
@pytest.mark.parametrize(("name", "value"), each(WRONG))
def test_what_an_argument_cannot_mean_is_a_sentence_before_and_after_a_right_call(
    function, name, value
):
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=rf"{name}.{{10,}}"):
            function(**{name: value})
        function(window_size=(1, 1))


@pytest.mark.parametrize("function", [dense, packed])
@pytest.mark.parametrize(("name", "value"), each(MEANT))
def test_what_means_exactly_an_argument_is_taken_for_it(function, name, value):
    given, meant = value
    more = {"dropout_seed": 3} if name == "dropout_p" else {}
    more |= {"dropout_p": 0.5} if name == "dropout_seed" else {}

    assert torch.equal(function(**{name: given}, **more), function(**{name: meant}, **more))


@pytest.mark.parametrize("wrong", [4.0, "4", True, torch.tensor(4.0), None, [4]], ids=repr)
def test_the_longest_document_is_an_integer(wrong):
    with pytest.raises(InvalidArgument, match=r"max_seqlen_q is .*integer"):
        packed(max_seqlen_q=wrong)
    assert torch.equal(packed(max_seqlen_q=torch.tensor(3), max_seqlen_k=np.int32(3)), packed())


def test_plain_options_stay_the_very_same():
    options = Options("aten", 0.1, 3, 0.5, True, (1, 2), 1.5, None, True, None, "zigzag")
    assert options.plain() is options


def test_numbers_that_only_python_takes_for_equal_are_told_apart_after_a_right_call():
    dense(window_size=(1, 1))
    with pytest.raises(InvalidArgument, match="window_size"):
        dense(window_size=(1.0, 1.0))
    with pytest.raises(InvalidArgument, match="window_size"):
        dense(window_size=(True, True))


@pytest.mark.parametrize("name", ["q", "alibi_slopes", "sink"])
def test_no_tensor_of_a_call_outlives_it(name):
    tensors = {"q": X.clone(), "alibi_slopes": torch.ones(2), "sink": torch.zeros(2)}
    given = {name: tensors[name]} if name != "q" else {}
    flash_attn_func(tensors["q"], X, X, backend="reference", **given)
    gone = weakref.ref(tensors.pop(name))
    del given
    gc.collect()

    assert gone() is None


@pytest.mark.parametrize(
    "x",
    [
        X.to_sparse(),
        torch.nested.nested_tensor([X[0], X[0]], layout=torch.jagged),
        X.to(torch.float8_e5m2),
    ],
    ids=["sparse", "nested", "float8"],
)
def test_tensors_of_other_kinds_are_refused_in_a_sentence(x):
    with pytest.raises(
        InvalidArgument, match=r"q (must be a dense tensor|is float8_e5m2; allowed)"
    ):
        flash_attn_func(x, X, X)


def fake(x):
    return FakeTensorMode().from_tensor(x)


def in_inference_mode(x):
    with torch.inference_mode():
        return x.clone()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda x: torch.nested.nested_tensor([x[0], x[0]]), "dense tensor, got a nested one"),
        (lambda x: x.to_mkldnn(), "dense tensor, got a torch._mkldnn one"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "quantized.*dequantize"),
        (lambda x: x[:, :1].expand(1, 10**12, 2, 8), "too large: at most 2147483647 in a dim"),
        (fake, "FakeTensor, which holds no numbers"),
        (in_inference_mode, r"inference mode.*pass k\.clone\(\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(nested tensors|quantize):UserWarning")
def test_what_kernels_cannot_read_is_refused_after_the_right_call_that_it_looks_like(
    make, sentence
):
    q = X.clone().requires_grad_()
    flash_attn_func(q, X, X, backend="reference")
    with pytest.raises(InvalidArgument, match=rf"k .*{sentence}"):
        flash_attn_func(q, make(X), X, backend="reference")


def test_tensors_without_numbers_are_taken_where_they_are_what_is_computed_with():
    with FakeTensorMode():
        x = torch.randn(1, 5, 2, 8)
        assert flash_attn_func(x, x, x, backend="reference").shape == (1, 5, 2, 8)


def test_tensors_of_inference_mode_are_right_where_there_is_no_gradient():
    x = in_inference_mode(X)
    right = flash_attn_func(X, X, X, backend="reference")
    assert torch.equal(flash_attn_func(x, x, x, backend="reference"), right)
    with torch.no_grad():
        assert torch.equal(
            flash_attn_func(X.clone().requires_grad_(), x, x, backend="reference"), right
        )


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own
def test_transforms_that_attention_has_no_rule_for_are_a_sentence():
    def attention(x):
        return flash_attn_func(x, x, x, backend="reference")

    with pytest.raises(InvalidArgument, match=r"no rule for torch\.func"):
        torch.func.grad(lambda x: attention(x).sum())(X)
    with pytest.raises(InvalidArgument, match=r"the batch dim for vmap"):
        torch.vmap(attention)(X[None])
    with forward_ad.dual_level(), pytest.raises(InvalidArgument, match="forward-mode"):
        attention(forward_ad.make_dual(X, X))
    with torch.no_grad():  # which is no word on gradients of these kinds
        with pytest.raises(InvalidArgument, match=r"the batch dim for vmap"):
            torch.vmap(attention)(X[None])
        with forward_ad.dual_level(), pytest.raises(InvalidArgument, match="forward-mode"):
            attention(forward_ad.make_dual(X, X))


def test_a_longest_document_beyond_all_tokens_is_all_of_them():
    assert torch.equal(packed(max_seqlen_q=2**62, max_seqlen_k=10**12), packed())


@pytest.mark.parametrize("softcap", [5e-324, 1e-39, 1e39])
def test_a_softcap_that_float32_takes_for_0_or_infinity_is_refused(softcap):
    with pytest.raises(InvalidArgument, match=r"softcap .* in float32 too"):
        dense(softcap=softcap)


def test_a_sign_that_torch_only_notes_is_seen_by_every_kernel():
    for backend in ("reference", "aten", "flex"):
        found = flash_attn_func(torch._neg_view(X), X, X, backend=backend)
        assert torch.equal(found, flash_attn_func(-X, X, X, backend=backend))


def test_a_sign_bit_of_a_gradient_or_of_slopes_is_no_less_a_sign(monkeypatch):
    """Backends here read tensors by torch's operations, which see the bit; kernels read memory."""
    seen = []
    backward = ReferenceBackend.backward

    def looking(self, rows, keys, block, score, **options):
        seen.extend([rows.dout, score.alibi_slopes])
        return backward(self, rows, keys, block, score, **options)

    monkeypatch.setattr(ReferenceBackend, "backward", looking)
    q = X.clone().requires_grad_()
    slopes = torch._neg_view(-torch.ones(q.shape[2]))
    out = flash_attn_func(q, X, X, alibi_slopes=slopes, causal=True, backend="reference")
    out.backward(torch._neg_view(torch.ones_like(out)))

    assert len(seen) == 2
    assert not any(x.is_neg() for x in seen)


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (8, 3)])
def test_a_sink_of_minus_infinity_is_none_in_documents_too(queries, keys):
    q, k = (torch.randn(n, 2, 8).requires_grad_() for n in (queries, keys))
    starts = [torch.tensor([0, n], dtype=torch.int32) for n in (queries, keys)]
    sink = torch.full((2,), float("-inf")).requires_grad_()
    given = {"causal": True, "backend": "reference"}

    out = flash_attn_varlen_func(q, k, k, *starts, queries, keys, sink=sink, **given)
    out.sum().backward()

    without = flash_attn_varlen_func(q, k, k, *starts, queries, keys, **given)
    torch.testing.assert_close(out, without)
    assert torch.equal(sink.grad, torch.zeros(2))
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("dropout_p", [1 - 2**-53, 1 - 2**-26])
def test_a_dropout_that_is_1_in_float32_is_refused(dropout_p):
    q = torch.randn(1, 4, 2, 16)

    with pytest.raises(InvalidArgument, match=r"below 1, in float32 too \(at most 0.99999994\)"):
        flash_attn_func(q, q, q, dropout_p=dropout_p, dropout_seed=1, backend="aten")
