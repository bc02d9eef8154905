"""What a launch over gathered keys is told, carried out in float64 from that and nothing else."""

import math

import pytest
import torch
from ring_attn_backends.cute.gathered import gradients, launch
from ring_attn_backends.reference import ReferenceBackend

from ring_attn_bench.contract.tensors import Gathering, Keys, Rows
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.gathered import gathered
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.problem import Score
from tests.carried_out_gathered import carried_out

DIM, TOKENS, WORLD = 64, 130, 3
PLAIN = Score(0.125)
MASKS = [("zigzag", Band(low=0)), ("contiguous", Band()), ("striped", Band(-40, 70))]


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def asked(partition="zigzag", band=None, *, batch=1, heads=4, key_heads=2, pieces=WORLD - 1):
    """A rank's queries, its own and landed keys, and what sees what."""
    torch.manual_seed(0)
    shards = [PARTITIONS[partition].spans(rank, WORLD, TOKENS) for rank in (1, 0, 2)][: 1 + pieces]
    parts = [(i, c) for i, s in enumerate(shards) for c in chunks(s, max(0, i - 1) * TOKENS)]
    where = gathered(chunks(shards[0]), parts, band or Band(low=0), join=True)
    own, landed = (
        # landed keys of several entries come packed: (tokens, entries * heads)
        Keys(*(drawn(n, batch, key_heads, DIM).transpose(0, 1) for _ in "kv"))
        for n in (TOKENS, pieces * TOKENS)
    )
    return drawn(batch, TOKENS, heads, DIM), Gathering(own, landed), where


def rows_of(q, keys, where, score):
    """What a backward reads, with lse and delta in float32."""
    out, lse = ReferenceBackend().gathered_forward(q, keys, where, score)
    dout = drawn(*q.shape)
    delta = (dout * out).sum(-1).transpose(1, 2)
    return Rows(q, dout, out, *(x.float().contiguous() for x in (lse, delta)))


def places(keys, own=torch.float64, away=torch.float64):
    """For gradients of own and of landed keys: packed, with nothing written yet."""
    return tuple(
        Keys(*(torch.full(x.transpose(0, 1).shape, math.nan, dtype=dtype).transpose(0, 1)
               for x in pair))
        for pair, dtype in zip(keys[:2], (own, away), strict=True)
    )  # fmt: skip


def made(q, keys, where, score):
    out, lse = torch.full_like(q, torch.nan), q.new_full((q.shape[0], q.shape[2], TOKENS), math.nan)
    return launch.forward_call(q, keys, out, lse, where, score), out, lse


def dkdv_made(rows, keys, where, score, *, own_first=True, into=None):
    own, landed = into or places(keys)
    call = gradients.dkdv_call(rows, keys, own, landed, where, score, own_first=own_first)
    return call, (*own, *landed)


@pytest.mark.parametrize(("partition", "band"), MASKS)
@pytest.mark.parametrize(("batch", "softcap"), [(1, 0.0), (2, 5.0)])
def test_a_launch_is_the_contract_s_attention(partition, band, batch, softcap):
    q, keys, where = asked(partition, band, batch=batch)
    score = Score(0.125, softcap)
    call, out, lse = made(q, keys, where, score)
    carried_out(call)
    wanted = ReferenceBackend().gathered_forward(q, keys, where, score)

    torch.testing.assert_close((out, lse), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("partition", "band"), MASKS)
