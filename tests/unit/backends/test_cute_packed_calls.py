"""What the CuTe backend makes of packed calls: launches, kept ones, and what it refuses."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, product
from types import SimpleNamespace

import pytest
import torch
from ring_attn_backends import cute
from ring_attn_backends.cute import ahead, kept, launch, serves, table
from ring_attn_backends.cute.packed.launch import dkdv_call, dq_call, forward_call, most_tiles

from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.errors import Unsupported
from ring_attn_bench.plan.problem import Documents, Mask, Problem, Score
from tests.carried_out_packed import carried_out

SCORE, CAUSAL = Score(0.125), Mask(causal=True)
LENGTHS = [33, 0, 70, 1]


@pytest.fixture
def backend(monkeypatch):
    for lacks in ("lacking", "lacking_gpu"):
        monkeypatch.setattr(serves, lacks, lambda: None)
    for dim, configs in table.PACKED_CANDIDATES.items():
        monkeypatch.setitem(table.PACKED, dim, configs[0])
    return cute.CuteBackend()


@pytest.fixture
def launched(monkeypatch):
    """The calls that were, each carried out."""
    calls = []

    def enqueue(call, folder=None):
        calls.append(call)
        carried_out(call)

    monkeypatch.setattr(launch, "enqueue", enqueue)
    return calls


def documents_of(lengths, first=0, mask=CAUSAL):
    starts = torch.tensor([*accumulate(lengths, initial=first)], dtype=torch.int32)
    return Documents(starts, starts.clone(), max(lengths), max(lengths), mask)


def rows_of(tokens, heads=4, dim=64, dtype=torch.float16):
    q, dout = torch.randn(2, tokens, heads, dim).to(dtype)
    return Rows(q, dout, q, *torch.randn(2, heads, tokens))


def keys_of(tokens, heads=2, dim=64, dtype=torch.float16):
    return Keys(*torch.randn(2, tokens, heads, dim).to(dtype))


def test_tokens_in_no_document_are_neither_read_nor_written(backend, launched):
    first, tokens = 3, 3 + sum(LENGTHS) + 5
    rows, keys, documents = rows_of(tokens), keys_of(tokens), documents_of(LENGTHS, first)
    outside = torch.ones(tokens, dtype=torch.bool)
    outside[first:-5] = False
    for x in (rows.q, rows.dout, *keys):
        x[outside] = torch.nan
    for line in (rows.lse, rows.delta):
        line[:, outside] = torch.nan
    made = [torch.full_like(x, 7.0) for x in (rows.q, rows.lse, rows.q, *keys)]
    out, lse, *sums = made

    backend.packed_forward_into(rows.q, keys, out, lse, documents, SCORE)
    backend.packed_backward_into(rows, keys, Sums(*sums), documents, SCORE, deterministic=True)

    assert [call.build.kernel for call in launched] == [
        "packed.forward", "packed.backward_dq", "packed.backward_dkdv"
    ]  # fmt: skip
    for x in (out, lse.T, *sums):
        assert (x[outside] == 7).all()
        assert x[~outside].isfinite().all()


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_backward_takes_two_kernels_whoever_asks(backend, launched, monkeypatch, deterministic):
    for turns in ("TURNS_ALIKE", "TURNS_UNLIKE"):
        monkeypatch.setattr(table, turns, 0)
    rows, keys = rows_of(104), keys_of(104)
    backend.packed_backward(rows, keys, documents_of(LENGTHS), SCORE, deterministic=deterministic)

    assert [call.build.kernel for call in launched] == [
        "packed.backward_dq",
        "packed.backward_dkdv",
    ]


@pytest.mark.parametrize(("queries", "tokens", "documents"), [(0, 9, 2), (9, 0, 2), (9, 9, 0)])
def test_where_nothing_is_seen_nothing_is_launched(backend, launched, queries, tokens, documents):
    rows, keys = rows_of(queries), keys_of(tokens)
    starts = torch.zeros(documents + 1, dtype=torch.int32)
    where = Documents(starts, starts, 9, 9)

    out, lse = backend.packed_forward(rows.q, keys, where, SCORE)
    sums = backend.packed_backward(rows, keys, where, SCORE, deterministic=True)

    assert not launched
    assert not any(x.any() for x in (out, *sums))
    assert (lse == -torch.inf).all()


@pytest.fixture
def seen(monkeypatch):
    """Of each launch the addresses that it is handed, and how many were made."""
    found = SimpleNamespace(addresses=[], made=0)

    class Launch:
        def __init__(self, call, folder=None):
            found.made += 1

        def run(self, tensors):
            found.addresses.append([x.data_ptr() for x in tensors])

    @contextmanager
    def device(_):
        yield

    monkeypatch.setattr(launch, "Launch", Launch)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(kept, "_kept", {})
    return found


def test_other_lengths_are_the_same_launch_of_other_starts(backend, seen):
    for lengths in (LENGTHS, [1, 1, 1, 101], [104, 0, 0, 0]):
        rows, keys, documents = rows_of(104), keys_of(104), documents_of(lengths)
        backend.packed_forward(rows.q, keys, documents, SCORE)
        backend.packed_backward(rows, keys, documents, SCORE, deterministic=True)
        starts = [x.data_ptr() for x in (documents.cu_seqlens_q, documents.cu_seqlens_k)]

        assert seen.made == 3
        assert [each[-2:] for each in seen.addresses[-3:]] == [starts] * 3
        assert all(each[0] == rows.q.data_ptr() for each in seen.addresses[-3:])


def test_starts_that_are_one_tensor_are_told_from_two(backend, seen):
    rows, keys, apart = rows_of(104), keys_of(104), documents_of(LENGTHS)
    one = replace(apart, cu_seqlens_k=apart.cu_seqlens_q)
    for documents in (apart, one, apart):
        backend.packed_forward(rows.q, keys, documents, SCORE)
        q_starts, k_starts = seen.addresses[-1][-2:]
        assert q_starts == documents.cu_seqlens_q.data_ptr()
        assert k_starts == documents.cu_seqlens_k.data_ptr()

    assert seen.made == 2


@pytest.mark.parametrize("lengths", [[1], [64], [65], [1, 1, 1], [63, 64, 65, 0, 129]])
def test_there_are_programs_for_every_tile_however_documents_are_cut(lengths):
    build = table.Build(table.Config(64, 64, 2, 1), "float16", "float16", kernel="packed.forward")
    tiles = sum(-(-n // 64) for n in lengths)

    assert tiles <= most_tiles(build, sum(lengths), len(lengths)) < tiles + len(lengths)


def spoilt(**change):
    rows, keys = rows_of(104), keys_of(104)
    made = {"q": rows.q, "k": keys.k, "v": keys.v, "delta": rows.delta, "lse": rows.lse} | change
    rows = rows._replace(q=made["q"], delta=made["delta"], lse=made["lse"])
    return rows, Keys(made["k"], made["v"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"delta": None}, "delta is missing"),
        ({"lse": torch.zeros(4, 104).double()}, "lse is torch.float64"),
        ({"v": torch.zeros(104, 2, 64)}, "v is torch.float32, not torch.float16"),
    ],
    ids=["no delta", "lse", "v"],
)
def test_what_the_kernels_cannot_read_is_told(change, said):
    rows, keys = spoilt(**change)
    with pytest.raises(Unsupported, match=said):
        dq_call(rows, keys, torch.empty_like(rows.q), documents_of(LENGTHS), SCORE)
    with pytest.raises(Unsupported, match=said):
        dkdv_call(rows, keys, *map(torch.empty_like, keys), documents_of(LENGTHS), SCORE)


def test_a_result_that_begins_beside_16_bytes_is_refused_and_an_input_is_copied():
    (q, *_), keys = spoilt()
    beside = torch.zeros(q.numel() + 1).half()[1:].view_as(q)
    lse, config = torch.zeros(4, 104), table.PACKED_CANDIDATES[64][0]
    with pytest.raises(Unsupported, match="out begins"):
        forward_call(q, keys, beside, lse, documents_of(LENGTHS), SCORE, config=config)
    call = forward_call(beside, keys, q, lse, documents_of(LENGTHS), SCORE, config=config)

    assert call.tensors[0].data_ptr() % 16 == 0


PROBLEM = Problem(1, 100, 4, 2, 64, 64, "bfloat16", "cuda", packed=True)


def test_only_head_dims_of_the_table_are_not_refused(monkeypatch):
    has = {}
    monkeypatch.setattr(serves, "PACKED", has)
    assert serves.refused(PROBLEM, serves.CAPABILITY) == "it has no packed documents; triton has"
    has[64] = table.PACKED_CANDIDATES[64][0]

    assert serves.refused(PROBLEM, serves.CAPABILITY) is None
    wider = replace(PROBLEM, head_dim=128, head_dim_v=128)
    assert "packed documents of head dim 128" in serves.refused(wider, serves.CAPABILITY)


def test_every_kernel_that_a_packed_call_asks_for_is_compiled_ahead(backend):
    asked = set()
    for dim, dtype, softcap in product((64, 128), (torch.float16, torch.bfloat16), (0.0, 5.0)):
        rows, keys, score = (
            rows_of(104, 4, dim, dtype),
            keys_of(104, 2, dim, dtype),
            Score(1, softcap),
        )
        where = documents_of(LENGTHS)
        asked |= {
            call.build for call in (
                forward_call(rows.q, keys, rows.q, rows.lse, where, score),
                dq_call(rows, keys, rows.q, where, score),
                dkdv_call(rows, keys, *keys, where, score),
            )
        }  # fmt: skip

    assert asked == set(ahead.packed_builds())
    assert asked <= set(ahead.builds())
