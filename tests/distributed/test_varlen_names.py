"""ring-flash-attention's varlen calls with the import swapped, each document against the truth."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import ring_attn_bench
from ring_attn_bench import llama3_flash_attn_prepare_cu_seqlens
from tests.distributed.documents import Packed, faults
from tests.distributed.pool import Raised, Ring

FORMS = ("ring", "zigzag_ring", "llama3")
STARTS = {"ring": (0, 6, 21, 24), "zigzag_ring": (0, 12, 36, 48), "llama3": (0, 1, 7, 19, 24)}
"""Of 3 ranks; those of zigzag divide by 2 W, of the first by W, of the last only together."""


class Dealt(Packed):
    """Documents dealt as ring-flash-attention's tests deal them."""

    def order(self, rank: int) -> torch.Tensor:
        whole, ranks = torch.arange(self.starts[-1]), self.world_size
        if self.partition == "llama3":
            return whole.chunk(ranks)[rank]
        parts = []
        for start, stop in pairwise(self.starts):
            if self.partition == "ring":
                parts.append(whole[start:stop].chunk(ranks)[rank])
            else:
                pieces = whole[start:stop].chunk(2 * ranks)
                parts += [pieces[rank], pieces[2 * ranks - 1 - rank]]
        return torch.cat(parts)