@pytest.mark.parametrize(("batch", "softcap"), [(1, 0.0), (2, 5.0)])
def test_launches_are_the_contract_s_gradients(partition, band, batch, softcap):
    q, keys, where = asked(partition, band, batch=batch)
    score, truth = Score(0.125, softcap), ReferenceBackend()
    rows = rows_of(q, keys, where, score)
    own_first = batch == 1
    call, found = dkdv_made(rows, keys, where, score, own_first=own_first)
    order = carried_out(call)
    own, landed = places(keys)
    truth.gathered_dkdv(rows, keys, own, landed, where, score, own_first=own_first)
    dq = torch.full_like(q, math.nan)
    carried_out(gradients.dq_call(rows, keys, dq, where, score))

    torch.testing.assert_close(found, (*own, *landed), rtol=1e-12, atol=1e-12)
    wanted = truth.gathered_dq(rows, keys, where, score)
    torch.testing.assert_close(dq, wanted, rtol=1e-12, atol=1e-12)
    pieces = [piece for _, piece in order]
    assert pieces == sorted(pieces, key=lambda piece: piece or 9 * (not own_first))


@pytest.mark.parametrize(("partition", "band"), MASKS)
@pytest.mark.parametrize(("batch", "softcap"), [(1, 0.0), (2, 5.0)])
def test_two_launches_that_add_to_dq_are_the_contract_s_gradients(partition, band, batch, softcap):
    q, keys, where = asked(partition, band, batch=batch)
    score, truth, own_first = Score(0.125, softcap), ReferenceBackend(), batch == 1
    rows, found = rows_of(q, keys, where, score), places(keys)
    dq = torch.zeros_like(q, dtype=torch.float32)
    first, second = (
        carried_out(
            gradients.adding_call(
                rows, keys, dq, *found, where, score, own_first=own_first, part=part
            )
        )
        for part in (0, 1)
    )
    own, landed = places(keys)
    truth.gathered_dkdv(rows, keys, own, landed, where, score, own_first=own_first)

    for got, wanted in zip((*found[0], *found[1]), (*own, *landed), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    wanted = truth.gathered_dq(rows, keys, where, score)
    torch.testing.assert_close(dq.double(), wanted, rtol=1e-5, atol=1e-5)
    assert {piece for _, piece in second} <= {0}, "what comes last is of own keys"
    assert [piece for _, piece in first] == sorted(piece for _, piece in first)


def test_programs_take_the_heads_in_the_groups_in_which_they_arrive():
    q, keys, where = asked(heads=8, key_heads=4)
    words = torch.ones(1 + 2 * 4, dtype=torch.int32)
    words[0] = 0
    keys = keys._replace(arrived=words, head_groups=4)
    rows = rows_of(q, keys, where, PLAIN)
    call, out, _ = made(q, keys, where, PLAIN)
    of_keys, found = dkdv_made(rows, keys, where, PLAIN)
    of_rows = gradients.dq_call(rows, keys, torch.empty_like(q), where, PLAIN)
    for one in (call, of_keys, of_rows):
        groups = [group for group, _ in carried_out(one)]
        assert groups == sorted(groups)
        assert set(groups) == {0, 1, 2, 3}
        assert one.tensors[-1] is words
        assert len(one.tables) == 2

    assert not any(x.isnan().any() for x in (out, *found))


def test_tables_and_the_words_of_what_has_landed_are_made_once():
    q, keys, where = asked()
    rows = rows_of(q, keys, where, PLAIN)
    for make in (
        lambda: made(q, keys, where, PLAIN)[0],
        lambda: dkdv_made(rows, keys, where, PLAIN)[0],
        lambda: gradients.dq_call(rows, keys, torch.empty_like(q), where, PLAIN),
    ):
        first, second = make(), make()
        assert all(x is y for x, y in zip(first.tables, second.tables, strict=True))
        assert all(x is y for x, y in zip(first.tables, first.tensors[-3:], strict=True))
        assert first.tables[-1].tolist() == [0, 1, 1]


def test_a_rank_alone_has_its_own_keys_in_the_landed_ones_place():
    q, keys, where = asked(pieces=0)
    call, out, _ = made(q, keys, where, PLAIN)
    rows = rows_of(q, keys, where, PLAIN)
    of_keys, found = dkdv_made(rows, keys, where, PLAIN)
    for one in (call, of_keys):
        carried_out(one)

    assert call.tensors[3] is call.tensors[1] is keys.own.k
    assert of_keys.tensors[4:6] == of_keys.tensors[2:4]
    assert of_keys.tensors[10:12] == of_keys.tensors[8:10]
    assert not any(x.isnan().any() for x in (out, *found))


def test_gradients_of_own_keys_and_of_others_have_dtypes_of_their_own():
    q, keys, where = asked()
    rows = rows_of(q, keys, where, PLAIN)
    into = places(keys, torch.float32, torch.bfloat16)
    call, found = dkdv_made(rows, keys, where, PLAIN, into=into)
    carried_out(call)
    _, exact = wide = dkdv_made(rows, keys, where, PLAIN)
    carried_out(wide[0])

    assert (call.build.out, call.build.away) == ("float32", "bfloat16")
    for got, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(got, wanted.to(got.dtype))


def test_what_lands_is_never_copied():
    q, keys, where = asked()
    beside = drawn(1, 2 * TOKENS, 2, DIM + 1)[..., 1:]

    with pytest.raises(Unsupported, match="landed v begins, or has strides, beside"):
        made(q, keys._replace(landed=Keys(keys.landed.k, beside)), where, PLAIN)
    call, *_ = made(q, keys, where, PLAIN)
    assert [x.data_ptr() for x in call.tensors[3:5]] == [x.data_ptr() for x in keys.landed]


def test_heads_of_batch_entries_that_are_not_in_a_row_are_copied_if_own_and_refused_if_landed():
    q, keys, where = asked(batch=2)
    apart = [Keys(*(x.contiguous() for x in pair)) for pair in keys[:2]]
    call, out, _ = made(q, keys._replace(own=apart[0]), where, PLAIN)
    carried_out(call)

    assert call.tensors[1].data_ptr() != apart[0].k.data_ptr()
    assert not out.isnan().any()
    with pytest.raises(Unsupported, match="landed heads of all batch entries are not in a row"):
        made(q, keys._replace(landed=apart[1]), where, PLAIN)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"delta": None}, "delta is missing"),
        ({"lse": torch.zeros(1, 4, TOKENS, dtype=torch.float64)}, "lse is torch.float64, not"),
        ({"dout": torch.zeros(1, TOKENS, 4, DIM)}, "dout is torch.float32, not torch.float64"),
    ],
)
def test_rows_that_no_kernel_reads_are_refused(change, said):
    q, keys, where = asked()
    rows = rows_of(q, keys, where, PLAIN)._replace(**change)

    with pytest.raises(Unsupported, match=said):
        gradients.dq_call(rows, keys, torch.empty_like(q), where, PLAIN)
    with pytest.raises(Unsupported, match=said):
        dkdv_made(rows, keys, where, PLAIN)


def test_sums_of_dq_that_are_not_float32_are_refused():
    q, keys, where = asked()
    rows = rows_of(q, keys, where, PLAIN)

    with pytest.raises(Unsupported, match=r"dq is torch\.float64, not torch\.float32"):
        gradients.adding_call(
            rows, keys, torch.zeros_like(q), *places(keys), where, PLAIN, own_first=True, part=0
        )


def test_gradients_that_no_kernel_writes_are_refused():
    q, keys, where = asked()
    rows = rows_of(q, keys, where, PLAIN)
    own, landed = places(keys)

    with pytest.raises(Unsupported, match=r"landed dv is torch\.float32, not torch\.float64"):
        dkdv_made(
            rows, keys, where, PLAIN, into=(own, landed._replace(v=landed.v.float()))
        )  # fmt: skip
    beside = drawn(*own.k.shape[:3], DIM + 1)[..., 1:]
    with pytest.raises(Unsupported, match="own dk begins, or has strides, beside"):
        dkdv_made(rows, keys, where, PLAIN, into=(Keys(beside, own.v), landed))
