"""Times of packed documents beside those of others, a table for each pass.

Medians of calls in turns, from a cold L2, in TFLOP/s of the pairs that are seen, of the documents
of `scripts/documents.py`: bfloat16, 16 query and 4 key heads. Each kernel of the backward is timed
by itself, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from documents import documents as lengths_of
from measuring.cute import CAUSAL, DEVICE, FULL, ROUNDS
from measuring.turns import in_turns
from ring_attn_backends.cute import table
from ring_attn_backends.cute.launch import Launch
from ring_attn_backends.cute.packed.launch import dkdv_call, dq_call, forward_call
from tabulate import tabulate

from ring_attn_bench.contract.backend import PackedBackend
from ring_attn_bench.contract.tensors import Keys, Rows, Sums
from ring_attn_bench.plan.problem import Documents, Mask, Score
from ring_attn_bench.registry import load

OTHERS = ("triton", "flash_attn_4")
TOKENS = 16384
Run = Callable[[], object]


@dataclass(frozen=True)
class Timed:
    """What is timed: a batch of documents, and what a backward reads."""

    rows: Rows
    keys: Keys
    documents: Documents
    score: Score

    @classmethod
    def of(cls, lengths: list[int], mask: Mask, dim: int) -> Timed:
        """Random numbers; out and lse are triton's."""
        draw = partial(torch.randn, device=DEVICE, dtype=torch.bfloat16)
        tokens = sum(lengths)
        q, dout = draw(2, tokens, 16, dim)
        keys, score = Keys(*draw(2, tokens, 4, dim)), Score(dim**-0.5)
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=DEVICE)
        documents = Documents(starts, starts, max(lengths), max(lengths), mask)
        triton = load("triton")
        assert isinstance(triton, PackedBackend)
        out, lse = triton.packed_forward(q, keys, documents, score)
        delta = (dout.float() * out.float()).sum(-1).T.contiguous()
        return cls(Rows(q, dout, out, lse, delta), keys, documents, score)


def contestants(given: Timed, dim: int, kept: Path | None) -> dict[str, dict[str, Run]]:
    """By pass, a call of each that can make it; ours as a second call is made."""
    rows, keys, documents, score = given.rows, given.keys, given.documents, given.score
    q, out, lse = rows.q, torch.empty_like(rows.q), torch.empty_like(rows.lse)
    sums = Sums(*(torch.empty_like(x) for x in (q, *keys)))
    forwards: dict[str, Run] = {}
    backwards: dict[str, Run] = {}
    for config in table.PACKED_CANDIDATES[dim]:
        call = forward_call(q, keys, out, lse, documents, score, config=config)
        forwards[str(config)] = partial(Launch(call, kept).run, call.tensors)
    both = {
        "dq": dq_call(rows, keys, sums.dq, documents, score),
        "dk, dv": dkdv_call(rows, keys, sums.dk, sums.dv, documents, score),
    }
    for name, call in both.items():
        backwards[name] = partial(Launch(call, kept).run, call.tensors)
    alone = tuple(backwards.values())
    backwards["cute"] = lambda: [run() for run in alone]
    for name in OTHERS:
        try:
            backend = load(name)
            assert isinstance(backend, PackedBackend)
            forward = partial(backend.packed_forward, q, keys, documents, score)
            backward = partial(
                backend.packed_backward, rows, keys, documents, score, deterministic=False
            )
            forward(), backward()
        except Exception as error:  # theirs, and no reason not to time ours
            print(f"{name} is left out: {str(error).splitlines()[0]}")
        else:
            forwards[name], backwards[name] = forward, backward
    return {"forward": forwards, "backward": backwards}


def print_times(dim: int, kept: Path | None) -> None:
    """A table for each pass."""
    lines: dict[str, list[list[str]]] = {"forward": [], "backward": []}
    heads: dict[str, list[str]] = {}
    for what, lengths in lengths_of(TOKENS).items():
        for mask in (FULL, CAUSAL):
            calls = contestants(Timed.of(lengths, mask, dim), dim, kept)
            pairs = sum(n * (n + 1) / 2 if mask.causal else n * n for n in lengths)
            for which, each in calls.items():
                work = (4 if which == "forward" else 10) * pairs * 16 * dim
                times = in_turns(each, ROUNDS)
                names = [*(name for name in each if name not in OTHERS), *OTHERS]
                shown = [
                    "-" if name not in times
                    else f"{1e3 * times[name]:.0f} us" if name in ("dq", "dk, dv")
                    else f"{work / times[name] / 1e9:.0f}"
                    for name in names
                ]  # fmt: skip
                heads[which] = names
                lines[which].append([str(dim), what, str(mask), *shown])
                print(which, *lines[which][-1], flush=True)
    for which, rows in lines.items():
        print(f"\n{which} over {TOKENS} tokens of packed documents, TFLOP/s")
        print(tabulate(rows, ["head dim", "documents", "mask", *heads[which]]))
