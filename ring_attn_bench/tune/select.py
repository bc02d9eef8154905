"""Which of a backend's trials are tried."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ring_attn_bench.contract.tunable import Trial
from ring_attn_bench.errors import InvalidArgument
from ring_attn_bench.records.outcome import TypedTrial


@dataclass(frozen=True, slots=True)
class TrialSelection:
    """Kernels, head dims and dtypes, by name; empty ones are not asked about.

    Without dtypes a row is tuned in the first of those that it serves.
    """

    kernels: tuple[str, ...] = ()
    head_dims: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()

    def of(self, trials: Sequence[Trial]) -> tuple[TypedTrial, ...]:
        """In the order of the trials; raises InvalidArgument where a name finds nothing."""
        _check("kernel", self.kernels, [x.kernel for x in trials])
        _check("head dim", self.head_dims, [x.head_dim for x in trials])
        _check("dtype", self.dtypes, [dtype for x in trials for dtype in x.dtypes])
        chosen = tuple(
            TypedTrial(trial=trial, dtype=dtype)
            for trial in trials
            if (not self.kernels or trial.kernel in self.kernels)
            and (not self.head_dims or trial.head_dim in self.head_dims)
            for dtype in trial.dtypes
            if (dtype in self.dtypes if self.dtypes else dtype == trial.dtypes[0])
        )
        if not chosen:
            raise InvalidArgument(
                "no configuration is all that was asked for at once (kernel, head dim, dtype); "
                "leave one of these options out."
            )
        return chosen


def _check(what: str, asked: Collection[object], known: Collection[object]) -> None:
    names = sorted({str(x) for x in known}, key=lambda x: (len(x), x))
    for name in asked:
        if name not in known:
            raise InvalidArgument(
                f"there is no {what} {name} to tune here; there are: {', '.join(names) or 'none'}."
            )
