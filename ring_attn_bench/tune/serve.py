"""A tuning process: `-m ring_attn_bench.tune.serve FOLDER PID`, PID being the parent's."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pydantic import BaseModel

from ring_attn_bench.workers.serving import serve


def _worker() -> Callable[[str], BaseModel]:
    from ring_attn_bench.tune.worker import Worker

    return Worker().carry_out


if __name__ == "__main__":
    serve(sys.argv[1:], _worker)
