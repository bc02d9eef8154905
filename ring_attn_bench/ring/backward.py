"""One rank's backward pass: the forward's launches again, and gradients of keys sent home.

With the whole row's lse and delta every launch gives its exact summand of dq, dk and dv
(Dao 2023, FlashAttention-2, algorithm 2). dq stays here and grows in float32; dk and dv go
straight to the rank that owns the keys, which sums them in float32 in a fixed order.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ring_attn_bench.calls import kernel
from ring_attn_bench.calls.delta import delta
from ring_attn_bench.calls.lse_gradient import with_lse
from ring_attn_bench.contract.tensors import Gathering, Kept, Keys, Rows, Sums, part_of
from ring_attn_bench.plan.gathered import Gathered
from ring_attn_bench.plan.plans import Launch, Step
from ring_attn_bench.plan.positions import Range
from ring_attn_bench.plan.problem import Score
from ring_attn_bench.ring.forward import Job, gathered_keys
from ring_attn_bench.ring.link import Homeward, Link, Resuming, Transport
from ring_attn_bench.ring.packed_calls import add_at, behind, tables_of
from ring_attn_bench.ring.packed_calls import backward as packed_backward
from ring_attn_bench.ring.packing import Packing, accumulator_dtype, copy_keys, sum_keys


class BackwardPass:
    """publish, run, collect: apart, so that ranks in one process can take turns."""

    def __init__(
        self,
        job: Job,
        transport: Transport,
        rows: Rows,
        keys: Keys,
        dlse: Tensor | None = None,
        kept: Kept | None = None,
    ) -> None:
        self._kept = kept
        self._link: Homeward
        self._source: Link  # of keys that were not kept
        self._job, self._plan, self._transport = job, job.plan, transport
        q = rows.q
        self._wide = accumulator_dtype(q.dtype)
        if rows.delta is None and job.backend.needs_delta:
            rows = rows._replace(delta=delta(rows.dout, rows.out, self._wide))
        self._rows, self._keys, self._dlse = rows, keys, dlse
        self._packing = Packing.of(keys)
        self._direct_keys = self._adopts_keys = self._adopts = False
        self._adopted = self._own_last = False
        self._home: Tensor
        self._early: list[tuple[Range, Tensor]] = []
        plan = job.plan
        if plan.gathers:  # its launch makes dq, and there are no others
            return
        # gradients of lse by a kernel of this kind come in a share of their own, to be added
        self._accumulating = job.accumulating if dlse is None else None
        # a lone rank's kernel writes gradients that nothing is added to in their own dtypes
        alone = self._accumulating is not None and len(plan.steps) == 1
        direct = alone and plan.writes_rows_once
        self._direct_keys = alone and all(launch.first_keys for launch in plan.launches)
        # what a kernel gives for all rows, or keys, is added to as it is, where that is done once
        cannot_add = self._accumulating is None
        self._adopts = cannot_add and plan.merges_once
        self._adopts_keys = cannot_add and plan.adds_keys_once
        self._own_last = kept is not None and self._adopts
        if not self._adopts:
            new = torch.zeros if plan.rows_start_at_zero else torch.empty
            self._dq = new(q.shape, dtype=q.dtype if direct else self._wide, device=q.device)

    def publish(self) -> None:
        """Makes this rank's keys readable, unless the others have kept them."""
        plan = self._plan
        if self._kept is not None:
            resuming: Resuming = self._transport  # type: ignore[assignment]  # the options say so
            self._link = resuming.resume(plan)
            return
        self._packed = self._packing.pack_for(plan, self._keys, self._transport)
        self._link = self._source = self._transport.begin(plan)
        self._source.publish(self._packed.buffer)

    def run(self) -> None:
        """Every launch; a step's partials leave as soon as its last launch is queued."""
        plan = self._plan
        steps = list(enumerate(plan.steps))
        if self._own_last:  # so that the others' gradients leave early
            steps = [*steps[1:], steps[0]]
        for index, step in steps:
            for due in plan.due[index] if self._kept is None else ():
                self._source.post(due)
            if step.gathered is not None:
                self._run_gathered(index, step.gathered)
            elif not plan.gathers:
                self._run_step(index, step)

    def _run_step(self, index: int, step: Step) -> None:
        keys = self._landed(index)
        if index == 0 and self._adopts_keys:
            (launch,) = step.launches
            given = self._shares(launch, keys)
            self._add_rows(launch, given.dq)
            self._home_keys = Keys(given.dk.contiguous(), given.dv.contiguous())
            return
        if self._direct_keys:
            new = torch.zeros if step.keys_start_at_zero else torch.empty
            shares = Keys(*(new(x.shape, dtype=x.dtype, device=x.device) for x in keys))
        else:
            own = self._keys.k.shape[1] if step.with_own else 0
            gradients = self._gradients(step, own + keys.k.shape[1])
            shares = self._packing.views(gradients)
        for launch in step.launches:
            self._launch(launch, keys, shares)
        if step.with_own:
            self._launch_packed(step, behind(self._keys, keys), shares)
            self._home.add_(gradients[:own])
            gradients = gradients[own:]
        elif step.packs:
            self._launch_packed(step, keys, shares)
        if self._direct_keys:
            self._own = shares
        elif index == 0:
            self._home, self._home_keys = gradients, shares
        else:
            self._add_received(outstanding=self._plan.slots - 1)
            self._link.give(index, gradients.to(self._job.gradients))

    def _run_gathered(self, index: int, where: Gathered) -> None:
        """The others' shares first, so that they travel under what is left to do."""
        job, packing, k = self._job, self._packing, self._keys.k
        backend = job.gathering
        assert backend is not None  # the plan says so
        if self._kept is None:
            keys, _ = gathered_keys(packing, self._keys, self._packed, self._source, index)
        else:
            keys = self._with_kept(self._kept[index - 1])
        width, landed = packing.width, keys.landed.k.shape[1]
        self._home = k.new_empty((k.shape[1], width), dtype=self._wide)
        self._home_keys = packing.views(self._home)
        partials = k.new_empty((landed, width), dtype=job.gradients)
        asked = self._rows, keys, self._home_keys, packing.views(partials), where, job.score
        own_first = keys.arrived is not None
        leave = partial(self._link.give, index, partials)
        if job.together is not None:
            self._dq = job.together.gathered_backward(*asked, own_first=own_first, leave=leave)
            return
        backend.gathered_dkdv(*asked, own_first=own_first)
        leave()
        keys = keys._replace(arrived=None)  # that launch has waited for all of them
        self._dq = backend.gathered_dq(self._rows, keys, where, job.score)

    def _with_kept(self, landed: Tensor) -> Gathering:
        packing, keys = self._packing, self._keys
        if keys.k.shape[0] > 1:  # the heads of a batch's entries in a row, as of the others' keys
            own = packing.views(keys.k.new_empty(keys.k.shape[1], packing.width))
            copy_keys(keys, own)
            keys = own
        return Gathering(keys, packing.views(landed))

    def collect(self) -> Sums:
        """dq, dk, dv in the dtypes of q, k, v."""
        dk_dv = self._own if self._direct_keys else self._total()
        self._link.finish()
        return Sums(self._dq.to(self._rows.q.dtype), *dk_dv)

    def _total(self) -> Keys:
        """What is at home and what came, in the dtypes of k and v; the last in one go with that."""
        last: tuple[Range, Tensor] | None = None
        for given in self._link.received(outstanding=0):
            if last is not None:
                self._home[last[0].slice].add_(last[1])
            last = given
        k, v = self._keys
        if last is None and self._adopts_keys:
            dk, dv = self._home_keys
            return Keys(dk.to(k.dtype), dv.to(v.dtype))
        first, part = (0, None) if last is None else (last[0].start, self._packing.views(last[1]))
        summed = Keys(k.new_empty(k.shape), v.new_empty(v.shape))
        sum_keys(self._home_keys, part, first, summed)
        return summed

    def _landed(self, index: int) -> Keys:
        if index == 0:
            return self._keys
        kept = self._kept
        landed = self._source.landed(index) if kept is None else kept[index - 1]
        return self._packing.views(landed)

    def _gradients(self, step: Step, tokens: int) -> Tensor:
        """A buffer for a step's packed dk, dv: in the wire's dtype if nothing is added up in it."""
        travels = (
            step.fetches and not step.packs and all(launch.first_keys for launch in step.launches)
        )
        dtype = self._job.gradients if travels else self._wide
        new = torch.zeros if step.keys_start_at_zero else torch.empty
        return new(tokens, self._packing.width, dtype=dtype, device=self._keys.k.device)

    def _launch_packed(self, step: Step, keys: Keys, total: Keys) -> None:
        for pack in step.packs:
            tables, job = tables_of(pack, keys.k.device), self._job
            sums = packed_backward(
                job.backend, pack, self._rows, keys, job.score, self._dlse,
                deterministic=job.deterministic,
            )  # fmt: skip
            add_at(self._dq, tables.rows, sums.dq)
            for into, share in zip(total, (sums.dk, sums.dv), strict=True):
                add_at(into, tables.keys, share)

    def _launch(self, launch: Launch, keys: Keys, total: Keys) -> None:
        if self._accumulating is not None:
            sums = Sums(self._dq, *total).part(launch.rows, launch.keys)
            kernel.backward_into(
                self._accumulating, self._rows.part(launch.rows), keys.part(launch.keys), sums,
                launch.block, self._job.score, first=launch.first, first_keys=launch.first_keys,
                deterministic=self._job.deterministic,
            )  # fmt: skip
            return
        shares = self._shares(launch, keys)
        self._add_rows(launch, shares.dq)
        into, share = total.part(launch.keys), Keys(shares.dk, shares.dv)
        for x, y in zip(into, share, strict=True):
            _put(x, y, launch.first_keys)

    def _shares(self, launch: Launch, keys: Keys) -> Sums:
        """The launch's own, in q's dtype or wider."""
        rows, keys = self._rows.part(launch.rows), keys.part(launch.keys)

        def launched(rows: Rows, keys: Keys, score: Score) -> Sums:
            return kernel.backward(
                self._job.backend, rows, keys, launch.block, score,
                deterministic=self._job.deterministic,
            )  # fmt: skip

        dlse = None if self._dlse is None else part_of(self._dlse, launch.rows, -1)
        return with_lse(launched, rows, keys, self._job.score, dlse)

    def _add_rows(self, launch: Launch, dq: Tensor) -> None:
        if self._adopts and launch.first:
            self._dq, self._adopted = dq.contiguous(), True
            for rows, share in self._early:
                part_of(self._dq, rows).add_(share)
        elif self._adopts and not self._adopted:  # the launch of all rows comes last
            self._early.append((launch.rows, dq))
        else:
            _put(part_of(self._dq, launch.rows), dq, launch.first)

    def _add_received(self, outstanding: int) -> None:
        if self._adopts_keys or self._own_last:  # what is to be added is added in the end
            return
        for tokens, share in self._link.received(outstanding):
            self._home[tokens.slice].add_(share)


def _put(total: Tensor, part: Tensor, first: bool) -> None:
    if first:
        total.copy_(part)
    else:
        total.add_(part)
