"""By how much two medians differ, and how much of that is noise.

The binomial interval of a report (`statistics.median_interval`) is that of one run's samples, and
two runs of one program differ by more than their samples say: of 65 rows whose code was the same
the medians' logarithms differ by 2.6 to 3.8 times their standard errors (median absolute deviation)
at 2K to 8K tokens per GPU. So to what a bootstrap says of the samples a spread between runs is
added, of each run: that of `statistics.between_runs`, with what the samples' tails say of their
interquartile range. With it 64 of the 65 have their zero inside the interval of 95 %. Where a side
has several runs, what they show goes in beside that assumption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import erfc, exp, expm1, hypot, inf, isinf, log1p, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ring_attn_bench.records.statistics import CONFIDENCE, SHARED, between_runs

Floats = NDArray[np.float64]
DRAWS = 2000
SEED = 1
FEWEST = 3
"""Times of a run, below which nothing is said of them."""
SHORTEST = 1e-9
"""Milliseconds: what is shorter is no time of a call."""
TOGETHER = 0.5
"""How much of a row's own spread between runs others share. On a CPU with other work 40 rows of two
runs of one program moved by 32 % together, each within its own spread of 41 %."""
LEFT = 0.25
"""How much of that is not shared by other people's rings in the same run."""
TAIL = NormalDist().inv_cdf(0.75) / NormalDist().inv_cdf(0.9)
NOISY = 0.1
"""A standard error of a row's own, above which a host decides its time, or whoever else is
there."""
ENOUGH, MOST = 20, 0.9
"""Rows that say how much noise there is; and the share of them that have not changed."""
LEAST_SHOWN, MOST_SHOWN = 0.4, 2.0
"""How far what they say is believed, in standard errors."""
OF_A_ROW = 0.6
"""Degrees of freedom: that quantile is as well known as the standard deviation of 0.64 times as
many rows."""
BELIEF = 4
"""How many runs the assumed spread is worth beside those that there are."""
OF_A_TIME = 0.4
"""Degrees of freedom: an interquartile range is as well known as the standard deviation of 0.37
times as many."""
BEYOND = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
LEAST_ERROR = 1e-9
"""Of a change: times that are all alike, and no spread between runs, leave none to divide by."""
_MOST_LOG = 500.0
"""A logarithm of which there is still a number, also in percent."""


def share(log: float) -> float:
    """By how much more that is, as a share: 0.02 is 2 %."""
    return expm1(min(log, _MOST_LOG))


@dataclass(frozen=True, slots=True)
class Change:
    """Of a time, as logarithms of after over before.

    low, high: hold it with 95 % confidence, spread between runs included. error: its standard
    error; shared: the part of it that other rows of the same runs share; degrees: of freedom, how
    well it is known itself.
    """

    log: float
    low: float
    high: float
    error: float
    shared: float
    degrees: float = inf

    @property
    def ratio(self) -> float:
        """After over before."""
        return exp(self.log)

    @property
    def shows(self) -> float:
        """The smallest change that would not pass for noise here, as a share: 0.02 is 2 %."""
        return share(_beyond(self.degrees) * self.error)

    @property
    def p(self) -> float:
        """How probable a change as large as this is where there is none."""
        return erfc(_as_normal(abs(self.log) / self.error, self.degrees) / sqrt(2))

    def is_beyond(self, log: float) -> bool:
        """Whether it is larger than that with 95 % confidence, up or down."""
        return self.low > log or self.high < -log

    @property
    def own(self) -> float:
        """The part of the standard error that no other row has."""
        return sqrt(max(self.error**2 - self.shared**2, 0.0))


def change(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], shared: float = SHARED
) -> Change | None:
    """Between the medians of times, a list for each run; None where there are too few.

    shared: how far all rows of a run may be from another run's.
    """
    if not before or not after or not all(map(_enough, (*before, *after))):
        return None
    random = np.random.default_rng(SEED)
    old, new = (_Medians.of(runs, random) for runs in (before, after))
    middle = new.middle - old.middle
    runs = 1 / len(before) + 1 / len(after)
    between, common = sqrt(_variance(old, new, shared) * runs), shared * sqrt(runs)
    drawn = new.drawn - old.drawn
    error = max(hypot(between, float(np.std(drawn))), LEAST_ERROR)
    common = min(common, between)
    estimated = (error**2 - common**2) / error**2
    times = sum(map(len, (*before, *after)))
    degrees = inf if estimated < 1e-6 else times * OF_A_TIME / estimated**2
    wide = random.standard_t(min(degrees, 1e6), DRAWS) * between
    drawn = middle + drawn - float(np.mean(drawn)) + wide
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(x) for x in np.quantile(drawn, (tail, 1 - tail)))
    return Change(middle, low, high, error, common, degrees)


