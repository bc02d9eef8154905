"""A backend's marker as an SVG path, of the same outline as in the pictures."""

from __future__ import annotations

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

_LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
_HALF = 0.42
"""Of a box of 1 x 1: what the outline may fill, with room for its edge."""


def outline(marker: str) -> str:
    """The commands of a path in a box of 1 x 1 around the origin."""
    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    reach = float(np.abs(path.vertices).max()) or 1.0
    parts = []
    for points, code in path.iter_segments(simplify=False):
        if code == Path.CLOSEPOLY:
            parts.append("Z")
            continue
        places = points.reshape(-1, 2) * _HALF / reach
        parts.append(_LETTERS[code] + " ".join(f"{x:.3f} {-y:.3f}" for x, y in places))
    return "".join(parts)
