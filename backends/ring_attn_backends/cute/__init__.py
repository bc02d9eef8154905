"""Our own CuTe DSL kernels behind the contract; the compiler and the kernels load on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

import torch

from ring_attn_bench.contract.tensors import Keys, Running, Sums
from ring_attn_bench.errors import BackendUnavailable, Unsupported
from ring_attn_bench.plan.block import Alibi, Form

if TYPE_CHECKING:
    from torch import Tensor

    from ring_attn_backends.cute.arguments import Call
    from ring_attn_bench.contract.ahead import CompiledAhead
    from ring_attn_bench.contract.tensors import Gathering, Rows
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.gathered import Gathered
    from ring_attn_bench.plan.plans import Launch
    from ring_attn_bench.plan.problem import Documents, Problem, Score


class CuteBackend:
    """FlashAttention in CuTe DSL for Hopper: head dims 64 and 128, fp16 and bf16."""

    name = "cute"
    forms = frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW})
    alibi = Alibi.NONE
    needs_delta = True
    rounds_gradients = True
    architectures = ("sm_90a",)
    worker_environment: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def __init__(self) -> None:
        from ring_attn_backends.cute.serves import lacking, lacking_gpu

        why = lacking() or lacking_gpu()
        if why is not None:
            raise BackendUnavailable(self.name, why)

    def unsupported(self, problem: Problem) -> str | None:
        """All but Hopper, and what the kernels lack."""
        from ring_attn_backends.cute.serves import refused

        gpu = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
        return refused(problem, gpu)

    def version(self) -> str:
        """The compiler's, which the speed depends on."""
        return f"cutlass-dsl {version('nvidia-cutlass-dsl')}"

    @classmethod
    def kernels_ahead(cls, architecture: str) -> int:
        """All that calls may ask for."""
        from ring_attn_backends.cute.ahead import builds

        return len(tuple(builds()))

    @classmethod
    def compile_ahead(cls, architecture: str, jobs: int) -> Iterator[CompiledAhead]:
        """Each by a process of its own; kept in the user's cache."""
        from ring_attn_backends.cute.ahead import compile_all
        from ring_attn_backends.cute.serves import lacking

        why = lacking()
        if why is not None:
            raise BackendUnavailable(cls.name, why)
        return compile_all(jobs)

    def forward(self, q: Tensor, keys: Keys, block: Block, score: Score) -> tuple[Tensor, Tensor]:
        """out in q's dtype."""
        batch, rows, heads, _ = q.shape
        out = q.new_empty(batch, rows, heads, keys.v.shape[-1])
        lse = q.new_empty(batch, heads, rows, dtype=torch.float32)
        self.forward_into(q, keys, Running(out, lse), block, score, first=True)
        return out, lse

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
        """One kernel, which goes on from the running sums in its registers."""
        from ring_attn_backends.cute.kept import enqueue

        enqueue(
            ("forward", block, first), score,
            (q, *keys, running.out, running.result, running.lse),
            lambda: _forward_calls(q, keys, running, block, score, first=first),
        )  # fmt: skip

    def backward(
        self, rows: Rows, keys: Keys, block: Block, score: Score, *, deterministic: bool
    ) -> Sums:
        """Accumulated in float32, and rounded once to q's dtype."""
        sums = Sums(*(x.new_empty(x.shape) for x in (rows.q, *keys)))
        self.backward_into(
            rows, keys, sums, block, score, first=True, first_keys=True, deterministic=deterministic
        )
        return sums

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
        """One kernel for dq and one for dk and dv, without atomics: deterministic.

        Where nobody asks for that, and it is faster (`table.adds`), one that adds to dq.
        """
        from ring_attn_backends.cute import adding
        from ring_attn_backends.cute.kept import enqueue

        if not deterministic and adding.takes(rows, keys, block):
            adding.backward_into(rows, keys, sums, block, score, first=first, first_keys=first_keys)
            return
        delta = () if rows.delta is None else (rows.delta,)
        enqueue(
            ("backward", block, first, first_keys), score,
            (rows.q, *keys, rows.dout, rows.lse, *sums, *delta),
            lambda: _backward_calls(
                rows, keys, sums, block, score, first=first, first_keys=first_keys
            ),
        )  # fmt: skip

    def gathered_forward(
        self, q: Tensor, keys: Gathering, where: Gathered, score: Score
    ) -> tuple[Tensor, Tensor]:
        """A program for each tile of rows, which walks the own keys, then piece after piece."""
        from ring_attn_backends.cute.gathered import calls

        return calls.forward(q, keys, where, score)

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
        from ring_attn_backends.cute.gathered import calls

        calls.dkdv(rows, keys, own, landed, where, score, own_first=own_first)

    def gathered_dq(self, rows: Rows, keys: Gathering, where: Gathered, score: Score) -> Tensor:
        """As `gathered_forward`."""
        from ring_attn_backends.cute.gathered import calls

        return calls.dq(rows, keys, where, score)

    def gathered_backward(
        self,
        rows: Rows,
        keys: Gathering,
        own: Keys,
        landed: Keys,
        where: Gathered,
        score: Score,
        *,
        own_first: bool,
        leave: Callable[[], None],
    ) -> Tensor:
        """Programs of key tiles add to dq, in whatever order, in two launches.

        The second is of own keys alone. Where that is not faster, the two launches above.
        """
        from ring_attn_backends.cute.gathered import calls

        return calls.backward(
            rows, keys, own, landed, where, score, own_first=own_first, leave=leave
        )

    def scratch_bytes(self, problem: Problem, launch: Launch | Gathered) -> int:
        """The sums of dq in float32, and what they are rounded to, of a backward that adds."""
        from ring_attn_backends.cute.adding import scratch_bytes

        return scratch_bytes(problem, launch)

    def packed_forward(
        self, q: Tensor, keys: Keys, documents: Documents, score: Score
    ) -> tuple[Tensor, Tensor]:
        """One kernel, whose programs find their documents."""
        from ring_attn_backends.cute.packed import calls

        return calls.forward(q, keys, documents, score)

    def packed_forward_into(
        self, q: Tensor, keys: Keys, out: Tensor, lse: Tensor, documents: Documents, score: Score
    ) -> None:
        """The same, into memory that is there."""
        from ring_attn_backends.cute.packed import calls

        calls.forward_into(q, keys, out, lse, documents, score)

    def packed_backward(
        self, rows: Rows, keys: Keys, documents: Documents, score: Score, *, deterministic: bool
    ) -> Sums:
        """One kernel for dq and one for dk and dv: always deterministic."""
        from ring_attn_backends.cute.packed import calls

        return calls.backward(rows, keys, documents, score)

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
        from ring_attn_backends.cute.packed import calls

        calls.backward_into(rows, keys, sums, documents, score)


