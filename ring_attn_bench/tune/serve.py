"""A tuning process: `-m ring_attn_bench.tune.serve SOCKET PID`, PID being the parent's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from ring_attn_bench.probe.serve import answer


def _worker() -> Callable[[str], BaseModel]:
    from ring_attn_bench.tune.worker import Worker

    return Worker().carry_out


if __name__ == "__main__":
    answer(Path(sys.argv[1]), int(sys.argv[2]), _worker)
