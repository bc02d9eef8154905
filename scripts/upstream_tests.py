"""flash-attn's own tests, run against our functions: a sample of each, on a GPU.

    git clone --branch v2.8.3 https://github.com/Dao-AILab/flash-attention
    python scripts/upstream_tests.py flash-attention [--each 100] [--seed 0] [--processes 8]
        [--backend triton] [--file tests/test_flash_attn.py] [-k EXPRESSION]

What the tests import as `flash_attn` are our functions; what lies beside flash-attn's own (padding,
rotary) is that checkout's, and needs einops. Of each test function `--each` cases are run; which
follows from the seed. All but one thing is asked as it stands: our third value is the signs of what
was dropped, without flash-attn's weights beside them, so the reference's own weights stand where a
test would work them out.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import os
import subprocess
import sys
from collections import defaultdict
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[1]
OURS = "flash_attn", "flash_attn.flash_attn_interface"
"""What of flash-attn is ours while its tests run."""


def stand_in(theirs: Path, backend: str) -> None:
    """Puts our functions, by one backend, where `theirs`, a checkout, has flash-attn's."""
    from ring_attn_bench import flash_attn

    for name in OURS:
        module = ModuleType(name)
        for function in (*flash_attn.__all__, *_passes(flash_attn)):
            setattr(module, function, partial(getattr(flash_attn, function), backend=backend))
        sys.modules[name] = module
    package = sys.modules["flash_attn"]
    package.__path__ = [str(theirs / "flash_attn")]
    interface: Any = sys.modules["flash_attn.flash_attn_interface"]
    interface._get_block_size_n = _no_weights
    interface.USE_TRITON_ROCM = False


def _passes(flash_attn: ModuleType) -> list[str]:
    return [name for name in flash_attn._MODULES if name.startswith("_flash_attn_")]


def _no_weights(*_: object) -> int:
    raise NotImplementedError("weights beside the signs of what was dropped are not ours to give")


def weights_of_the_reference(module: ModuleType) -> None:
    """Has a test file take its reference's weights for those that it would read from S_dmask."""
    given = getattr(module, "normalize_flash_attn_S", None)
    if given is None:
        return
    theirs = inspect.signature(given)

    @wraps(given)
    def normalized(*values: object, **named: object) -> object:
        asked = theirs.bind(*values, **named).arguments
        wanted = inspect.signature(module.attention_ref).parameters
        return module.attention_ref(**{name: asked[name] for name in asked if name in wanted})[1]

    setattr(module, given.__name__, normalized)


class Sample:
    """A plugin of pytest: `each` cases of every test function, and of those every `of`-th."""

    def __init__(self, each: int, seed: int, part: int, of: int) -> None:
        self.each, self.seed, self.part, self.of = each, seed, part, of

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        """Changes a test file before it is read through."""
        if isinstance(collector, pytest.Module):
            weights_of_the_reference(collector.obj)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Leaves the sample of what was collected."""
        taken = set(self.sample([item.nodeid for item in items]))
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in taken])
        items[:] = [item for item in items if item.nodeid in taken]

    def sample(self, names: list[str]) -> list[str]:
        """Of test ids those that are run here."""
        by_function = defaultdict(list)
        for name in names:
            by_function[name.partition("[")[0]].append(name)
        some = [
            name
            for cases in by_function.values()
            for name in sorted(cases, key=self._place)[: self.each]
        ]
        return some[self.part :: self.of]

    def _place(self, name: str) -> str:
        # of the case alone, so that the folder of a checkout changes nothing
        case = name.rpartition("::")[2]
        return hashlib.sha256(f"{self.seed} {case}".encode()).hexdigest()


def run(options: argparse.Namespace, sample: Sample) -> int:
    """Runs one part of the sample here; pytest's exit code."""
    sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "backends")]
    stand_in(options.checkout, options.backend)
    arguments = [
        str(options.checkout / options.file), "-q", "--noconftest", "--tb=short",
        "-c", os.devnull, f"--rootdir={options.checkout}", "-p", "no:cacheprovider",
    ]  # fmt: skip
    if options.expression:
        arguments += ["-k", options.expression]
    return int(pytest.main(arguments, plugins=[sample]))


def spread(count: int) -> int:
    """Runs the parts in as many processes; prints what each says at its end; the worst code."""
    command = [sys.executable, *sys.argv]
    parts = [
        subprocess.Popen(
            [*command, "--part", str(i)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]
    codes = []
    for process in parts:
        said, _ = process.communicate()
        lines = said.splitlines()
        shown = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
        print(*shown[:40], *lines[-1:], sep="\n", flush=True)
        codes.append(process.returncode)
    return max(codes, key=abs)


def main() -> None:
    """Exits with 0 only if everything that was run passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkout", type=Path, help="of flash-attention")
    parser.add_argument("--each", type=int, default=100, help="cases of every test function")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="triton")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--file", default="tests/test_flash_attn.py", help="of the checkout")
    parser.add_argument("-k", dest="expression", help="as pytest's")
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.processes > 1 and options.part is None:
        sys.exit(spread(options.processes))
    part = options.part or 0
    sys.exit(run(options, Sample(options.each, options.seed, part, options.processes)))


if __name__ == "__main__":
    main()