def case_of(form: str, **changes: object) -> Dealt:
    starts = STARTS[form]
    return replace(Dealt(3, starts, form, starts[-1] // 3), **changes)


def lengths(case: Packed, rank: int) -> dict[str, object]:
    """What the calls are told of documents, as the peer's own scripts work it out."""
    starts = torch.tensor(case.starts, dtype=torch.int32)
    if case.partition == "llama3":
        names = "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "local_k_slice"
        ranks = {"rank": rank, "world_size": case.world_size}
        found = llama3_flash_attn_prepare_cu_seqlens(starts, causal=case.causal, **ranks)
        return {**dict(zip(names, found, strict=True)), "heads_k_stride": 1}
    longest = int(starts.diff().max()) // case.world_size
    return {"cu_seqlens": starts // case.world_size, "max_seqlen": longest}


def attend(ring: Ring, case: Packed, packing: str) -> dict[str, torch.Tensor]:
    q, k, v, dout = (x[case.order(ring.rank)].clone() for x in case.inputs())
    made = {"": [q, k, v], "kvpacked_": [q, torch.stack([k, v], 1)],
            "qkvpacked_": [torch.stack([q, k, v], 1)]}  # fmt: skip
    leaves = [x.requires_grad_() for x in made[packing]]
    function = getattr(ring_attn_bench, f"{case.partition}_flash_attn_varlen_{packing}func")
    out, lse, nothing = function(
        *leaves, **lengths(case, ring.rank), dropout_p=0.0, return_attn_probs=True,
        group=ring.group, backend="reference", **case.options,
    )  # fmt: skip
    assert nothing is None
    gradients = torch.autograd.grad(out, leaves, dout)
    parts = [y for x in gradients for y in (x.unbind(1) if x.dim() == 4 else (x,))]
    return {"out": out.detach(), "lse": lse.detach()} | dict(
        zip(("dq", "dk", "dv"), parts, strict=True)
    )


@pytest.mark.parametrize("packing", ["", "kvpacked_", "qkvpacked_"])
@pytest.mark.parametrize("form", FORMS)
def test_a_call_is_right(ranks, form, packing):
    for changes in ({}, {"causal": False, "window": (3, 2)}, {"softcap": 1.5, "alibi": True}):
        case = case_of(form, **changes)
        assert faults(case, ranks.run(attend, case, packing, world_size=3)) == [], case


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("starts", [(0, 24), (0, 8, 16, 24), (0, 3, 3, 9, 22, 24)])
def test_what_is_prepared_says_which_keys_a_ranks_rows_are_of(starts, causal):
    given = torch.tensor(starts, dtype=torch.int32)
    for rank in range(3):
        q, k, longest_q, longest_k, needed = llama3_flash_attn_prepare_cu_seqlens(
            given, causal, rank, 3
        )
        assert q.dtype is k.dtype is torch.int32
        assert (longest_q, longest_k) == (int(q.diff().max()), int(k.diff().max()))
        assert q.tolist()[-1] == 8
        assert k.tolist()[-1] == needed.stop - needed.start
        for (a, b), (c, d) in zip(pairwise(q.tolist()), pairwise(k.tolist()), strict=True):
            if a == b:
                continue
            rows = range(8 * rank + a, 8 * rank + b)
            start, stop = next(x for x in pairwise(starts) if x[1] > rows[0])
            assert start <= rows[0] <= rows[-1] < stop
            last = min(stop, 8 * rank + 8) if causal else stop
            assert (needed.start + c, needed.start + d) == (start, last)


WRONG = {
    "llama3, a copy": ("llama3", lambda x: {"cu_seqlens_q": x["cu_seqlens_q"].clone()}, "a copy"),
    "llama3, a stride": ("llama3", lambda x: {"heads_k_stride": 3}, "must divide the 2 key heads"),
    "llama3, a slice": ("llama3", lambda x: {"local_k_slice": slice(0, 3)}, "it must be slice("),
    "llama3, slices": (
        "llama3", lambda x: {"local_k_slice": torch.arange(2).numpy()}, "it must be slice(",
    ),
    "llama3, a slice of arrays": (
        "llama3", lambda x: {"local_k_slice": slice(torch.arange(2), 3)}, "it must be slice(",
    ),
    "llama3, a length": ("llama3", lambda x: {"max_seqlen_k": 1}, "max_seqlen_k is 1, but"),
    "llama3, not causal": ("llama3", lambda x: {"causal": False}, "prepared with causal=True"),
    "zigzag, odd": (
        "zigzag_ring",
        lambda x: {"cu_seqlens": torch.tensor([0, 3, 16]), "max_seqlen": 13},
        "must be even",
    ),
    "ring, of the whole": (
        "ring", lambda x: {"cu_seqlens": torch.tensor([0, 24])}, "end at 24, but the ranks hold 8",
    ),
    "ring, a length": ("ring", lambda x: {"max_seqlen": 2}, "a document has 5 tokens"),
}  # fmt: skip


def wrongly(ring: Ring, name: str) -> None:
    form, change, _ = WRONG[name]
    case = case_of(form)
    q = torch.zeros(case.tokens, 2, 8, dtype=torch.float64)
    told = {"causal": True, **lengths(case, ring.rank)}
    told |= change(told) if ring.rank == 1 else {}
    getattr(ring_attn_bench, f"{form}_flash_attn_varlen_func")(q, q, q, **told, group=ring.group)


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_on_one_rank_is_a_sentence_there_and_an_error_on_all(ranks, name):
    other, wrong, _ = ranks.outcomes(wrongly, name, world_size=3)
    assert isinstance(wrong, Raised)
    assert isinstance(other, Raised)
    assert WRONG[name][2] in wrong.text, wrong.traceback
    assert "rank 1 of the ring refused its arguments" in other.text


def test_starts_of_no_document_are_refused():
    with pytest.raises(ring_attn_bench.InvalidArgument, match="must rise from 0"):
        llama3_flash_attn_prepare_cu_seqlens(torch.zeros(0, dtype=torch.int32), True, 0, 2)


def test_an_argument_that_there_is_not_is_a_type_error_in_the_functions_name():
    x = torch.zeros(4, 2, 8)
    with pytest.raises(TypeError, match=r"zigzag_ring_flash_attn_varlen_func\(\).*'causl'"):
        ring_attn_bench.zigzag_ring_flash_attn_varlen_func(x, x, x, x, 4, causl=True)
    with pytest.raises(TypeError, match=r"llama3_flash_attn_varlen_func\(\).*'heads_k_stride'"):
        ring_attn_bench.llama3_flash_attn_varlen_func(x, x, x, x, x, 4, 4)
