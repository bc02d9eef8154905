"""What the CuTe backward's launches are told means the gradients: read as the kernels read it."""

import pytest
import torch
from ring_attn_backends import cute
from ring_attn_backends.cute import adding, launch, serves, table

from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.block import Block
from ring_attn_bench.plan.positions import Span
from ring_attn_bench.plan.problem import Mask, Score
from ring_attn_bench.truth import oracle
from tests.carried_out import carried_out

ROWS, KEYS, FIRST_ROW, FIRST_KEY = 37, 29, 20, 11


@pytest.fixture
def backend(monkeypatch):
    for lacks in ("lacking", "lacking_gpu"):  # nothing here compiles, or is launched
        monkeypatch.setattr(serves, lacks, lambda: None)
    return cute.CuteBackend()


@pytest.fixture
def launched(monkeypatch):
    """The kernels that were, each carried out; the one that adds to dq has any number of keys."""
    kernels = []

    def enqueue(call, folder=None):
        kernels.append(call.build.kernel)
        carried_out(call)

    monkeypatch.setattr(launch, "enqueue", enqueue)
    for turns in ("TURNS_ALIKE", "TURNS_UNLIKE"):  # however little there is to do
        monkeypatch.setattr(table, turns, 0)
    return kernels


@pytest.mark.parametrize("mask", [Mask(), Mask(causal=True), Mask(window_left=9, window_right=3)])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("adds", [False, True], ids=["written", "added"])
@pytest.mark.parametrize("by_choice", [False, True], ids=["two kernels", "one that adds"])
def test_the_launches_of_a_block_are_its_gradients(
    backend, launched, mask, softcap, adds, by_choice
):
    torch.manual_seed(1)
    k, v = torch.randn(2, KEYS, 2, 2, 64).half().unbind(2)
    q = torch.randn(2, ROWS, 6, 64).half()[:, :, 1:5]
    dout = torch.randn(2, 4, ROWS, 64).half().transpose(1, 2)
    score = Score(0.2, softcap)
    rows, keys = Span(FIRST_ROW, ROWS), Span(FIRST_KEY, KEYS)
    places = (torch.arange(x.start, x.start + x.count) for x in (rows, keys))
    asked = oracle.Inquiry(*places, mask, score)
    wide = [x.double() for x in (dout, q, k, v)]
    out, lse = oracle.forward(*wide[1:], asked)
    expected = oracle.backward(*wide, out, lse, asked)
    delta = (wide[0] * out).sum(-1).transpose(1, 2).float().contiguous()
    longer = torch.zeros(2, 4, ROWS + 5)
    longer[..., 2:-3] = lse.float()
    dtype = torch.float32 if adds else torch.float16
    before = [torch.randn(x.shape).to(dtype) for x in (q, k, v)]
    sums = Sums(*(x.clone() for x in before))

    backend.backward_into(
        Rows(q, dout, out.half(), longer[..., 2:-3], delta), Keys(k, v), sums,
        Block((rows,), (keys,), mask.band), score,
        first=not adds, first_keys=not adds, deterministic=not by_choice,
    )  # fmt: skip

    assert launched == (["backward_adding"] if by_choice else ["backward_dq", "backward_dkdv"])
    for got, there, exact in zip(sums, before, expected, strict=True):
        share = got.double() - (there.double() if adds else 0.0)
        rounding = 1e-5 if adds else 2**-11 * float(exact.abs().max())
        torch.testing.assert_close(share, exact, rtol=0, atol=rounding + 1e-5)


# four key heads of 128: 64 programs of 128 keys for 2,048 tokens, and 132 multiprocessors
LENGTHS = [
    (2048, Mask(), False), (4096, Mask(), True), (16384, Mask(), True),
    (4096, Mask(causal=True), False), (8192, Mask(causal=True), True),
    (4096, Mask(window_left=512), False),
]  # fmt: skip


@pytest.mark.parametrize("dim", table.ADDS)
@pytest.mark.parametrize(("tokens", "mask", "is_faster"), LENGTHS, ids=str)
def test_the_kernel_that_adds_is_taken_where_it_was_faster(dim, tokens, mask, is_faster):
    def meta(*shape):
        return torch.empty(*shape, dtype=torch.bfloat16, device="meta")

    q, k, line = meta(1, tokens, 16, dim), meta(1, tokens, 4, dim), meta(1, 16, tokens)
    block = Block((Span(0, tokens),), (Span(0, tokens),), mask.band)

    assert adding.takes(Rows(q, q, q, line, line), Keys(k, k), block) is is_faster


def test_who_asks_for_the_same_bits_gets_two_kernels_however_much_there_is_to_do(backend, launched):
    q = torch.zeros(1, 8, 2, 128).half()
    line, block = torch.zeros(1, 2, 8), Block((Span(0, 8),), (Span(0, 8),), Mask().band)
    for deterministic in (True, False):
        backend.backward(
            Rows(q, q, q, line, line), Keys(q, q), block, Score(0.2), deterministic=deterministic
        )

    assert launched == ["backward_dq", "backward_dkdv", "backward_adding"]
