"""Every mistake is a sentence on all ranks, nothing hangs, and the ring works right afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist

import ring_attn_bench
from ring_attn_bench import NoProcessGroup, position_ids, shard
from tests.distributed.pool import Raised, RankPool, Ring
from tests.distributed.truth import Case, attend, faults, shards

CASE = Case(3, "zigzag", 8, heads=4)


@dataclass
class Call:
    """A good call, for a mistake to be made in."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    options: dict[str, object]


def cut(call: Call, tokens: int) -> None:
    call.q, call.k, call.v = (x[:, :tokens] for x in (call.q, call.k, call.v))


def cast(call: Call, dtype: torch.dtype) -> None:
    call.q, call.k, call.v = (x.to(dtype) for x in (call.q, call.k, call.v))


def change(name: str, make: Callable[[torch.Tensor], object]) -> Callable[[Call], None]:
    return lambda call: setattr(call, name, make(getattr(call, name)))


def option(**options: object) -> Callable[[Call], None]:
    return lambda call: call.options.update(options)


MISTAKES: dict[str, tuple[Callable[[Call], None], str, str]] = {
    # by name: the mistake, the error, and what its text says
    "odd local length": (lambda c: cut(c, 5), "InvalidArgument", "5 tokens.*zigzag.*multiple of 2"),
    "3 query heads on 4": (change("q", lambda q: q[:, :, :3]), "InvalidArgument", "multiple"),
    "k and v of different heads": (change("v", lambda v: v[:, :, :1]), "InvalidArgument", "heads"),
    "different head dims": (change("k", lambda k: k[..., :4]), "InvalidArgument", "head dim 8.*4"),
    "different lengths": (change("k", lambda k: k[:, :4]), "InvalidArgument", "8, 4 and 8"),
    "mixed dtypes": (change("k", torch.Tensor.float), "InvalidArgument", "float64.*float32"),
    "an integer dtype": (lambda c: cast(c, torch.int64), "InvalidArgument", "int64; allowed"),
    "k on another device": (change("k", lambda k: k.to("meta")), "InvalidArgument", "cpu, meta"),
    "q on another device": (change("q", lambda q: q.to("meta")), "InvalidArgument", "meta, cpu"),
    "all on another device": (
        lambda c: [change(n, lambda x: x.to("meta"))(c) for n in "qkv"],
        "InvalidArgument", "meta.*cannot carry",
    ),
    "3 dims": (change("q", lambda q: q[0]), "InvalidArgument", r"\(8, 4, 8\).*4 dims"),
    "no tokens": (lambda c: cut(c, 0), "InvalidArgument", "empty"),
    "not a tensor": (change("q", lambda q: None), "InvalidArgument", "q must be a tensor.*None"),
    "no such backend": (option(backend="refrence"), "UnknownName", "'reference'.*Known: aten"),
    "no such partition": (option(partition="zigzg"), "UnknownName", "'zigzag'.*contiguous"),
    "a window on aten": (option(backend="aten", window_size=(3, 0)), "Unsupported", "window"),
    "dropout on aten": (option(backend="aten", dropout_p=0.1), "Unsupported", "dropout"),
    "dropout above 1": (option(dropout_p=1.5), "InvalidArgument", "1.5.*below 1"),
    "a negative dropout seed": (option(dropout_seed=-1), "InvalidArgument", "-1.*2.*63"),
    "a sink for each key": (option(sink=torch.zeros(8)), "InvalidArgument", r"\(4,\).*\(8,\)"),
    "an integer sink": (option(sink=torch.zeros(4).long()), "InvalidArgument", "int64.*floating"),
    "ALiBi on aten": (option(backend="aten", alibi_slopes=torch.ones(4)), "Unsupported", "ALiBi"),
    "slopes of another shape": (option(alibi_slopes=torch.ones(3)), "InvalidArgument", r"\(4,\)"),
    "softcap on aten": (option(backend="aten", softcap=2.0), "Unsupported", "softcap"),
    "a softcap that is NaN": (option(softcap=float("nan")), "InvalidArgument", "nan.*positive"),
    "an infinite scale": (option(softmax_scale=float("inf")), "InvalidArgument", "finite"),
    "a window that is no pair": (option(window_size=5), "InvalidArgument", "two integers"),
}  # fmt: skip

DIFFERENCES: dict[str, tuple[Callable[[Call], None], str]] = {
    "tokens": (lambda c: cut(c, 4), "tokens"),
    "batch size": (
        lambda c: [change(n, lambda x: x.repeat(2, 1, 1, 1))(c) for n in "qkv"], "batch size",
    ),
    "query heads": (change("q", lambda q: q[:, :, :2]), "query heads"),
    "dtype": (lambda c: cast(c, torch.float32), "dtype"),
    "causal": (option(causal=False), "mask"),
    "window": (option(window_size=(3, 0)), "mask"),
    "backend": (option(backend="aten"), "backend"),
    "partition": (option(partition="striped"), "partition"),
    "scale": (option(softmax_scale=0.3), "softmax_scale"),
    "deterministic": (option(deterministic=True), "deterministic"),
    "sink": (option(sink=torch.zeros(4)), "a sink"),
}  # fmt: skip


