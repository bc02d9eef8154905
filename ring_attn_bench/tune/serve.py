"""A tuning process: `-m ring_attn_bench.tune.serve FOLDER PID`, PID being the parent's."""

from __future__ import annotations

import sys
from importlib import import_module

from ring_attn_bench.workers.serving import serve

if __name__ == "__main__":
    serve(sys.argv[1:], lambda: import_module("ring_attn_bench.tune.worker").TuneWorker().carry_out)
