"""The tables' configurations and their rivals as trials, for `ring-attn-bench tune triton`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import triton

from ring_attn_backends.triton import launch as plain
from ring_attn_backends.triton.candidates import CANDIDATES
from ring_attn_backends.triton.hopper import launch as hopper
from ring_attn_backends.triton.hopper import table
from ring_attn_backends.triton.tables import TABLES, Tiling
from ring_attn_bench.tensors import Running
from ring_attn_bench.tunable import Offer, Trial

if TYPE_CHECKING:
    from ring_attn_bench.block import Block
    from ring_attn_bench.problem import DtypeName, Score
    from ring_attn_bench.tunable import TrialTensors

PLAIN, HOPPER = "plain", "hopper"
HALVES: tuple[DtypeName, ...] = ("bfloat16", "float16")


def offer(*, interpreted: bool) -> Offer:
    """All rows of the plain tables, and of Hopper's where its kernels run."""
    gpu = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    why = table.refusal(gpu, triton.__version__, interpreted)
    untimed = None
    if interpreted:
        untimed = "Triton interprets its kernels here"
    elif gpu is None:
        untimed = "there is no CUDA device"
    trials = (*_plain(interpreted), *(_hopper() if why is None else ()))
    left_out = () if why is None else (f"the {HOPPER} kernels are left out: {why}",)
    return Offer(trials, left_out, untimed)


def trial_launch(
    trial: Trial, tensors: TrialTensors, block: Block, score: Score, *, add: bool
) -> Callable[[], None]:
    """The kernel of the trial's table, in its configuration."""
    if trial.table == HOPPER:
        return _hopper_launch(trial, tensors, block, score, add).run
    return _plain_launch(trial, tensors, block, score, add).run


def _plain_launch(
    trial: Trial, x: TrialTensors, block: Block, score: Score, add: bool
) -> plain.Launch:
    tiling = plain_tiling(trial)
    if trial.kernel == "forward":
        running = Running(x.rows.out, x.rows.lse)
        return plain.forward_launch(
            x.rows.q, x.keys, running, block, score, first=not add, tiling=tiling
        )
    given = x.rows, x.keys, x.sums, block, score
    if trial.kernel == "backward_dq":
        return plain.backward_dq_launch(*given, add=add, tiling=tiling)
    return plain.backward_dkdv_launch(*given, add=add, tiling=tiling)


def _hopper_launch(
    trial: Trial, x: TrialTensors, block: Block, score: Score, add: bool
) -> hopper.HopperLaunch:
    """How many programs share a key head's queries is the GPU's business, as in every call."""
    config = hopper_config(trial)
    if trial.kernel == "forward":
        running = Running(x.rows.out, x.rows.lse)
        return hopper.forward_launch(
            x.rows.q, x.keys, running, block, score, first=not add, config=config
        )
    given = x.rows, x.keys, x.sums, block, score
    if trial.kernel == "backward_dq":
        return hopper.backward_dq_launch(*given, add=add, config=config)
    return hopper.backward_dkdv_launch(*given, add=add, config=config)


def plain_tiling(trial: Trial) -> Tiling:
    """The tiling that a trial's words stand for."""
    size = 2 if trial.dtypes[0] in HALVES else 4
    tilings = CANDIDATES[trial.kernel][size, trial.head_dim]
    return next(x for x in tilings if str(x) == trial.config)


def hopper_config(trial: Trial) -> table.Config:
    """The configuration that a trial's words stand for."""
    configs = table.CANDIDATES[trial.kernel, trial.head_dim]
    return next(x for x in configs if str(x) == trial.config)


def _plain(interpreted: bool) -> Iterator[Trial]:
    # the interpreter multiplies bfloat16 wrongly
    halves: tuple[DtypeName, ...] = ("float16",) if interpreted else HALVES
    for kernel, rows in CANDIDATES.items():
        for (size, head_dim), tilings in rows.items():
            shipped = TABLES[kernel][size, head_dim].tiling
            for x in tilings:
                dtypes = halves if size == 2 else ("float32",)
                yield Trial(kernel, PLAIN, head_dim, dtypes, str(x), shipped=x == shipped)


def _hopper() -> Iterator[Trial]:
    for (kernel, head_dim), configs in table.CANDIDATES.items():
        shipped = table.TABLE[kernel, head_dim].config
        for x in configs:
            yield Trial(kernel, HOPPER, head_dim, HALVES, str(x), shipped=x == shipped)
