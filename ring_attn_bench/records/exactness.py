"""What a record says of a result's errors beyond their size, and of what needs no truth."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

from ring_attn_bench.records.values import Frozen


class Precision(Frozen):
    """One result's errors beside what its own dtype allows, over all ranks.

    Standard errors are those of as many independent values: what is within two of them is zero.
    """

    bias: float
    """The mean of result less truth."""
    bias_error: float
    """Its standard error."""
    gain: float
    """How much larger than the truth the result is, as a share: the slope of the error over the
    truth. Rounding towards zero, or a scale that is out, shows here and not in the bias."""
    gain_error: float
    """Its standard error."""
    floor_rmse: float
    """What rounding the truth once to the result's dtype costs; 0 where that is the truth's."""
    ulps_max: float
    """The largest error in units in the last place of the result's dtype, at the true value, or
    at the root of the mean square of all of them where it is smaller than that."""
    ulps_p99: float
    """What 99 % of the errors are at most, in these units; to 5 %."""


class Departure(Frozen):
    """How far one result is from what it must be by an invariant, over all ranks."""

    max_abs: float | None
    """None if a value is not finite where it should be."""
    rmse: float | None
    allowed_max_abs: float
    """In the result's own unit; 0: not a bit may differ."""
    allowed_rmse: float

    @property
    def is_kept(self) -> bool:
        """Whether it is within what is allowed."""
        if self.max_abs is None or self.rmse is None:
            return False
        if not (isfinite(self.allowed_max_abs) and isfinite(self.allowed_rmse)):
            return False
        return self.max_abs <= self.allowed_max_abs and self.rmse <= self.allowed_rmse


ROWS_SUM_TO_ONE = "rows_sum_to_one"
DV_SUMS_TO_DOUT = "dv_sums_to_dout"
KEYS_PERMUTED = "keys_permuted"
HEADS_APART = "heads_apart"
BATCH_APART = "batch_apart"
DOCUMENTS_APART = "documents_apart"
INVARIANTS = {
    ROWS_SUM_TO_ONE: "where every v is 1, every out is too",
    DV_SUMS_TO_DOUT: "all dv add up to all dout, as a share of the sizes of dv",
    KEYS_PERMUTED: "keys and values in another order change nothing",
    HEADS_APART: "other inputs of the last head change no other head",
    BATCH_APART: "other inputs of the last batch entry change no other",
    DOCUMENTS_APART: "other inputs of every second document change no other",
}
"""What holds at any length, by name, in words."""
Invariants = dict[str, dict[str, Departure]]
"""By invariant and result; one that says nothing of a case is not here."""


def of_results(invariants: Invariants | None, names: Iterable[str]) -> Invariants | None:
    """What they say of these results."""
    if invariants is None:
        return None
    wanted = frozenset(names)
    said = {
        invariant: {name: x for name, x in results.items() if name in wanted}
        for invariant, results in invariants.items()
    }
    return {invariant: results for invariant, results in said.items() if results}
