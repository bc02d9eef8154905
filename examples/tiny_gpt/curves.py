"""Loss curves held against float64, with plain PyTorch as the measure; kept as CSV and a plot."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

TIMES_PLAIN = 3.0
"""A curve may be as many times as far from float64 as plain PyTorch has been up to that step."""
FLOOR = {"float32": 2e-6, "bfloat16": 2e-2}
"""And that far in any case, in nats: 8 units of a loss from 2 to 4 in float32, 1 in bfloat16."""

NEAR = 5
"""Steps."""

STYLES = ("-", "--", ":", "-.")
COLOURS = ("#000000", "#E69F00", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
"""Okabe and Ito's palette, which the colour-blind can tell apart (jfly.uni-koeln.de/color)."""


@dataclass(frozen=True)
class Curve:
    """The loss of each step of one way and seed, in nats."""

    name: str
    seed: int
    losses: tuple[float, ...]

    def distances(self, truth: Curve) -> list[float]:
        """How far from the truth at each step."""
        return [abs(a - b) for a, b in zip(self.losses, truth.losses, strict=True)]


def bounds(plain: Curve, truth: Curve, dtype: str) -> list[float]:
    """How far from float64 a curve may be at each step: training repeats what a step got wrong."""
    farthest, allowed = 0.0, []
    for distance in plain.distances(truth):
        farthest = max(farthest, distance)
        allowed.append(max(TIMES_PLAIN * farthest, FLOOR[dtype]))
    return allowed


def first_beyond(curve: Curve, truth: Curve, allowed: list[float]) -> int | None:
    """The first step at which a curve is too far from float64; a NaN is."""
    pairs = zip(curve.distances(truth), allowed, strict=True)
    return next((step for step, (far, bound) in enumerate(pairs) if not far <= bound), None)


def first_outside(ours: list[Curve], theirs: list[Curve]) -> int | None:
    """The first step at which two means lie farther apart than their seeds do around it.

    ours, theirs: the same seeds of two ways. Around: of `NEAR` steps on either side the one where
    they differ most, for three numbers also are alike by chance.
    """
    spreads = [high - low for low, high in ranges(theirs)]
    for step, (mine, other) in enumerate(zip(means(ours), means(theirs), strict=True)):
        allowed = max(spreads[max(0, step - NEAR) : step + NEAR + 1])
        if not abs(mine - other) <= allowed:
            return step
    return None


def means(seeds: list[Curve]) -> list[float]:
    """At each step the mean loss of all seeds."""
    return [sum(step) / len(seeds) for step in zip(*(x.losses for x in seeds), strict=True)]


def ranges(seeds: list[Curve]) -> list[tuple[float, float]]:
    """At each step the lowest loss of all seeds and the highest."""
    return [(min(step), max(step)) for step in zip(*(x.losses for x in seeds), strict=True)]


def spread(curves: list[Curve]) -> float:
    """How far the last losses of some seeds lie apart."""
    last = [curve.losses[-1] for curve in curves]
    return max(last) - min(last)


def write_csv(path: Path, curves: list[Curve]) -> None:
    """A line for each curve, seed and step."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["curve", "seed", "step", "loss"])
        for curve in curves:
            for step, loss in enumerate(curve.losses):
                lines.writerow([curve.name, curve.seed, step, repr(loss)])


def draw(path: Path, curves: list[Curve], allowed: list[float]) -> None:
    """The curves of the first seed, and their distances from float64 with the bound.

    Of several seeds also what lies between the lowest and the highest of each way, and the mean.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    truth = curves[0]
    by_way = {x.name: [y for y in curves if y.name == x.name] for x in curves}
    count = 3 if any(len(seeds) > 1 for seeds in by_way.values()) else 2
    figure, panels = pyplot.subplots(
        count, figsize=(8, 4 * count), sharex=True, layout="constrained"
    )
    above, below = panels[:2]
    for place, (name, seeds) in enumerate(by_way.items()):
        look = {"linestyle": STYLES[place % len(STYLES)], "color": COLOURS[place % len(COLOURS)]}
        above.plot(seeds[0].losses, label=name, **look)
        if name != truth.name:
            below.plot(seeds[0].distances(truth), label=name, **look)
        if count > 2:
            low, high = zip(*ranges(seeds), strict=True)
            panels[2].fill_between(range(len(low)), low, high, color=look["color"], alpha=0.15)
            panels[2].plot(means(seeds), label=f"{name}, {len(seeds)} seeds", **look)
    below.plot(allowed, color="#999999", linewidth=1, label="allowed")
    above.set(ylabel="loss (nats)", title="The same training by each attention")
    below.set(ylabel="distance from float64 (nats)", yscale="log")
    if count > 2:
        panels[2].set(ylabel="mean of the seeds, and their range (nats)")
    panels[-1].set(xlabel="step")
    for panel in panels:
        panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