def _as_normal(t: float, degrees: float) -> float:
    """Wallace (1959), Bounds on normal approximations to Student's and the chi-square."""
    if isinf(degrees):
        return t
    return (8 * degrees + 1) / (8 * degrees + 3) * sqrt(degrees * log1p(t**2 / degrees))


def _beyond(degrees: float) -> float:
    """The other way: how many standard errors are beyond 95 %."""
    if isinf(degrees):
        return BEYOND
    bent = BEYOND * (8 * degrees + 3) / (8 * degrees + 1)
    return sqrt(degrees * expm1(bent**2 / degrees))


def _enough(times: Sequence[float]) -> bool:
    return len(times) >= FEWEST and min(times) > SHORTEST


@dataclass(frozen=True, slots=True)
class _Medians:
    """Of a side's runs. drawn: means of their bootstrapped logarithms, less the mean itself.
    assumed: variances between runs, by the samples' own spread."""

    medians: Floats
    drawn: Floats
    own_spreads: tuple[float, ...]

    @classmethod
    def of(cls, runs: Sequence[Sequence[float]], random: np.random.Generator) -> _Medians:
        logs = [np.log(np.asarray(run, dtype=np.float64)) for run in runs]
        medians = np.array([float(np.median(run)) for run in logs])
        drawn = np.mean([_resampled(run, random) for run in logs], axis=0)
        return cls(medians, drawn, tuple(_width(run) for run in logs))

    @property
    def middle(self) -> float:
        return float(np.mean(self.medians))

    @property
    def squares(self) -> float:
        """Of the runs' distances from their middle."""
        return float(np.sum((self.medians - self.middle) ** 2))


def _variance(old: _Medians, new: _Medians, shared: float) -> float:
    """Between runs of one side: what is assumed, and what several runs show.

    As variances of many small groups are moderated: Smyth (2004), Linear models and empirical Bayes
    methods, section 3.
    """
    spreads = (*old.own_spreads, *new.own_spreads)
    assumed = sum(between_runs(each, shared) ** 2 for each in spreads) / len(spreads)
    seen = len(spreads) - 2
    return (BELIEF * assumed + old.squares + new.squares) / (BELIEF + seen)


def _width(logs: Floats) -> float:
    """As `statistics.spread`, in logarithms; where a tail is wider than a normal distribution's
    would be, as wide as such a one's: samples of another run may have more of it."""
    low, first, third, high = (float(x) for x in np.quantile(logs, (0.1, 0.25, 0.75, 0.9)))
    return max(third - first, (high - low) * TAIL)


