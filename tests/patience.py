"""How long tests wait: as many times longer as a fresh Python takes here to begin."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import cache

QUIET_START = 2.0
"""Seconds to import torch on a quiet machine, for which the tests' limits are written."""


@cache
def patience() -> float:
    """What limits are multiplied by: 1 where nothing is slow, measured once in a run."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True, capture_output=True)
    return max(1.0, (time.monotonic() - began) / QUIET_START)


def limit(seconds: float) -> float:
    """So many seconds of a quiet machine, in whole ones of this."""
    return float(round(seconds * patience()))
