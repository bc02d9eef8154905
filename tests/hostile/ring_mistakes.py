"""Mistakes in a call of packed documents on a ring, which all ranks are to refuse."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ring_attn_bench import documents
from tests.hostile.rings import CHOSEN, LOCAL, Case

Mistake = Callable[[dict[str, object], Case, int], None]
"""Spoils a rank's arguments, of a case."""


def _told(**changes: object) -> Mistake:
    return lambda given, case, rank: given.update(changes)


def _starts(change: Callable[[list[int]], object]) -> Mistake:
    """cu_seqlens as something else of right ones."""

    def mistaken(given: dict[str, object], case: Case, rank: int) -> None:
        scale = case.world_size if case.form in LOCAL else 1
        starts = [at // scale for at in case.starts]
        given["cu_seqlens_q" if case.form == "llama3" else "cu_seqlens"] = change(starts)
        if case.form == "own":
            given["partition"] = case.partition if case.partition not in CHOSEN else "contiguous"

    return mistaken


def _tensor(name: str, change: Callable[[Tensor], object]) -> Mistake:
    return lambda given, case, rank: given.update({name: change(given[name])})


def _all(change: Callable[[Tensor], object]) -> Mistake:
    return lambda given, case, rank: given.update({n: change(given[n]) for n in "qkv"})


MISTAKES: dict[str, Mistake] = {
    "float starts": _starts(lambda x: torch.tensor(x, dtype=torch.float32)),
    "boolean starts": _starts(lambda x: torch.tensor(x, dtype=torch.bool)),
    "starts of 2 dims": _starts(lambda x: torch.tensor([x])),
    "falling starts": _starts(lambda x: [*x, x[-1] - 1]),
    "not from 0": _starts(lambda x: [1, *(a + 1 for a in x)]),
    "negative": _starts(lambda x: torch.tensor([-1, *x])),
    "beyond all tokens": _starts(lambda x: [*x, x[-1] + 10**6]),
    "beyond 32 bits": _starts(lambda x: torch.tensor([*x, 2**40])),
    "beyond 64 bits": _starts(lambda x: [*x, 2**64]),
    "an array": _starts(lambda x: torch.tensor(x).numpy()),
    "None among starts": _starts(lambda x: [*x, None]),
    "no starts": _starts(lambda x: []),
    "starts without numbers": _starts(lambda x: torch.tensor(x, device="meta")),
    "a name": _starts(lambda x: "0 8 16"),
    "a short max_seqlen": lambda g, c, r: g.update(
        {"max_seqlen_q" if c.form == "llama3" else "max_seqlen": 0 if c.starts[-1] else -1}
    ),
    "a max_seqlen that is none": lambda g, c, r: g.update(
        {"max_seqlen_q" if c.form == "llama3" else "max_seqlen": "many"}
    ),
    "a token less": _tensor("k", lambda x: x[1:] if len(x) else x[None]),
    "a token less of all": _all(lambda x: x[1:] if len(x) else x[None]),
    "no heads": _tensor("k", lambda x: x[:, :0]),
    "a batch dim": _all(lambda x: x[None]),
    "another dtype": _tensor("v", lambda x: x.to(torch.complex64)),
    "mixed dtypes": _tensor("k", lambda x: x.to(
        torch.float32 if x.dtype is torch.float64 else torch.float64)),
    "on another device": _all(lambda x: x.to("meta")),
    "sparse": _tensor("q", lambda x: x.detach().to_sparse()),
    "nothing": _tensor("q", lambda x: None),
    "a window of one": _told(window_size=3),
    "an unknown backend": _told(backend="refrence"),
    "a sink too many": _told(sink=torch.zeros(99)),
    "slopes too many": _told(alibi_slopes=torch.zeros(99)),
}  # fmt: skip
"""Each is to be refused, on whichever ranks it is made."""


def _other_starts(change: Callable[[list[int]], list[int]]) -> Mistake:
    return _starts(lambda x: torch.tensor(change(x), dtype=torch.int32))


DIFFERENCES: dict[str, Mistake] = {
    "an empty document more": _other_starts(lambda x: [*x, x[-1]]),
    "another empty document": _other_starts(lambda x: [0, *x]),
    "used tokens": lambda g, c, r: g.update(cu_seqlens=documents(
        (0, c.tokens * c.world_size), "contiguous", c.world_size, seqused=[1])),
    "a mask": lambda g, c, r: g.update(causal=not c.causal, window_size=(1, 1)),
    "a softcap": lambda g, c, r: g.update(softcap=7.5),
    "a sink": lambda g, c, r: g.update(sink=None if c.sink else torch.zeros(c.heads)),
    "a backend": _told(backend="aten"),
}  # fmt: skip
"""Each is a right call, unlike that of the other ranks: all are to refuse."""


def differs(case: Case) -> bool:
    """Whether a rank can be unlike others by each of DIFFERENCES."""
    return case.world_size > 1 and case.form != "llama3" and case.rows is None
