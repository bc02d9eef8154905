"""Makes hostile and merely odd calls of every public function, and judges each.

    python scripts/hostile_calls.py [--calls 20000] [--seed 0] [--backend NAME ...] [--device cuda]
    python scripts/hostile_calls.py --rings [--calls 1000] [--seed 0]

A call is right, by a float64 truth of its own; or refused, in a sentence of ours; or raw, a
traceback from inside; or wrong. Of what is raw or wrong, each kind is printed with its smallest
call, and there must be none. Unjudged are calls that are accepted and whose numbers are beyond
float32. On a CPU `triton` is interpreted, in a process of its own, and gets a twentieth of the
calls. On another device everything is made there by default, the truth too.

--rings: calls of packed documents on one to four ranks instead, on gloo, with mistakes on one rank
or on all. Each call that failed is printed as it is asked (tests/hostile/ring_answers.py).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
SHARE = 20
"""Calls for each of the interpreter's, which takes as much longer."""


def hostile(seed: int, calls: int, backends: tuple[str, ...], device: str) -> bool:
    """Makes the calls here and prints what came of them; whether all was well."""
    import torch

    torch.set_default_device(device)
    from tests.hostile.campaign import report, run

    began = time.monotonic()
    tally = run(seed, calls, backends)
    taken = time.monotonic() - began
    print(f"{', '.join(backends)}: {calls:,} calls of seed {seed} in {taken:.0f} s")
    print(report(tally), flush=True)
    return not tally.failures


def interpreted(seed: int, calls: int) -> bool:
    """The same of `triton` in a process that interprets it."""
    command = [sys.executable, __file__, "--backend", "triton", "--inside",
               "--calls", str(calls), "--seed", str(seed)]  # fmt: skip
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environment, check=False).returncode == 0


def on_rings(seed: int, calls: int) -> bool:
    """Makes the calls on rings of one to four processes; whether all was well."""
    from tests.distributed.pool import RankPool
    from tests.hostile.ring_campaign import run

    pool = RankPool(4)
    try:
        tally = run(seed, calls, pool)
    finally:
        pool.close()
    print(tally, flush=True)
    return not tally.failures


def main() -> None:
    """Exits with 0 only if nothing was raw or wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, help="default: 20,000, and 1,000 on rings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", action="append", help="may be repeated")
    parser.add_argument("--device", default="cpu", help="where tensors are made (default: cpu)")
    parser.add_argument("--rings", action="store_true", help="packed documents, several ranks")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "backends")]
    if options.rings:
        sys.exit(not on_rings(options.seed, options.calls or 1000))
    calls = options.calls or 20_000
    names = options.backend or ["reference", "aten", "triton"]
    all_here = options.inside or options.device != "cpu"
    here = tuple(name for name in names if name != "triton" or all_here)
    good = not here or hostile(options.seed, calls, here, options.device)
    if "triton" in names and not all_here:
        good &= interpreted(options.seed, max(1, calls // SHARE))
    sys.exit(not good)


if __name__ == "__main__":
    main()
