"""Draws a causal zigzag plan of four ranks as a grid of queries and keys: docs/zigzag_plan.png.

    python scripts/plan_figure.py [--out docs/zigzag_plan.png]

Nothing in it is drawn by hand: colours and numbers are the steps of the plans that the ring runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ring_attn_bench.plan.block import Abilities, Form
from ring_attn_bench.plan.layout import Layout
from ring_attn_bench.plan.partition import PARTITIONS
from ring_attn_bench.plan.plans import Plan, plans
from ring_attn_bench.plan.problem import Mask

RANKS, CHUNK = 4, 8
CHUNKS = 2 * RANKS
SHOWN = 1
"""The rank whose rows are outlined."""
COLOURS = ("#D9D9D9", "#56B4E9", "#E69F00", "#009E73")
"""By step; each cell has the step's number too."""
KERNEL = Abilities(frozenset({Form.FULL, Form.CAUSAL, Form.WINDOW}))


def figure(out: Path) -> None:
    """Writes the picture."""
    layout = Layout(PARTITIONS["zigzag"], RANKS, 2 * CHUNK, Mask(causal=True).band, slots=2)
    found = plans(layout, KERNEL)
    assert not isinstance(found, str), found
    mpl.rcParams["font.size"] = 10
    canvas, axes = plt.subplots(figsize=(7.2, 5.6), layout="constrained")
    for plan in found:
        _draw_steps(axes, plan)
    _draw_frame(axes)
    canvas.savefig(out, dpi=160)


def steps_by_pair(plan: Plan) -> dict[tuple[int, int], int]:
    """The step of a rank's plan in which a query's position meets a key's."""
    return {
        (row, key): number
        for number, step in enumerate(plan.steps)
        for launch in step.launches
        for rows in launch.block.rows
        for keys in launch.block.keys
        for row in rows.positions()
        for key in keys.positions()
        if launch.block.band.allows(row - key)
    }


def _draw_steps(axes: Axes, plan: Plan) -> None:
    by_pair = steps_by_pair(plan)
    for (row, key), step in by_pair.items():
        axes.add_patch(Rectangle((key, row), 1, 1, color=COLOURS[step], linewidth=0))
    half = CHUNK / 2
    for row in range(CHUNKS):
        for key in range(row + 1):
            last_of_row, first_of_keys = (row + 1) * CHUNK - 1, key * CHUNK
            if (step := by_pair.get((last_of_row, first_of_keys))) is not None:
                on_diagonal = row == key
                x = key * CHUNK + (half * 0.7 if on_diagonal else half)
                y = row * CHUNK + (half * 1.3 if on_diagonal else half)
                axes.text(x, y, str(step), ha="center", va="center")


def _draw_frame(axes: Axes) -> None:
    size = CHUNKS * CHUNK
    owners = [*range(RANKS), *reversed(range(RANKS))]
    for at in range(CHUNKS + 1):
        axes.plot((at * CHUNK,) * 2, (0, size), (0, size), (at * CHUNK,) * 2, color="white")
    for chunk in (at for at, owner in enumerate(owners) if owner == SHOWN):
        seen = (chunk + 1) * CHUNK
        at, style = (0, chunk * CHUNK), {"fill": False, "linewidth": 2.2, "zorder": 3}
        axes.add_patch(Rectangle(at, seen, CHUNK, clip_on=False, **style))
    middles = [(at + 0.5) * CHUNK for at in range(CHUNKS)]
    labels = [f"{at}, rank {owner}" for at, owner in enumerate(owners)]
    axes.set_xticks(middles, [label.replace(", ", "\n") for label in labels])
    axes.set_yticks(middles, labels)
    axes.tick_params(length=0)
    axes.set(xlim=(0, size), ylim=(size, 0), xlabel="keys: chunk and its owner",
             ylabel="queries: chunk and the rank that computes it")  # fmt: skip
    swatches = [Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS]
    says = [
        "step 0 of rank r: own keys",
        *(f"step {i}: keys of rank r - {i}" for i in range(1, RANKS)),
    ]
    axes.legend(swatches, says, loc="upper right", frameon=False)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/zigzag_plan.png"))
    mpl.use("agg")
    figure(parser.parse_args().out)


if __name__ == "__main__":
    main()