def _forward_calls(
    q: Tensor, keys: Keys, running: Running, block: Block, score: Score, *, first: bool
) -> Iterator[Call]:
    from ring_attn_backends.cute.arguments import forward_call
    from ring_attn_backends.cute.serves import readable, unreadable_forward

    q, keys = readable(q), Keys(*map(readable, keys))
    _check(unreadable_forward(q, keys, running, first=first))
    yield forward_call(q, keys, running, block, score, first=first)


def _backward_calls(
    rows: Rows, keys: Keys, sums: Sums, block: Block, score: Score, *, first: bool, first_keys: bool
) -> Iterator[Call]:
    from ring_attn_backends.cute.arguments import dkdv_call, dq_call
    from ring_attn_backends.cute.serves import readable_backward, unreadable_backward
    from ring_attn_backends.cute.table import of_keys

    rows, keys = readable_backward(rows, keys)
    _check(unreadable_backward(rows, keys, sums, first=first, first_keys=first_keys))
    yield dq_call(rows, keys, sums.dq, block, score, first=first)
    for kernel in of_keys(rows.q.shape[-1]):
        yield dkdv_call(rows, keys, sums.dk, sums.dv, block, score, first=first_keys, kernel=kernel)


def _check(why: str | None) -> None:
    if why is not None:
        raise Unsupported(CuteBackend.name, why)
