"""By how many programs the queries of a key head are shared, and what their shares take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ring_attn_backends.shared.gpus import SMS
from ring_attn_backends.triton.arguments import padded
from ring_attn_backends.triton.hopper.table import TABLE
from ring_attn_bench.plan.gathered import Gathered

if TYPE_CHECKING:
    from ring_attn_bench.plan.plans import Launch
    from ring_attn_bench.plan.problem import Problem


def splits_for(programs: int, group: int, sms: int, *, ragged: bool) -> int:
    """By how many programs the queries of a key head are to be shared, of what divides the group.

    The programs' time in turns of a whole one: of equal programs, the turns that they take; of the
    ragged ones of a causal mask, which are half as long on average and start with the longest, that
    one's or the average load. A share that is summed up takes a fiftieth of a turn, and as often as
    there are turns. More than one are for a saving of a twentieth or more: each is as large as dk
    and dv in float32 (`shares_bytes`), which many turns do not pay back by ending together.
    """

    def turns(splits: int) -> float:
        equal = math.ceil(programs * splits / sms) / splits
        uneven = max(1 / splits, 0.5 * programs / sms)
        return (uneven if ragged else equal) + 0.02 * splits * max(1.0, programs / sms)

    best = min((n for n in range(1, group + 1) if group % n == 0), key=turns)
    return best if turns(best) <= 0.95 * turns(1) else 1


def shares_bytes(
    batch: int, tokens: int, heads_q: int, heads_kv: int, head_dim: int, head_dim_v: int,
    *, ragged: bool, sms: int = SMS,
) -> int:  # fmt: skip
    """What a launch for dk and dv of so many keys takes for shares, until they are summed up."""
    own = TABLE["backward_dkdv", max(64, padded(max(head_dim, head_dim_v)))].config.own
    programs = -(-tokens // own) * heads_kv * batch
    splits = splits_for(programs, heads_q // heads_kv, sms, ragged=ragged)
    return 4 * splits * batch * tokens * heads_kv * (head_dim + head_dim_v) if splits > 1 else 0


def scratch_bytes(problem: Problem, launch: Launch | Gathered, sms: int = SMS) -> int:
    """What a backward's launch takes beside its results: the shares of its keys' gradients."""
    if isinstance(launch, Gathered):
        tokens = sum(len(line.tokens) for line in launch.keys)
        ragged = launch.ragged
    else:
        tokens, band = len(launch.keys), launch.block.index_band
        ragged = band is None or not band.is_open
    heads = problem.heads_q, problem.heads_kv, problem.head_dim, problem.head_dim_v
    return shares_bytes(problem.batch, tokens, *heads, ragged=ragged, sms=sms)
