"""Imports cost nothing until used: what only a fresh process can show."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

from tests.patience import limit
from tests.source_tree import NO_TORCH, ROOTS, TORCH, modules, split, table

KERNEL_PACKAGES = (
    "triton",
    "flash_attn",
    "flash_attn_interface",
    "flashinfer",
    "cutlass",
    "ring_flash_attn",
    "yunchang",
    "transformers",
)


def printed_by(code: str) -> str:
    """What a new Python prints when it runs the code from the checkout."""
    paths = [str(root) for root in ROOTS.values()]
    command = [sys.executable, "-c", f"import sys\nsys.path[:0] = {paths}\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit(120))
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """The modules that are loaded when a new Python has run the code."""
    return set(printed_by(f"{code}\nprint(*sys.modules, sep='\\n')").split())


def heavy(loaded: set[str], *packages: str) -> list[str]:
    """Of the modules loaded, those of the packages, and any backend."""
    backends = {name for name in loaded if name.startswith("ring_attn_backends.")}
    return sorted(backends | loaded.intersection(packages))


def importing(*parts: str) -> str:
    """Statements that import every module there is of those parts of ring_attn_bench."""
    wanted = [name for name in modules() if split(name)[0] == "ring_attn_bench"]
    chosen = [name for name in wanted if split(name)[1] in parts and name not in TORCH]
    return "\n".join(f"import {name}" for name in chosen)


def test_importing_the_package_loads_no_torch_and_no_kernel():
    code = "import ring_attn_bench, ring_attn_bench.flash_attn"
    assert heavy(loaded_by(code), "torch", *KERNEL_PACKAGES) == []


def test_importing_plans_and_contracts_loads_no_torch_and_no_kernel():
    assert heavy(loaded_by(importing(*NO_TORCH)), "torch", *KERNEL_PACKAGES) == []


def test_importing_records_report_and_cli_loads_no_torch():
    assert (
        heavy(loaded_by(importing("records", "report", "advise", "compare", "cli")), "torch") == []
    )


def test_touching_every_public_name_loads_no_kernel_and_no_cuda():
    code = """
import ring_attn_bench
from ring_attn_bench import flash_attn
for package in (ring_attn_bench, flash_attn):
    for name in dir(package):
        getattr(package, name)
torch = sys.modules.get("torch")
assert torch is None or not torch.cuda.is_initialized(), "CUDA was initialised"
"""
    assert heavy(loaded_by(code), *KERNEL_PACKAGES) == []


def test_reading_the_table_loads_no_backend():
    code = "from ring_attn_bench import registry\nassert registry.backends()"
    assert heavy(loaded_by(code), "torch") == []


@cache
def failed_imports() -> dict[str, str]:
    """What of the table cannot be imported without any kernel's package, and why.

    All in one process, because each imports torch; they do not import each other.
    """
    code = "".join(f"sys.modules[{package!r}] = None\n" for package in KERNEL_PACKAGES)
    code += f"""
import importlib, json
failed = {{}}
for target in {sorted(set(table().values()))!r}:
    module, _, attribute = target.partition(":")
    try:
        getattr(importlib.import_module(module), attribute)
    except BaseException as error:
        failed[target] = repr(error)
print(json.dumps(failed))
"""
    found: dict[str, str] = json.loads(printed_by(code).splitlines()[-1])
    return found


@pytest.mark.parametrize("target", table().values())
def test_a_backend_can_be_imported_where_its_kernel_is_not_installed(target):
    if target.partition(":")[0] not in modules():
        pytest.skip(f"there is no {target}")
    assert failed_imports().get(target) is None
