"""What the harness judges and times: our ring, or somebody else's, over this process's shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ring_attn_bench.bench.inputs import Inputs, mask_of
from ring_attn_bench.bench.recorder import Recorder
from ring_attn_bench.contract.backend import Backend
from ring_attn_bench.plan.problem import Problem
from ring_attn_bench.records.direction import Direction
from ring_attn_bench.records.record import Case
from ring_attn_bench.ring.forward import Job
from ring_attn_bench.ring.options import RingOptions

Outputs = tuple[Tensor, Tensor | None]
"""out and lse of one rank; no lse where the contestant gives none."""
Gradients = tuple[Tensor, Tensor, Tensor]
"""dq, dk, dv of one rank."""


class Refused(Exception):
    """A contestant cannot run a case; the text is the reason."""


class Runner(Protocol):
    """Whoever computes a case, on one process: a result for each rank that is played here."""

    @property
    def version(self) -> str:
        """The version of the code that computes."""
        ...

    @property
    def interpreted(self) -> bool:
        """Whether its kernel runs in an interpreter, which has errors but no speed."""
        ...

    @property
    def capturable(self) -> bool:
        """Whether its calls can be put into CUDA graphs."""
        ...

    @property
    def kernel(self) -> Backend | None:
        """The kernel inside as a backend, to run alone on one GPU; None if there is none such."""
        ...

    @property
    def took(self) -> RingOptions | None:
        """The options with what `auto` took in its place; None if they are not ours."""
        ...

    @property
    def allowed_pairs(self) -> list[int] | None:
        """The allowed pairs that each rank played here computes; None if nobody knows."""
        ...

    @property
    def job(self) -> Job | None:
        """What the one rank that this process plays does; None of a peer, and of several ranks."""
        ...

    def link_bytes(self, case: Case, direction: Direction) -> int | None:
        """Bytes of a call that a rank played here receives, or sends, whichever is more: the most
        of these ranks, or of all where a larger ring is played. None where nothing travels or
        nobody knows."""
        ...

    def twin(self) -> Runner | None:
        """The same without communication, whose results mean nothing; or None."""
        ...

    def traced(self, recorder: Recorder[Any]) -> Runner | None:
        """The same, whose calls are recorded; or None."""
        ...

    def forward(self, shards: Sequence[Inputs]) -> list[Outputs]:
        """out and lse of every rank played here."""
        ...

    def backward(self, shards: Sequence[Inputs], outputs: Sequence[Outputs]) -> list[Gradients]:
        """dq, dk, dv of every rank played here, from its `forward` on these very shards."""
        ...


def problem_of(case: Case, device: torch.device, *, backward: bool) -> Problem:
    """The case as a backend or a peer is asked about it."""
    return Problem(
        batch=case.batch,
        seqlen=case.seqlen_total,
        heads_q=case.heads_q,
        heads_kv=case.heads_kv,
        head_dim=case.head_dim,
        head_dim_v=case.head_dim,
        dtype=case.dtype,  # type: ignore[arg-type]  # the suite has checked it
        device="cuda" if device.type == "cuda" else "cpu",
        mask=mask_of(case),
        softcap=case.softcap,
        deterministic=case.deterministic,
        backward=backward,
    )