def spoiled(ring: Ring, case: Case, name: str, wrong: list[int]) -> None:
    q, k, v, _ = shards(case, ring.rank)
    call = Call(q, k, v, {**case.options, "partition": case.partition})
    if ring.rank in wrong:
        (MISTAKES.get(name) or DIFFERENCES[name])[0](call)
    ring_attn_bench.ring_attn_func(call.q, call.k, call.v, group=ring.group, **call.options)


def works(ranks: RankPool) -> bool:
    return faults(CASE, ranks.run(attend, CASE, world_size=3)) == []


def texts(answers: list[object], kind: str) -> list[str]:
    """The sentences of ranks that all raised that kind of our errors."""
    for answer in answers:
        assert isinstance(answer, Raised)
        assert kind in answer.kinds, answer.traceback
        assert "RingAttnBenchError" in answer.kinds
        assert len(answer.text.split()) > 5
    return [answer.text for answer in answers if isinstance(answer, Raised)]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_of_all_ranks_is_a_sentence_on_each(ranks, name):
    _, kind, says = MISTAKES[name]
    for text in texts(ranks.outcomes(spoiled, CASE, name, [0, 1, 2], world_size=3), kind):
        assert re.search(says, text)
    assert works(ranks)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_of_one_rank_stops_the_others_too(ranks, name):
    _, kind, says = MISTAKES[name]
    answers = ranks.outcomes(spoiled, CASE, name, [1], world_size=3)
    assert re.search(says, texts(answers[1:2], kind)[0])
    assert all("rank 1" in t for t in texts([answers[0], answers[2]], "InvalidArgument"))
    assert works(ranks)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_call_unlike_the_other_ranks_is_named_on_each(ranks, name):
    says = DIFFERENCES[name][1]
    answers = ranks.outcomes(spoiled, CASE, name, [2], world_size=3)
    assert all(says in text for text in texts(answers, "InvalidArgument"))
    assert works(ranks)


def packed_wrongly(ring: Ring, form: str, wrong: list[int]) -> None:
    x = torch.randn(1, 4, 5 if ring.rank in wrong else 2, 2, 8)
    if form == "kvpacked":
        ring_attn_bench.ring_flash_attn_kvpacked_func(x[:, :, 0], x, group=ring.group)
    else:
        x = x if ring.rank in wrong else torch.randn(1, 4, 3, 2, 8)
        ring_attn_bench.ring_flash_attn_qkvpacked_func(x, group=ring.group)


@pytest.mark.parametrize("wrong", [[0, 1, 2], [1]], ids=["all", "one"])
@pytest.mark.parametrize("form", ["kvpacked", "qkvpacked"])
def test_a_packed_tensor_of_another_shape_is_a_sentence(ranks, form, wrong):
    answers = ranks.outcomes(packed_wrongly, form, wrong, world_size=3)
    found = texts(answers, "InvalidArgument")
    assert all("must have shape (batch, tokens," in found[rank] for rank in wrong)
    assert works(ranks)


def triton_on_aten(ring: Ring, wrong: list[int]) -> None:
    q = torch.randn(1, 4, 2, 8)
    options = {"group": ring.group, "causal": True}
    if ring.rank in wrong:
        ring_attn_bench.triton_ring_flash_attn_func(q, q, q, backend="aten", **options)
    ring_attn_bench.ring_flash_attn_func(q, q, q, backend="aten", **options)


@pytest.mark.parametrize("wrong", [[0, 1, 2], [1]], ids=["all", "one"])
def test_the_triton_functions_refuse_another_backend(ranks, wrong):
    found = texts(ranks.outcomes(triton_on_aten, wrong, world_size=3), "InvalidArgument")
    assert all("'triton'" in found[rank] and "'aten'" in found[rank] for rank in wrong)
    assert works(ranks)


def outside(ring: Ring, case: Case) -> None:
    group = dist.new_group([0, 2])
    q, k, v, _ = shards(case, min(ring.rank, 1))
    ring_attn_bench.ring_flash_attn_func(q, k, v, group=group)


def test_a_rank_outside_the_group_is_told_so(ranks):
    answers = ranks.outcomes(outside, Case(2))
    assert answers[0] is answers[2] is None
    assert all("not in the process group" in t for t in texts(answers[1::2], "InvalidArgument"))


def test_a_sequence_that_cannot_be_dealt_names_the_lengths_that_can():
    with pytest.raises(ValueError, match=r"10 tokens.*2 ranks.*'zigzag'.*8 and 12"):
        shard(torch.zeros(1, 10, 2, 8), 0, 2, "zigzag")
    with pytest.raises(ValueError, match=r"rank is 2.*\[0, 2\)"):
        position_ids(8, 2, 2, "contiguous")


def test_without_a_process_group_the_way_out_is_in_the_error():
    assert not dist.is_initialized()
    q = torch.zeros(1, 4, 2, 8)
    with pytest.raises(NoProcessGroup, match=r"torchrun.*init_process_group"):
        ring_attn_bench.ring_flash_attn_func(q, q, q)
    with pytest.raises(NoProcessGroup, match="torchrun"):
        ring_attn_bench.unshard(q, "zigzag")
