"""Our own Triton kernels behind the contract; Triton and the kernels are imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import torch

from ring_attn_bench.contract.install import COMMANDS
from ring_attn_bench.errors import BackendUnavailable
from ring_attn_bench.plan.block import Alibi, Form

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_bench.contract.cache import CachedCall, CachedResults
    from ring_attn_bench.contract.tensors import Gathering, Keys, Rows, Running, Sums
    from ring_attn_bench.contract.tunable import Offer, Trial, TrialTensors
    from ring_attn_bench.contract.used import UsedKernel
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.cached import CachedProblem
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.plans import Launch
    from ring_attn_bench.plan.problem import Documents, Problem, Score

MAX_HEAD_DIM = 256
FARTHEST = 2**29
"""Places of a cache, in 32 bits, with room for the sides of a window."""
MAX_GRID = 65535
"""Programs along a grid's second and third axis: heads and batch entries."""


class TritonBackend:
    """FlashAttention-2 in Triton: every mask and feature, head dims up to 256, deterministic.

    by_position: whether it asks for blocks of the form GENERAL, and not for their pieces. They are
    as many tiles in fewer calls, but the Hopper kernels serve the pieces only (see the README).
    """

    name = "triton"
    forms = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
    alibi = Alibi.POSITION
    needs_delta = True
    drops_by_position = True
    cached_sinks = True
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "cpu": {"TRITON_INTERPRET": "1"}
    }

    def __init__(self, *, by_position: bool = False) -> None:
        if by_position:
            self.forms = frozenset(Form)
        if find_spec("triton") is None:
            raise BackendUnavailable(
                self.name, f"Triton is not installed; try: {COMMANDS['triton']}"
            )

    def interpreted(self) -> bool:
        """Whether kernels run in Triton's interpreter: right numbers, meaningless speeds."""
        import triton

        return bool(triton.knobs.runtime.interpret)

    def unsupported(self, problem: Problem) -> str | None:
        """Float64, and what is too wide or too many; a CPU, or bfloat16, as `interpreted`."""
        widest = max(problem.head_dim, problem.head_dim_v)
        if problem.dtype == "float64":
            return "it computes in float32: it has no float64"
        if widest > MAX_HEAD_DIM:
            return f"it has no head_dim above {MAX_HEAD_DIM} (got {widest})"
        batch = 1 if problem.packed else problem.batch
        if max(batch, problem.heads_q) > MAX_GRID:
            return f"it has no batch, and no number of heads, above {MAX_GRID}"
        if self.interpreted():
            if problem.dtype == "bfloat16":
                return "Triton's interpreter multiplies bfloat16 wrongly; use float16 or float32"
        elif problem.device == "cpu":
            return (
                "it needs a CUDA device, or TRITON_INTERPRET=1 set before Python starts"
                " (correctness only)"
            )
        return None

    def version(self) -> str:
        """Triton's, and which of its kernels this machine gets."""
        import triton

        from ring_attn_backends.triton.hopper.serves import NARROWEST, refusal

        gpu = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
        why = refusal(gpu, triton.__version__, self.interpreted())
        rest = f"plain ones for ALiBi, dropout, float32, head dims to {NARROWEST}"
        kernels = f"Hopper kernels, {rest}" if why is None else f"plain kernels: {why}"
        return f"triton {triton.__version__} ({kernels})"

    def kernels_used(self) -> tuple[UsedKernel, ...]:
        """As the contract says (`contract/used.py`)."""
        from ring_attn_backends.triton.kept import used

        return used()

    def scratch_bytes(self, problem: Problem, launch: Launch | Gathered) -> int:
        """As the contract says (`contract/scratch.py`): of the Hopper kernels, shares of dk, dv."""
        from ring_attn_backends.triton.scratch import scratch_bytes

        return scratch_bytes(problem, launch)

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> tuple[Tensor, Tensor]:
        """out in q's dtype."""
        from ring_attn_backends.triton.compute import whole_forward

        return whole_forward(q, keys, block, score)

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """Always deterministic; accumulated in float32, and rounded once to q's dtype."""
        from ring_attn_backends.triton.compute import whole_backward

        return whole_backward(rows, keys, block, score)

    def forward_into(
        self,
        q: Tensor,
        keys: Keys,
        running: Running,
        block: Block,
        score: Score,
        *,
        first: bool,
    ) -> None:
        """One kernel, or for a block of more than two chunks some."""
        from ring_attn_backends.triton.compute import forward_into

        forward_into(q, keys, running, block, score, first=first)

    def backward_into(
        self,
        rows: Rows,
        keys: Keys,
        sums: Sums,
        block: Block,
        score: Score,
        *,
        first: bool,
        first_keys: bool,
        deterministic: bool,
    ) -> None:
        """One kernel for dq and one for dk and dv, without atomics: always deterministic."""
        from ring_attn_backends.triton.compute import backward_into

        backward_into(rows, keys, sums, block, score, first=first, first_keys=first_keys)

    def packed_forward(
        self, q: Tensor, keys: Keys, documents: Documents, score: Score
    ) -> tuple[Tensor, Tensor]:
        """The same kernels, which look up where a document lies."""
        from ring_attn_backends.triton.compute import packed_forward

        return packed_forward(q, keys, documents, score)

    def packed_backward(
        self, rows: Rows, keys: Keys, documents: Documents, score: Score, *, deterministic: bool
    ) -> Sums:
        """As `backward`."""
        from ring_attn_backends.triton.compute import packed_backward

        return packed_backward(rows, keys, documents, score)

    def gathered_forward(
        self, q: Tensor, keys: Gathering, where: Gathered, score: Score
    ) -> tuple[Tensor, Tensor]:
        """A program for each tile of rows, which walks the own keys, then piece after piece."""
        from ring_attn_backends.triton import gathered

        return gathered.forward(q, keys, where, score)

    def gathered_dkdv(
        self,
        rows: Rows,
        keys: Gathering,
        own: Keys,
        landed: Keys,
        where: Gathered,
        score: Score,
        *,
        own_first: bool,
    ) -> None:
        """A program for each tile of keys, without atomics: always deterministic."""
        from ring_attn_backends.triton import gathered

        gathered.dkdv(rows, keys, own, landed, where, score, own_first=own_first)

    def gathered_dq(self, rows: Rows, keys: Gathering, where: Gathered, score: Score) -> Tensor:
        """As `gathered_forward`."""
        from ring_attn_backends.triton import gathered

        return gathered.dq(rows, keys, where, score)

    def packed_forward_into(
        self, q: Tensor, keys: Keys, out: Tensor, lse: Tensor, documents: Documents, score: Score
    ) -> None:
        """The same, into memory that is there."""
        from ring_attn_backends.triton.compute import packed_forward_into

        packed_forward_into(q, keys, out, lse, documents, score)

    def packed_backward_into(
        self,
        rows: Rows,
        keys: Keys,
        sums: Sums,
        documents: Documents,
        score: Score,
        *,
        deterministic: bool,
    ) -> None:
        """The same, into memory that is there."""
        from ring_attn_backends.triton.compute import packed_backward_into

        packed_backward_into(rows, keys, sums, documents, score)

    def cached_unsupported(self, problem: CachedProblem) -> str | None:
        """As `unsupported`; and places that kernels do not count to."""
        if problem.capacity + problem.appended + problem.queries >= FARTHEST:
            return f"it counts places of a cache below {FARTHEST} (got {problem.capacity} tokens)"
        from ring_attn_backends.triton.cached import latent

        whole = problem.without_cache
        if latent.is_wide(whole.head_dim):
            reason = latent.refusal(problem)
            if reason is not None:
                return reason
            whole = replace(whole, head_dim=MAX_HEAD_DIM, head_dim_v=MAX_HEAD_DIM)  # it has room
        return self.unsupported(whole)

    def cached_forward(self, call: CachedCall) -> tuple[Tensor, Tensor]:
        """Two kernels, or one where no programs share a head's keys; one before if it appends."""
        from ring_attn_backends.triton.cached.calls import forward

        return forward(call)[:2]

    def cached_repeatable(self, call: CachedCall) -> CachedResults:
        """The same, and what launches those kernels for other tensors."""
        from ring_attn_backends.triton.cached.again import repeatable

        return repeatable(call)

    def offer(self) -> Offer:
        """The configurations of the tables and their rivals."""
        from ring_attn_backends.triton import tuning

        return tuning.offer(interpreted=self.interpreted())

    def trial_launch(
        self, trial: Trial, tensors: TrialTensors, block: Block, score: Score, *, add: bool
    ) -> Callable[[], None]:
        """A kernel in one of these configurations."""
        from ring_attn_backends.triton import tuning

        return tuning.trial_launch(trial, tensors, block, score, add=add)
