"""The tables' configurations and their rivals as trials, for `ring-attn-bench tune triton`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import triton

from ring_attn_backends.triton.choice import FAMILIES, Family
from ring_attn_bench.contract.tensors import Running
from ring_attn_bench.contract.tunable import Offer, Trial

if TYPE_CHECKING:
    from ring_attn_bench.contract.tunable import TrialTensors
    from ring_attn_bench.plan.block import Block
    from ring_attn_bench.plan.problem import DtypeName, Score

HALVES: tuple[DtypeName, ...] = ("bfloat16", "float16")


def offer(*, interpreted: bool) -> Offer:
    """All rows of the tables whose kernels run here."""
    gpu = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    untimed = None
    if interpreted:
        untimed = "Triton interprets its kernels here"
    elif gpu is None:
        untimed = "there is no CUDA device"
    trials: list[Trial] = []
    left_out: list[str] = []
    for family in FAMILIES:
        why = family.serves.refusal(gpu, triton.__version__, interpreted)
        if why is None:
            trials += _trials(family, interpreted)
        else:
            left_out.append(f"the {family.name} kernels are left out: {why}")
    return Offer(tuple(trials), tuple(left_out), untimed)


def trial_launch(
    trial: Trial, x: TrialTensors, block: Block, score: Score, *, add: bool
) -> Callable[[], None]:
    """The kernel of the trial's table, in its configuration.

    How many programs share a key head's queries is the GPU's business, as in every call.
    """
    launch, config = _family(trial).launch, config_of(trial)
    if trial.kernel == "forward":
        running = Running(x.rows.out, x.rows.lse)
        return launch.forward_launch(
            x.rows.q, x.keys, running, block, score, first=not add, config=config
        ).run
    dq = trial.kernel == "backward_dq"
    make = launch.backward_dq_launch if dq else launch.backward_dkdv_launch
    return make(x.rows, x.keys, x.sums, block, score, add=add, config=config).run


def config_of(trial: Trial) -> Any:  # noqa: ANN401 - each family has its own
    """The configuration that a trial's words stand for."""
    asked = trial.kernel, 2 if trial.dtypes[0] in HALVES else 4, trial.head_dim
    rows = _family(trial).table.rows()
    configs = (x for *row, _, tried in rows if tuple(row) == asked for x in tried)
    return next(x for x in configs if str(x) == trial.config)


def _family(trial: Trial) -> Family:
    return next(x for x in FAMILIES if x.name == trial.table)


def _trials(family: Family, interpreted: bool) -> Iterator[Trial]:
    # the interpreter multiplies bfloat16 wrongly
    halves: tuple[DtypeName, ...] = ("float16",) if interpreted else HALVES
    for kernel, size, head_dim, shipped, configs in family.table.rows():
        dtypes = halves if size == 2 else ("float32",)
        for x in configs:
            yield Trial(kernel, family.name, head_dim, dtypes, str(x), shipped=x == shipped)
