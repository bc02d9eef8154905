"""One rank's backward pass: the forward's launches again, and gradients of keys sent home.

With the whole row's lse and delta every launch gives its exact summand of dq, dk and dv
(Dao 2023, FlashAttention-2, algorithm 2). dq stays here and grows in float32; dk and dv go
straight to the rank that owns the keys, which sums them in float32 in a fixed order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ring_attn_bench import launch as kernel
from ring_attn_bench.backend import accumulating
from ring_attn_bench.plan import Launch, Step
from ring_attn_bench.ring.delta import delta
from ring_attn_bench.ring.forward import Job, post_due
from ring_attn_bench.ring.link import Transport
from ring_attn_bench.ring.packing import Packing, accumulator_dtype
from ring_attn_bench.tensors import Keys, Rows, Sums


class BackwardPass:
    """publish, run, collect: apart, so that ranks in one process can take turns."""

    def __init__(
        self,
        job: Job,
        transport: Transport,
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
    ) -> None:
        self._job, self._transport = job, transport
        self._dout, self._q, self._k, self._v = dout, q, k, v
        self._out, self._lse = out, lse
        self._wide = accumulator_dtype(q.dtype)
        self._packing = Packing.of(k, v)
        self._accumulating = accumulating(job.backend)
        self._delta = delta(dout, out, self._wide) if job.backend.needs_delta else None
        plan = job.plan
        # a lone rank's kernel writes gradients that nothing is added to in their own dtypes
        alone = self._accumulating is not None and len(plan.steps) == 1
        direct = alone and all(launch.first and launch.last for launch in plan.launches)
        self._direct_keys = alone and all(launch.first_keys for launch in plan.launches)
        new = torch.zeros if plan.rows_start_at_zero else torch.empty
        self._dq = new(q.shape, dtype=q.dtype if direct else self._wide, device=q.device)

    def publish(self) -> None:
        """Makes this rank's keys readable."""
        plan = self._job.plan
        keys = self._packing.pack_for(plan, self._k, self._v, self._transport.outgoing)
        self._link = self._transport.begin(plan)
        self._link.publish(keys)

    def run(self) -> None:
        """Every launch; a step's partials leave as soon as its last launch is queued."""
        plan = self._job.plan
        for index, step in enumerate(plan.steps):
            post_due(plan, self._link, index)
            k, v = self._keys(index)
            if self._direct_keys:
                new = torch.zeros if step.keys_start_at_zero else torch.empty
                dk, dv = (new(x.shape, dtype=x.dtype, device=x.device) for x in (k, v))
            else:
                gradients = self._gradients(step, k.shape[1])
                dk, dv = self._packing.views(gradients)
            for launch in step.launches:
                self._launch(launch, k, v, dk, dv)
            if self._direct_keys:
                self._own = dk, dv
            elif index == 0:
                self._home = gradients
            else:
                self._add_received(outstanding=plan.slots - 1)
                self._link.give(index, gradients.to(self._job.gradients))

    def collect(self) -> tuple[Tensor, Tensor, Tensor]:
        """dq, dk, dv in the dtypes of q, k, v."""
        self._add_received(outstanding=0)
        self._link.finish()
        dq = self._dq.to(self._q.dtype)
        if self._direct_keys:
            return dq, *self._own
        dk, dv = self._packing.views(self._home)
        return dq, _like(dk, self._k), _like(dv, self._v)

    def _keys(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 0:
            return self._k, self._v
        return self._packing.views(self._link.landed(index))

    def _gradients(self, step: Step, tokens: int) -> Tensor:
        """A buffer for a step's packed dk, dv: in the wire's dtype if nothing is added up in it."""
        travels = step.fetches and all(launch.first_keys for launch in step.launches)
        dtype = self._job.gradients if travels else self._wide
        new = torch.zeros if step.keys_start_at_zero else torch.empty
        return new(tokens, self._packing.width, dtype=dtype, device=self._k.device)

    def _launch(self, launch: Launch, k: Tensor, v: Tensor, dk: Tensor, dv: Tensor) -> None:
        sums = Sums(self._dq, dk, dv).part(launch.rows, launch.keys)
        rows = Rows(self._q, self._dout, self._out, self._lse, self._delta).part(launch.rows)
        keys = Keys(k, v).part(launch.keys)
        block, score, deterministic = launch.block, self._job.score, self._job.deterministic
        if self._accumulating is not None:
            kernel.backward_into(
                self._accumulating, rows, keys, sums, block, score,
                first=launch.first, first_keys=launch.first_keys, deterministic=deterministic,
            )  # fmt: skip
            return
        shares = kernel.backward(
            self._job.backend, rows, keys, block, score, deterministic=deterministic
        )
        _put(sums.dq, shares[0], launch.first)
        _put(sums.dk, shares[1], launch.first_keys)
        _put(sums.dv, shares[2], launch.first_keys)

    def _add_received(self, outstanding: int) -> None:
        for tokens, partial in self._link.received(outstanding):
            self._home[tokens.slice].add_(partial)


def _put(total: Tensor, part: Tensor, first: bool) -> None:
    if first:
        total.copy_(part)
    else:
        total.add_(part)


def _like(gradient: Tensor, tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(gradient)