def _resampled(logs: Floats, random: np.random.Generator) -> Floats:
    """Medians of as many times, drawn in blocks as long as their autocorrelation asks for."""
    count, length = len(logs), _block(logs)
    starts = random.integers(0, count, (DRAWS, -(-count // length)))
    places = (starts[:, :, None] + np.arange(length)) % count
    drawn: Floats = np.median(logs[places.reshape(DRAWS, -1)[:, :count]], axis=1)
    return drawn


def _block(logs: Floats) -> int:
    """Carlstein (1986), The use of subseries values, for a series of first order; a third of it at
    most, so that there is something to draw from."""
    off = logs - float(np.mean(logs))
    total = float(off @ off)
    if not total:
        return 1
    lag = min(abs(float(off[1:] @ off[:-1])) / total, 0.99)
    length = (sqrt(6) * lag / (1 - lag**2)) ** (2 / 3) * len(logs) ** (1 / 3)
    return max(1, min(round(float(length)), len(logs) // 3))


def together(changes: Sequence[Change]) -> Change:
    """Of several rows of the same two sides: their weighted mean.

    Rows may differ by more than their errors (DerSimonian and Laird 1986, Meta-analysis in clinical
    trials). What they share does not become smaller by their number, and on a noisy machine that is
    more than on a quiet one: half of what a row of them has of its own.
    """
    logs = np.array([each.log for each in changes])
    own = np.array([each.own**2 + 1e-12 for each in changes])
    weights = 1 / own
    scale = weights.sum() - (weights**2).sum() / weights.sum()
    mean = (weights * logs).sum() / weights.sum()
    surplus = float((weights * (logs - mean) ** 2).sum()) - (len(changes) - 1)
    typical = sqrt(len(changes) / float(weights.sum()))
    weights = 1 / (own + (max(0.0, surplus / scale) if len(changes) > 1 else 0.0))
    middle = float((weights * logs).sum() / weights.sum())
    shared = hypot(max(each.shared for each in changes), typical * TOGETHER)
    return _known(middle, hypot(sqrt(float(1 / weights.sum())), shared), shared)


def beside(ours: Change, others: Change) -> Change:
    """What one moved beyond the other in the same runs: of what both share, little is left."""
    rest = max(ours.shared, others.shared) * LEFT
    return _known(ours.log - others.log, hypot(ours.own, others.own, rest), 0.0)


def _known(middle: float, error: float, shared: float) -> Change:
    return Change(middle, middle - BEYOND * error, middle + BEYOND * error, error, shared)


def calibrated(groups: Sequence[Sequence[Change]]) -> list[list[Change]]:
    """The changes of kernels' rows, with as much noise of their own as these rows show.

    Most rows of a kernel have not changed, or all by the same: by how much they lie about their
    median, in standard errors, tells how far those are from what noise there was (Efron 2004,
    Large-scale simultaneous hypothesis testing: the empirical null). Apart for rows that a host
    decides, whose errors become no smaller: it is slow for seconds at a time, in some of a run's
    rows and not in the same of another's.
    """
    steady = _shown(groups, lambda each: each.own <= NOISY)
    busy = max((1.0, inf), _shown(groups, lambda each: each.own > NOISY))
    return [
        [_widened(each, *(busy if each.own > NOISY else steady)) for each in group]
        for group in groups
    ]


def _shown(
    groups: Sequence[Sequence[Change]], belongs: Callable[[Change], bool]
) -> tuple[float, float]:
    """What standard errors are to be multiplied by, and its degrees of freedom; 1 where too few
    rows say so."""
    away: list[float] = []
    free = 0
    for group in groups:
        alike = [each for each in group if belongs(each) and each.own > 0]
        if len(alike) > 1:  # one is its own median, and two lie closer to it than to what is true
            middle = float(np.median([each.log for each in alike]))
            nearer = sqrt(1 - 1 / len(alike))
            away += [abs(each.log - middle) / each.own / nearer for each in alike]
            free += len(alike) - 1
    if free < ENOUGH - 1:
        return 1.0, inf
    # not the median: what a few rows changed by is noise rather than that noise is overlooked
    scale = float(np.quantile(away, MOST)) / NormalDist().inv_cdf((1 + MOST) / 2)
    return min(max(scale, LEAST_SHOWN), MOST_SHOWN), OF_A_ROW * free


def _widened(of: Change, factor: float, free: float) -> Change:
    """With so many times its own error; free: degrees of freedom of that factor."""
    own = of.own * factor
    error = max(hypot(own, of.shared), LEAST_ERROR)
    known = inf if isinf(of.degrees) else of.degrees * (of.own / of.error) ** 4
    doubt = 1 / known + 1 / free
    degrees = inf if not doubt or own < 1e-3 * error else (error / own) ** 4 / doubt
    wider = error * _beyond(degrees) / (of.error * _beyond(of.degrees))
    low, high = (of.log + (edge - of.log) * wider for edge in (of.low, of.high))
    return replace(of, low=low, high=high, error=error, degrees=degrees)


def adjusted(probabilities: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """For as many comparisons as there are: Benjamini and Hochberg (1995).

    Of what is named at 5 %, at most 5 % is named wrongly; where nothing has changed at all, 95 % of
    comparisons name nothing, as with Holm's correction. It is taken and not Holm's because a build
    that slows all rows is then seen in rows that would show it only alone.

    weights: how much is expected of each, by any measure (Genovese, Roeder and Wasserman 2006,
    False discovery control with p-value weighting).
    """
    weights = weights or [1.0] * len(probabilities)
    mean = sum(weights) / max(1, len(weights))
    weighed = [p * mean / weight for p, weight in zip(probabilities, weights, strict=True)]
    order = sorted(range(len(weighed)), key=lambda at: weighed[at], reverse=True)
    corrected, least = [1.0] * len(weighed), 1.0
    for place, at in enumerate(order):
        least = min(least, weighed[at] * (len(order) / (len(order) - place)))
        corrected[at] = max(least, probabilities[at])
    return corrected
