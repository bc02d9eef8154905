"""What a launch over gathered keys is told, carried out in float64 from that and nothing else."""

import math

import pytest
import torch
from ring_attn_backends.cute.gathered import launch
from ring_attn_backends.cute.programs import nth, tile_and_head
from ring_attn_backends.reference import ReferenceBackend
from ring_attn_backends.shared.worklist import ENTRY, TILE

from ring_attn_bench.contract.tensors import Gathering, Keys
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.gathered import gathered
from ring_attn_bench.plan.lower import chunks
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.positions import Band
from ring_attn_bench.plan.problem import Score

DIM, TOKENS, WORLD = 64, 130, 3


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


def made(q, keys, where, score):
    out, lse = torch.full_like(q, torch.nan), q.new_full((q.shape[0], q.shape[2], TOKENS), math.nan)
    return launch.forward_call(q, keys, out, lse, where, score), out, lse


def carried_out(call):
    """Program by program; returns the order in which they take heads of keys."""
    batch, rows, heads, key_heads, section, tiles, groups = call.numbers.sizes
    scale, cap = call.numbers.factors
    *areas, table, entries, words = call.tensors
    shapes = [(batch, rows, heads, DIM), *[(1, 10**9, key_heads * batch, DIM)] * 4]
    shapes += [(batch, rows, heads, DIM), (batch, heads, rows)]
    table, entries = table.flatten().tolist(), entries.flatten().tolist()

    def part(i, *index):
        """Some tokens of a head, where its address and strides say."""
        x, strides = areas[i], (*call.strides[i], 1)
        *outer, (first, count), head = index
        where = [*outer, first, head] if len(strides) == 4 else [*outer, head, first]
        offset = x.storage_offset() + sum(n * s for n, s in zip(where, strides, strict=False))
        assert all(n < m for n, m in zip(where, shapes[i], strict=False))
        if len(strides) == 4:
            return x.as_strided((count, DIM), (strides[1], 1), offset)
        return x.as_strided((count,), (1,), offset)

    order = []
    for number in range(tiles * heads * batch):
        tile, head = tile_and_head(number, tiles, heads * batch, section)
        key_head = head // (heads // key_heads)
        order.append(key_head // (key_heads * batch // groups))
        entry, head = divmod(head, heads)
        first, stop, begin, end, _ = table[tile * TILE : (tile + 1) * TILE]
        mine = first, min(stop - first, call.build.config.own)
        scores, values = [], []
        for i in range(begin, end):
            start, length, low, high, piece, *where = entries[i * ENTRY : (i + 1) * ENTRY]
            assert words[1 + (piece - 1) * groups + order[-1]] == 1 or piece == 0
            k, v = (part(x + 2 * (piece > 0), 0, (start, length), key_head) for x in (1, 2))
            products = part(0, entry, mine, head) @ k.T * scale
            products = cap * products.tanh() if call.build.capped else products
            seen = torch.zeros(length, dtype=torch.bool)
            for j in range(where[2] + where[3]):
                at = nth(j, where) * call.build.config.block
                seen[at : at + call.build.config.block] = True
            distance = torch.arange(first, first + mine[1])[:, None] - torch.arange(length)
            inside = (low <= distance) & (distance <= high) & seen
            scores.append(products.masked_fill(~inside, -math.inf))
            values.append(v)
        lse = torch.logsumexp(torch.cat(scores, 1) * math.log(2), 1)
        weights = torch.exp(torch.cat(scores, 1) * math.log(2) - lse[:, None])
        part(5, entry, mine, head).copy_(weights @ torch.cat(values))
        part(6, entry, mine, head).copy_(lse)
    return order


@pytest.mark.parametrize(
    ("partition", "band"),
    [("zigzag", Band(low=0)), ("contiguous", Band()), ("striped", Band(-40, 70))],
)
@pytest.mark.parametrize(("batch", "softcap"), [(1, 0.0), (2, 5.0)])
def test_a_launch_is_the_contract_s_attention(partition, band, batch, softcap):
    q, keys, where = asked(partition, band, batch=batch)
    score = Score(0.125, softcap)
    call, out, lse = made(q, keys, where, score)
    carried_out(call)
    wanted = ReferenceBackend().gathered_forward(q, keys, where, score)

    torch.testing.assert_close((out, lse), wanted, rtol=1e-12, atol=1e-12)


def test_programs_take_the_heads_in_the_groups_in_which_they_arrive():
    q, keys, where = asked(heads=8, key_heads=4)
    words = torch.ones(1 + 2 * 4, dtype=torch.int32)
    words[0] = 0
    call, out, _ = made(q, keys._replace(arrived=words, head_groups=4), where, Score(0.125))
    order = carried_out(call)

    assert order == sorted(order)
    assert call.tensors[-1] is words
    assert not out.isnan().any()


def test_tables_and_the_words_of_what_has_landed_are_made_once():
    q, keys, where = asked()
    first, second = (made(q, keys, where, Score(0.125))[0] for _ in range(2))

    assert all(x is y for x, y in zip(first.tensors[-3:], second.tensors[-3:], strict=True))
    assert first.tensors[-1].tolist() == [0, 1, 1]


def test_a_rank_alone_has_its_own_keys_in_the_landed_ones_place():
    q, keys, where = asked(pieces=0)
    call, out, _ = made(q, keys, where, Score(0.125))
    carried_out(call)

    assert call.tensors[3].data_ptr() == call.tensors[1].data_ptr() != 0
    assert not out.isnan().any()


def test_what_lands_is_never_copied():
    q, keys, where = asked()
    beside = drawn(1, 2 * TOKENS, 2, DIM + 1)[..., 1:]

    with pytest.raises(Unsupported, match="landed v begins, or has strides, beside"):
        made(q, keys._replace(landed=Keys(keys.landed.k, beside)), where, Score(0.125))
    call, *_ = made(q, keys, where, Score(0.125))
    assert [x.data_ptr() for x in call.tensors[3:5]] == [x.data_ptr() for x in keys.landed]
