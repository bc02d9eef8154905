"""One rank's forward pass: post, wait, launch, merge, as the plan says.

A kernel that accumulates merges by itself; one that gathers has one launch for all keys. Documents
that a kernel takes packed are calls of their own (`packed_calls`), merged at the rows they have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ring_attn_bench.calls import kernel, sinks
from ring_attn_bench.contract.backend import (
    AccumulatingBackend,
    Backend,
    GatheringBackend,
    TogetherBackend,
    accumulating,
    gathering,
    together,
)
from ring_attn_bench.contract.tensors import Gathering, Kept, Keys, Running, part_of
from ring_attn_bench.plan.gathered import Gathered
from ring_attn_bench.plan.plans import Launch, Plan, Step
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.plan.problem import Score
from ring_attn_bench.ring.link import Link, Transport
from ring_attn_bench.ring.merge import merge
from ring_attn_bench.ring.packed_calls import Tables, behind, tables_of
from ring_attn_bench.ring.packed_calls import forward as packed_forward
from ring_attn_bench.ring.packing import PackedKeys, Packing, accumulator_dtype


@dataclass(frozen=True)
class Job:
    """What a pass computes with, forward and backward.

    gradients: the dtype in which dk, dv partials travel to their owner.
    """

    plan: Plan
    backend: Backend
    score: Score
    gradients: torch.dtype
    deterministic: bool = False

    @cached_property
    def accumulating(self) -> AccumulatingBackend | None:
        """The backend if it accumulates what the plan has it launch."""
        return None if self.plan.packs else accumulating(self.backend)

    @cached_property
    def gathering(self) -> GatheringBackend | None:
        """The backend if it takes gathered keys."""
        return gathering(self.backend)

    @cached_property
    def together(self) -> TogetherBackend | None:
        """The same if it makes all gradients together, and nobody asks for the same bits."""
        return None if self.deterministic else together(self.backend)


class ForwardPass:
    """publish, run, collect: apart, so that ranks in one process can take turns.

    keeps: whether `kept` gets what landed, by step, for the backward.
    sink (H,): a logit that every row of a head has besides its keys', with a value of 0. It is
    what the merge starts from, so no kernel needs to know of it.
    """

    def __init__(
        self,
        job: Job,
        transport: Transport,
        q: Tensor,
        keys: Keys,
        sink: Tensor | None = None,
        *,
        keeps: bool = False,
    ) -> None:
        self._keeps = keeps
        self.kept: Kept = ()
        self._job, self._plan, self._transport = job, job.plan, transport
        self._q, self._keys, self._sink = q, keys, sink
        self._packing = Packing.of(keys)
        if not job.plan.gathers:  # whose launch makes its own
            self._make_results()

    def _make_results(self) -> None:
        plan, q, sink = self._plan, self._q, self._sink
        batch, rows, heads, _ = q.shape
        wide = accumulator_dtype(q.dtype)
        self._accumulating, self._fresh = self._job.accumulating, sink is None
        self._adopts = self._accumulating is None and self._fresh and plan.merges_once
        if self._adopts:  # the first launch makes them
            return
        self._lse = q.new_empty(batch, heads, rows, dtype=wide)
        self._out = q.new_empty(batch, rows, heads, self._keys.v.shape[3])
        # of a lone packed call nothing is merged: its results are put where its rows are
        self._lone = self._fresh and len(plan.packs) == 1
        direct = self._fresh and (plan.writes_rows_once or self._lone)
        self._out_acc = self._out if direct else torch.empty_like(self._out, dtype=wide)
        if sink is not None:
            self._out_acc.zero_()
            self._lse.copy_(sinks.start(sink, wide)[:, None])
        elif plan.rows_start_at_zero:
            self._out_acc.zero_()
            self._lse.fill_(float("-inf"))

    def publish(self) -> None:
        """Makes this rank's keys readable."""
        plan = self._plan
        self._packed = self._packing.pack_for(plan, self._keys, self._transport)
        self._link = self._transport.begin(plan)
        self._link.publish(self._packed.buffer)

    def run(self) -> None:
        """Every launch, each as soon as its keys are there.

        Transfers are posted before launches on purpose: a transfer kernel that is queued behind
        attention kernels starts only when one of them gives up its multiprocessors.
        """
        plan, link = self._plan, self._link
        for index, step in enumerate(plan.steps):
            for due in plan.due[index]:
                link.post(due)
            if step.gathered is not None:
                self._launch_gathered(index, step.gathered)
            elif not plan.gathers:
                keys = self._keys
                if index:
                    landed = link.landed(index)
                    if self._keeps:
                        self.kept = *self.kept, landed
                    keys = self._packing.views(landed)
                for launch in step.launches:
                    self._launch(launch, keys)
                if step.packs:
                    self._launch_packed(step, keys)

    def collect(self) -> tuple[Tensor, Tensor]:
        """out (B, M, H, E) in q's dtype and lse (B, H, M)."""
        self._link.finish()
        if self._sink is not None and not self._plan.gathers:
            sinks.as_given(self._lse, self._sink)
        if self._out_acc is not self._out:
            for rows in self._plan.unfinished:
                part_of(self._out, rows).copy_(part_of(self._out_acc, rows))
        return self._out, self._lse

    def _launch_gathered(self, index: int, where: Gathered) -> None:
        backend = self._job.gathering
        assert backend is not None  # the plan says so
        keys, landed = gathered_keys(self._packing, self._keys, self._packed, self._link, index)
        if self._keeps:
            self.kept = (landed,)
        out, lse = backend.gathered_forward(self._q, keys, where, self._job.score)
        if self._sink is not None:
            share, lse = sinks.beside(lse, self._sink)
            out = (out * share.transpose(1, 2)[..., None]).to(out.dtype)
        self._out_acc, self._out, self._lse = out, out, lse

    def _launch_packed(self, step: Step, keys: Keys) -> None:
        keys = behind(self._keys, keys) if step.with_own else keys
        for pack in step.packs:
            tables = tables_of(pack, self._q.device)
            given = packed_forward(self._job.backend, pack, self._q, keys, self._job.score)
            self._merge_at(tables, *given)

    def _merge_at(self, tables: Tables, out: Tensor, lse: Tensor) -> None:
        """Merges what a packed call gives at its rows, none of which it has twice."""
        at = tables.rows.stored
        if self._lone:
            where = at.slice if isinstance(at, Range) else at
            self._out[:, where], self._lse[:, :, where] = out.to(self._out.dtype), lse
            return
        if isinstance(at, Range):
            running = Running(self._out_acc, self._lse).part(at)
            merge(running.out, running.lse, out, lse, None)
            return
        running = Running(self._out_acc.index_select(1, at), self._lse.index_select(2, at))
        merge(running.out, running.lse, out, lse, None)
        self._out_acc.index_copy_(1, at, running.out)
        self._lse.index_copy_(2, at, running.lse)

    def _launch(self, launch: Launch, keys: Keys) -> None:
        block, score = launch.block, self._job.score
        q, keys = part_of(self._q, launch.rows), keys.part(launch.keys)
        if self._adopts and launch.first:
            self._adopt(*kernel.forward(self._job.backend, q, keys, block, score))
            return
        running = Running(self._out_acc, self._lse, self._out if launch.last else None)
        running = running.part(launch.rows)
        first = launch.first and self._fresh
        if self._accumulating is not None:
            kernel.forward_into(self._accumulating, q, keys, running, block, score, first=first)
            return
        block_out, block_lse = kernel.forward(self._job.backend, q, keys, block, score)
        if first:
            running.result.copy_(block_out)
            running.lse.copy_(block_lse)
        else:
            merge(running.out, running.lse, block_out, block_lse, running.target)

    def _adopt(self, out: Tensor, lse: Tensor) -> None:
        """Takes a kernel's results over all rows as those that others are merged into, uncopied.

        They are no less exact than in a copy in float32, where others are merged into it once.
        """
        self._out_acc = out.contiguous()
        self._out = self._out_acc.to(self._q.dtype)
        self._lse = lse.to(accumulator_dtype(self._q.dtype)).contiguous()


def gathered_keys(
    packing: Packing, keys: Keys, packed: PackedKeys, link: Link, index: int
) -> tuple[Gathering, Tensor]:
    """The keys of a step's one launch, on their way if the link has words for them, and where."""
    arriving = getattr(link, "arriving", None)
    if arriving is None:
        landed = link.landed(index)
        return Gathering(keys, packing.views(landed)), landed
    landed, words, head_groups = arriving(index)
    # packed, the heads of a batch's entries lie in a row, which is how kernels read pieces
    own = keys if packed.keys is None or keys.k.shape[0] == 1 else packed.keys
    return Gathering(own, packing.views(landed), words, head_groups), landed
